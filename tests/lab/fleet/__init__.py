"""A fleet of three balancers behind a router, on one machine."""
