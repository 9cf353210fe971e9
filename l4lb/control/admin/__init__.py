"""The admin API over HTTP, on a unix socket or TCP."""
