"""What the engine uses of the native code beside `l4lb._fastpath`: snapshots, passes, migration, pure functions."""
