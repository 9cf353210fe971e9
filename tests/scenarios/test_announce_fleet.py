"""A node that is drained by its fleet is announced with the worse MED while it goes on accepting."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from tests.support import forking
from tests.support.etcd import etcd
from tests.support.fleet import config_text, put_config, url
from tests.support.programs import l4lb
from tests.support.routers import ENGINES, router_and_node

pytestmark = pytest.mark.external


def test_a_drained_node_is_announced_as_draining(tmp_path: Path) -> None:
    admin = f"unix:{tmp_path}/admin.sock"
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(etcd())
        put_config(server, config_text())
        router, host = stack.enter_context(router_and_node(tmp_path))
        announcing = ENGINES["bird"](host, tmp_path, admin, ["--rise", "1h"])
        stack.callback(announcing.stop)
        announcing.start()
        process = stack.enter_context(l4lb("serve", "--config", url(server), "--node", "one", "--admin", admin))
        process.wait_for("admin listening")
        router.wait_for(announcing.normal(), announcing.said)
        for verb, expected in (("drain", announcing.draining()), ("resume", announcing.normal())):
            done = forking.run("fleet", verb, "--fleet", url(server), "one")
            assert done.returncode == 0, done.stderr
            router.wait_for(expected, announcing.said)
        announcing.wait_said('announced as draining: node "one" is drained')
