"""What a configuration alone tells of an instance that would run it, with every backend up.

Looks no backend's name up: who gets a client does not depend on it.
"""

from __future__ import annotations

from collections.abc import Sequence

from l4lb.config import Config
from l4lb.control.reporting import shapes
from l4lb.control.reporting.explanation import explain_config, explain_listener_config, facts_of
from l4lb.engine.tables import NativeTables


def explain_pool(config: Config, pool: str, source: str, to: str = "") -> shapes.Explanation:
    """As `PoolView.explain`. ConfigError for a listener's name that does not resolve, ValueError for an address that is
    none, KeyError for a pool that is not there."""
    return explain_config(config, pool, source, to, NativeTables())


def explain_listener(
    config: Config,
    listener: str,
    source: str,
    to: str = "",
    *,
    sni: str | None = None,
    alpn: Sequence[str] = (),
    first: str = "",
) -> shapes.ListenerExplanation:
    """As `ListenerView.explain`; errors as `explain_pool`."""
    facts = facts_of(source, sni, alpn, first)
    return explain_listener_config(config, listener, facts, source, to, NativeTables())
