"""What Nereid does: one file, one function."""
