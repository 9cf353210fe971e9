"""Configuration: models, units, loading and checking. Reads files; opens no sockets."""

from l4lb.config.flags import Flags
from l4lb.config.health import HealthConfig
from l4lb.config.loader import build_backend, from_flags, load, loads
from l4lb.config.models import (
    AdminConfig,
    AgentConfig,
    Backend,
    Config,
    GlobalConfig,
    KeepaliveConfig,
    Listener,
    PassiveConfig,
    Pool,
)

__all__ = [
    "AdminConfig",
    "AgentConfig",
    "Backend",
    "Config",
    "Flags",
    "GlobalConfig",
    "HealthConfig",
    "KeepaliveConfig",
    "Listener",
    "PassiveConfig",
    "Pool",
    "build_backend",
    "from_flags",
    "load",
    "loads",
]
