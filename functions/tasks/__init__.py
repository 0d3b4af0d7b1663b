"""The life of every asynchronous task."""
