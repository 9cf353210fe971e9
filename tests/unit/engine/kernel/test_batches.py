"""Flows are read in batches, which the kernel may cut short or refuse: all are counted and found all the same, once.

The answers of tests/native/batches.c are those of the kernel's __htab_map_lookup_and_delete_batch, which come when two
CPUs meet in a map, or by chance of its hash: nothing that a test could bring about."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("l4lb._native.kernel", reason="built without clang and libbpf")

from tests.support.programs import require, without_preload

FLOWS = 6000  # more than one batch
# A map of flows, all of them there and each of another client: what reading them says.
READ = """
import json, sys
from array import array
from l4lb._native import kernel, kernel_flows
from l4lb._native.specs import FlowFilter
from l4lb.engine.kernel import layout
from l4lb.engine.kernel.attaching import images
_, maps = kernel.load(images()["xdp"], "l4lb_xdp", {"tcp_flows": 1 << 14}, {})
fd, count = maps["tcp_flows"].number, int(sys.argv[1])
flow = (7).to_bytes(8, "little") + b"".join(one.to_bytes(4, "little") for one in (3, 9, 5)) + bytes(4)
for number in range(count):
    kernel.update(fd, number.to_bytes(16, "big") + bytes(20), flow)
wanted = FlowFilter(6, array("Q", [0]) * layout.SERVICES_MAX, array("I", [9]) * layout.BACKENDS_MAX)
try:
    counted = kernel_flows.count_flows(fd, wanted)
    matched, found = kernel_flows.find_flows(fd, wanted, count)
except OSError as error:
    print(json.dumps(error.errno))
else:
    print(json.dumps([counted, matched, len({one.client for one in found})]))
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("batches") / "batches.so"
    compiler = shutil.which("cc") or require("gcc")
    source = Path(__file__).parents[3] / "native" / "batches.c"
    command = [
        compiler,
        "-O2",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-shared",
        "-fPIC",
        "-o",
        str(target),
        str(source),
        "-ldl",
    ]
    subprocess.run(command, env=without_preload(), check=True)
    return target


def read(library: Path, how: str) -> object:
    preloaded = f"{os.environ.get('LD_PRELOAD', '')} {library}".strip()
    done = subprocess.run(
        [sys.executable, "-c", READ, str(FLOWS)],
        env={**os.environ, "LD_PRELOAD": preloaded, "BATCHES": how}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(autouse=True)
def rights() -> None:
    if os.geteuid() != 0:
        pytest.skip("maps can be made by root alone")


@pytest.mark.parametrize("how", ["", "busy", "busy-after", "crowded"])
def test_all_flows_are_read_once(how: str, library: Path) -> None:
    assert read(library, how) == [[{"5": FLOWS}, {"3": FLOWS}], FLOWS, FLOWS]


def test_what_cannot_be_read_is_an_error(library: Path) -> None:
    """A bucket that is locked for ever, or never has enough room, too."""
    assert read(library, "always-busy") == errno.EBUSY
    assert read(library, "no-room") == errno.ENOSPC
    assert read(library, "broken") == errno.EFAULT
