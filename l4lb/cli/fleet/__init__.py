"""``l4lb fleet``: the commands for several balancers with one configuration, which is in etcd."""
