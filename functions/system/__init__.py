"""Who may call, and whether all is well."""
