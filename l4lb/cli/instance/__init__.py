"""The commands that ask or change a running instance through its admin API."""
