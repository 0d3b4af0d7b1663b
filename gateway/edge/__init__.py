"""What stands between the network and the functions: bounds on requests, rates, headers, TLS."""
