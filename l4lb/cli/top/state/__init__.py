"""What ``l4lb top`` knows: answers of the instance, lists and their order, columns and cells. Pure."""
