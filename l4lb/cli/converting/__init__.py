"""``l4lb convert``: configurations of other load balancers."""
