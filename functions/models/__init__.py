"""Which models serve, and how another one comes to."""
