"""The model repository: what lies in it, and how networks of others become models of it."""
