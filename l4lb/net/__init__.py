"""Network and host: addresses, sockets, names, limits, privileges."""
