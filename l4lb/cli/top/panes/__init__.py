"""What ``l4lb top`` shows: a module for each list, and the details of an item. Pure."""
