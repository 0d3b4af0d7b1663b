"""Camera frames become alerts."""
