"""Configuration: options, the rules between them, reading with all errors at once. Reads files; opens no sockets."""

from l4lb.config.config import Config, from_flags, load, loads
from l4lb.config.options.access import PerSourceConfig
from l4lb.config.options.discovery import DiscoveryConfig
from l4lb.config.options.health import HealthConfig
from l4lb.config.options.listener import KeepaliveConfig, Listener
from l4lb.config.options.models import AgentConfig, Backend, PassiveConfig, Pool
from l4lb.config.options.process import AdminConfig, GlobalConfig
from l4lb.config.options.routes import Route
from l4lb.config.reading.flags import Flags
from l4lb.config.reading.loader import build_backend

__all__ = [
    "AdminConfig",
    "AgentConfig",
    "Backend",
    "Config",
    "DiscoveryConfig",
    "Flags",
    "GlobalConfig",
    "HealthConfig",
    "KeepaliveConfig",
    "Listener",
    "PassiveConfig",
    "PerSourceConfig",
    "Pool",
    "Route",
    "build_backend",
    "from_flags",
    "load",
    "loads",
]
