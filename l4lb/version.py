"""The version. pyproject.toml reads it from here, without running this."""

__version__ = "0.1.0"
