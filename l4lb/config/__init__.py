"""Configuration: models, units, loading and checking. Reads files; opens no sockets."""

from l4lb.config.flags import Flags
from l4lb.config.health import HealthConfig
from l4lb.config.loader import from_flags, load, loads
from l4lb.config.models import (
    AdminConfig,
    Backend,
    Config,
    GlobalConfig,
    KeepaliveConfig,
    Listener,
    Pool,
)

__all__ = [
    "AdminConfig",
    "Backend",
    "Config",
    "Flags",
    "GlobalConfig",
    "HealthConfig",
    "KeepaliveConfig",
    "Listener",
    "Pool",
    "from_flags",
    "load",
    "loads",
]
