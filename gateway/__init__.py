"""How Nereid runs: the only code that opens sockets."""
