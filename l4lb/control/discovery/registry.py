"""The sources by type. A new one is one module and one line here, with its options in `config/options/discovery.py`;
other packages add theirs as entry points."""

from __future__ import annotations

from l4lb.config.options.callables import load_discovery
from l4lb.control.discovery.consul import follow_consul
from l4lb.control.discovery.dns import follow_dns
from l4lb.control.discovery.etcd import follow_etcd
from l4lb.control.discovery.exec import follow_exec
from l4lb.control.discovery.file import follow_file
from l4lb.control.discovery.kubernetes import follow_kubernetes
from l4lb.control.discovery.sources import Source
from l4lb.control.discovery.srv import follow_srv

SOURCES: dict[str, Source] = {
    "file": follow_file,
    "exec": follow_exec,
    "dns": follow_dns,
    "srv": follow_srv,
    "etcd": follow_etcd,
    "consul": follow_consul,
    "kubernetes": follow_kubernetes,
}


def source_of(type_: str) -> Source:
    """ValueError when one of another package cannot be loaded."""
    return SOURCES.get(type_) or load_discovery(type_)
