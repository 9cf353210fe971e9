"""Configurations of other load balancers as that of l4lb: read, mapped, written. Reads the files that they name; the
command is `l4lb convert`."""
