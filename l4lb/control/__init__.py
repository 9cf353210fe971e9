"""The control plane: desired and observed state become snapshots here. One asyncio loop on one thread; no client bytes.

It knows the forwarder only by `l4lb.model.forwarder.Forwarder`.
"""
