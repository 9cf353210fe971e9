"""What a configuration alone says of who gets a client."""

from __future__ import annotations

import os
import threading
from array import array
from collections.abc import Sequence

import pytest

from l4lb import Config, Pool
from l4lb.config import HealthConfig
from l4lb.control.reporting.explanation import explain_config
from l4lb.errors import ConfigError
from l4lb.model.snapshot import TableKind
from l4lb.offline import explain_pool
from tests.support.balancing import make_config
from tests.support.tables import PythonTables

BACKENDS = ["127.0.0.1:1", "no.example:2", {"address": "127.0.0.1:3", "admin_state": "drain"}]


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


class Witness(PythonTables):
    """Builds in Python, and notes what there is meanwhile in this process."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []

    def build_table(
        self, kind: TableKind, ids: Sequence[str], weights: Sequence[float], table_size: int, seed: int
    ) -> array[int]:
        self.seen.append((len(descriptors()), threading.active_count()))
        return super().build_table(kind, ids, weights, table_size, seed)


def test_it_takes_no_socket_and_no_thread() -> None:
    """So it answers beside a running instance, and where there is no room for one."""
    witness, before = Witness(), (len(descriptors()), threading.active_count())
    said = explain_config(make_config(BACKENDS, policy="maglev"), "web", "192.0.2.7", "", witness)
    assert witness.seen == [before]
    assert said["chosen"] in ("127.0.0.1:1", "no.example:2")
    assert said["passed_over"] == {"127.0.0.1:3": "admin state drain"}


def test_it_is_the_same_by_whatever_builds_the_tables() -> None:
    config = make_config(BACKENDS, policy="ring")
    assert explain_pool(config, "web", "192.0.2.7") == explain_config(config, "web", "192.0.2.7", "", PythonTables())


@pytest.mark.parametrize("health", [HealthConfig(), HealthConfig(type="none"), HealthConfig(initial="down")])
def test_every_backend_is_as_if_it_were_up(health: HealthConfig) -> None:
    assert len(explain_pool(make_config(BACKENDS, health=health), "web", "192.0.2.7")["candidates"]) == 2


def test_questions_that_have_no_answer() -> None:
    config = make_config(BACKENDS, policy="maglev", hash_key="destination")
    with pytest.raises(KeyError):
        explain_pool(config, "other", "192.0.2.7")
    with pytest.raises(ValueError, match="expected an IP address"):
        explain_pool(config, "web", "here")
    with pytest.raises(ValueError, match="destination"):
        explain_pool(config, "web", "192.0.2.7")


def test_what_would_keep_an_instance_from_starting_is_an_error_here_too() -> None:
    class Failing(PythonTables):
        def build_table(
            self, kind: TableKind, ids: Sequence[str], weights: Sequence[float], table_size: int, seed: int
        ) -> array[int]:
            raise RuntimeError("not these")

    config: Config = make_config(BACKENDS)
    config.pools["other"] = Pool(backends=["127.0.0.1:1"], policy="maglev")
    with pytest.raises(ConfigError, match=r"pools\.other\.policy: RuntimeError: not these"):
        explain_config(config, "web", "192.0.2.7", "", Failing())
