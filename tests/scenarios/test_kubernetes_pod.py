"""l4lb within what the manifests' pods allow it: their user, no capabilities, no new privileges, a read-only root.

No cluster runs here; a mount namespace and setpriv(1) make what a container runtime makes of the securityContext.
"""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.scenarios.test_kubernetes_manifests import WORKLOADS, configuration, container_of, pod_of
from tests.support import forking
from tests.support.peers import connect, echo, read_exactly, serving
from tests.support.programs import free_port, l4lb, require
from tests.support.users import directory_of_all, interpreter_of_all, require_root, rights_of

pytestmark = pytest.mark.external

ROOM = """
set -e
mount --types tmpfs --options mode=0777 l4lb-test '{run}'
mount --options remount,ro,bind /
test ! -w /
exec "$@"
"""  # an emptyDir is open to every user


def restricted(kind: str, run: Path) -> list[str]:
    """A command that starts the one after it as the kubelet has it started."""
    pod, container = pod_of(kind)["securityContext"], container_of(kind)["securityContext"]
    assert container["readOnlyRootFilesystem"] is True
    assert container["allowPrivilegeEscalation"] is False
    assert container["capabilities"] == {"drop": ["ALL"]}
    identity = [f"--reuid={pod['runAsUser']}", f"--regid={pod['runAsGroup']}", "--clear-groups"]
    nothing = ["--inh-caps=-all", "--bounding-set=-all", "--no-new-privs"]
    apart = [require("unshare"), "--mount", "--propagation", "private", "sh", "-c", ROOM.format(run=run), "sh"]
    return [*interpreter_of_all(), *apart, require("setpriv"), *identity, *nothing]


@pytest.mark.parametrize("kind", WORKLOADS)
def test_it_serves_answers_and_drains(kind: str) -> None:
    """A session that is open when SIGTERM comes ends by itself, and then the pod."""
    require_root()
    port, admin = free_port(), f"127.0.0.1:{free_port()}"
    with directory_of_all() as directory, serving(echo) as one:
        run, file = directory / "run", directory / "lb.toml"
        run.mkdir()
        text = configuration().replace(":8443", f"127.0.0.1:{port}")
        file.write_text(text.replace("[pools.web]\n", f'[pools.web]\nbackends = ["{one.address}"]\n'))
        arguments = [str(file) if word == "/etc/l4lb/lb.toml" else word for word in container_of(kind)["args"]]
        environment = {"RUNTIME_DIRECTORY": str(run), "KUBERNETES_SERVICE_HOST": ""}
        within = restricted(kind, run)
        with l4lb(*arguments, "--admin", admin, environment=environment, within=within) as process:
            process.wait_for("backend up")
            rights = rights_of(process.process.pid).values()
            assert {one.uids[1] for one in rights} == {pod_of(kind)["securityContext"]["runAsUser"]}
            assert {(one.permitted, one.effective, one.no_new) for one in rights} == {(0, 0, True)}
            assert forking.run("health", "--timeout", "30s", environment={"L4LB_ADMIN": admin}).returncode == 0
            with connect(("127.0.0.1", port)) as sock:
                sock.sendall(b"before")
                assert read_exactly(sock, 6) == b"before"
                process.signal(signal.SIGTERM)
                process.wait_for("draining sessions=1")
                assert forking.run("health", "--timeout", "30s", environment={"L4LB_ADMIN": admin}).returncode == 1
                sock.sendall(b"after")
                assert read_exactly(sock, 5) == b"after"
            assert process.wait() == 0, process.log
