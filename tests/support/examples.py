"""The examples in the README and in docs/: blocks of code with the marks before them, and a place where they are run.

A mark is a comment on the line before the block:

    <!-- not run: WHY -->        it cannot be run in a test, or another test does, which is named
    <!-- file: NAME -->          its text is that file, in the directory where the page's examples run
    <!-- before: COMMAND -->     what has to happen first, and no reader needs to see

The place is a network of its own, with the addresses that the pages use on its loopback, and directories of its own in
place of /etc, /run, /var/lib and /var/log. What is started there ends with it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.programs import require, without_preload

ADDRESSES = ("10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.11", "10.0.0.12")
ENDS_WITHIN_S = 1200
_FENCE = re.compile(
    r"^(?P<marks>(?: *<!-- [^\n]*? -->\n)*)(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
_MARK = re.compile(r"<!-- (not run|file|before): (.*?) -->")
_MADE = "== made"
# Paths are those of the pages; $1 is a directory, and $2 the programs'.
_PLACE = """
set -e
ip link set lo up
for address in {addresses}; do ip address add $address/32 dev lo; done
mkdir "$1/over"
mount -t tmpfs over "$1/over"
mkdir "$1/over/etc" "$1/over/work"
mount -t overlay etc -o lowerdir=/etc,upperdir="$1/over/etc",workdir="$1/over/work" /etc
for directory in /run /var/lib /var/log; do mount -t tmpfs own $directory; done
mkdir -p /etc/l4lb /etc/keepalived /etc/nginx /var/lib/l4lb
cd "$1"
export HOME="$1" PATH="$2:$PATH" PYTHONPATH="$1" ETCDCTL_API=3 ETCDCTL_ENDPOINTS=http://10.0.0.11:2379
echo {made}
soon() {{
  for try in $(seq 300); do "$@" >"$HOME/said" 2>&1 && return; sleep 0.2; done
  echo "did not come true: $*"; cat "$HOME/said"; "$@"
}}
"""


@dataclass(frozen=True)
class Block:
    """Of code. `line` is that of its fence; `why_not`: why it is not run."""

    page: Path
    line: int
    language: str
    text: str
    why_not: str = ""
    file: str = ""
    before: str = ""
    marked: bool = False

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [_block(page, text, found) for found in _FENCE.finditer(text)]


def _block(page: Path, text: str, found: re.Match[str]) -> Block:
    marks = dict(_MARK.findall(found["marks"]))
    own = re.sub(rf"^{found['indent']}", "", found["text"], flags=re.MULTILINE)
    line = text.count("\n", 0, found.end("marks")) + 1
    return Block(page, line, found["language"], own, marks.get("not run", ""), marks.get("file", ""),
                 marks.get("before", ""), bool(found["marks"].strip()))  # fmt: skip


def run_in_a_place(directory: Path, script: str, addresses: tuple[str, ...] = ADDRESSES) -> str:
    """What the Bash script prints, with its errors; fails when one of its commands does. Skips the test, with the
    reason, where namespaces cannot be made."""
    for program in ("unshare", "ip", "curl", *(("etcd", "etcdctl") if "etcd " in script else ())):
        require(program)
    if os.geteuid() != 0:
        pytest.skip("namespaces can be made by root alone")
    command = ["unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child", "bash", "-c"]
    place = _PLACE.format(addresses=" ".join(addresses), made=_MADE)
    words = [*command, place + script, "place", str(directory), str(Path(sys.executable).parent)]
    done = subprocess.run(
        words, env=without_preload(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, timeout=ENDS_WITHIN_S, check=False,
    )  # fmt: skip
    made, _, said = done.stdout.partition(f"{_MADE}\n")
    if _MADE not in done.stdout:
        pytest.skip(f"no place of its own can be made for examples: {made.strip()}")
    assert done.returncode == 0, said
    return said


def as_script(block: Block) -> str:
    """Bash that runs the block; what would not end runs in the background, until it is ready."""
    lines = [block.before] if block.before else []
    for line in block.text.splitlines():
        serves = re.match(r"l4lb serve\b.*", line) and not line.rstrip().endswith("&")
        lines += [f"{line} &", "soon l4lb health"] if serves else [line]
    return "\n".join([f"echo '== {block}'", *lines, ""])
