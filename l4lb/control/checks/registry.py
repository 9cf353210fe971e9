"""The checks by type. A new check is one module and one line here; other packages add theirs as entry points."""

from __future__ import annotations

from l4lb.config.options.callables import load_health_check
from l4lb.control.checks.checks import Check
from l4lb.control.checks.dns import check_dns
from l4lb.control.checks.exec import check_exec
from l4lb.control.checks.http import check_http, check_https
from l4lb.control.checks.postgres import check_postgres
from l4lb.control.checks.python import check_python
from l4lb.control.checks.redis import check_redis
from l4lb.control.checks.send_expect import check_send_expect
from l4lb.control.checks.tcp import check_tcp
from l4lb.control.checks.tls import check_tls
from l4lb.control.checks.udp import check_udp

CHECKS: dict[str, Check] = {
    "tcp": check_tcp,
    "send_expect": check_send_expect,
    "tls": check_tls,
    "http": check_http,
    "https": check_https,
    "udp": check_udp,
    "dns": check_dns,
    "redis": check_redis,
    "postgres": check_postgres,
    "exec": check_exec,
    "python": check_python,
}
_SHARED = frozenset(CHECKS) - {"exec", "python"}  # pools share these: the others pass the pool's name on
_NO_PORT_NEEDED = frozenset({"exec", "python"})
_DATAGRAMS = frozenset({"udp", "dns"})


def check_of(type_: str) -> Check:
    """ValueError when a check of another package cannot be loaded."""
    return CHECKS.get(type_) or load_health_check(type_)


def passes_pool_name(type_: str) -> bool:
    return type_ not in _SHARED


def needs_port(type_: str) -> bool:
    return type_ not in _NO_PORT_NEEDED


def is_datagram(type_: str) -> bool:
    return type_ in _DATAGRAMS
