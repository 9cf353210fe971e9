"""The forwarder that runs in this process: native worker threads behind `l4lb.model.forwarder.Forwarder`."""
