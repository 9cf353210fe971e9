"""The daemons that `l4lb announce` knows, a module each."""
