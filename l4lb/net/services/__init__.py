"""Other systems that are asked over the network: etcd and its like."""
