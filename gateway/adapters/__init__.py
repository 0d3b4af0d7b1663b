"""The ports over the real servers."""
