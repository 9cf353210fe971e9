"""Everything at once, for long, with every byte checked: `make soak`. See tests/soak/__main__.py."""
