"""Which policies there are: the built-in ones and those of installed packages."""

from __future__ import annotations

from l4lb import plugins
from l4lb.errors import RAISED_BY_OTHERS
from l4lb.routing.policies import POLICIES, Policy


def policy_names() -> list[str]:
    return [*POLICIES, *(name for name in plugins.names(plugins.POLICIES) if name not in POLICIES)]


def find_policy(name: str) -> Policy:
    """The policy called `name`. ValueError when it is not there or cannot be loaded, with the reason."""
    if name in POLICIES:
        return POLICIES[name]
    try:
        policy = plugins.load(plugins.POLICIES, name)
    except RAISED_BY_OTHERS as error:
        raise ValueError(f"cannot be loaded: {type(error).__name__}: {error}") from error
    if not isinstance(policy, Policy):
        raise ValueError(f"is a {type(policy).__name__}, expected what table_policy or ranking_policy returns")
    return policy
