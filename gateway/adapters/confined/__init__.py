"""Files from strangers, read in child processes where they can harm nobody (docs/decoding.md)."""
