"""In-memory stand-ins of the ports, each held to the same tests as the real server."""
