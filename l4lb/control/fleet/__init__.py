"""Several balancers with one configuration, which is in etcd: see docs/fleet.md."""
