"""The pool for clients that no route takes, where the source closes their connections."""

from __future__ import annotations

from l4lb.convert.drafting.draft import Draft, Option, Place, Pool

ADDRESS = "127.0.0.1:1"  # tcpmux, where nothing listens: a connection is refused at once
_WHY = "for clients that no route takes: nothing listens there, so that they are reset"


def refusing_pool(draft: Draft, place: Place) -> str:
    """Its name; one is enough."""
    for pool in draft.pools.values():
        if pool.why == _WHY:
            return pool.name
    name = draft.free_pool_name("refused")
    pool = draft.pools[name] = Pool(name, place, _WHY)
    pool.set("connect_attempts", 1, place)
    pool.backends.append(Option({"address": ADDRESS}, place))
    pool.set("health.type", "none", place)
    pool.set("passive.failures", 0, place)
    return name
