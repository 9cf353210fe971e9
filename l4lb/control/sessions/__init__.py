"""Current sessions: listed, ended, drained, banned."""
