"""What l4lb costs beside HAProxy and nginx on the same work. `make bench` runs it and writes RESULTS.md."""
