"""Plain data that every layer shares: states, addresses, snapshots, statistics. No behaviour, no I/O."""
