"""Every command and example in the README and in docs/ does what it is there for; see tests/support/examples.py."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from tests.support.examples import Block, as_script, blocks, run_in_a_place

PAGES = [Path("README.md"), *sorted(Path("docs").glob("*.md"))]
BLOCKS = {page: blocks(page) for page in PAGES}
RUN = ("toml", "sh", "python")
SHOWN = ("text", "json", "yaml", "ini")  # output, diagrams, files of other programs

CONFIG = """
[listeners.web]
bind = "0.0.0.0:8080"
pool = "web"
[listeners.web.per_source]
sessions = 100
[pools.web]
backends = ["10.0.0.1:8443", "10.0.0.2:8443"]
[pools.web.health]
interval = "200ms"
"""
BACKENDS = """
for at in 1 2; do python3 -m http.server 8443 --bind 10.0.0.$at >backend$at.log 2>&1 & done
"""
WRITTEN = f"cat >lb.toml <<'END'\n{CONFIG}\nEND\n"
INSTANCE = f"""{BACKENDS}{WRITTEN}
l4lb serve -c lb.toml >serve.log 2>&1 &
soon l4lb health
"""
ELSEWHERE = f"""{BACKENDS}{WRITTEN}
export L4LB_ADMIN=unix:/run/instance.sock
l4lb serve -c lb.toml --admin $L4LB_ADMIN >serve.log 2>&1 &
soon l4lb health
"""
ETCD = """
etcd --data-dir etcd --listen-client-urls http://10.0.0.11:2379 --advertise-client-urls http://10.0.0.11:2379 \\
  --listen-peer-urls http://127.0.0.1:0 >etcd.log 2>&1 &
soon etcdctl get /
"""
CONVERTED = Path("tests/convert").resolve()
# What is there before the first example of a page; an instance, on all others.
STAGES = {
    "README.md": BACKENDS,
    "first-steps.md": "",
    "install.md": "",
    "fleet.md": f"{BACKENDS}{ETCD}{WRITTEN}",
    "discovery.md": ETCD,
    "library.md": ELSEWHERE,
    "migration-haproxy.md": f"cp {CONVERTED}/haproxy/galera.cfg haproxy.cfg\n",
    "migration-nginx.md": f"cp {CONVERTED}/nginx/canary.conf /etc/nginx/nginx.conf\n",
}


def of(language: str) -> list[Block]:
    return [block for found in BLOCKS.values() for block in found if block.language == language and not block.why_not]


def pages_with(language: str) -> list[Path]:
    return list(dict.fromkeys(block.page for block in of(language)))


def test_every_block_is_run_or_says_why_not() -> None:
    words = r"l4lb(?! \d)|curl|make|systemctl|docker|kubectl|apt|pip|etcdctl|ip|nft"
    commands = re.compile(rf"^(\$ )?({words}) ", re.MULTILINE)
    for page, found in BLOCKS.items():
        for block in found:
            if block.language == "" and page.name == "kernel.md":
                assert block.marked, f"{block}: the lab runs those that are marked, see tests/lab/network.py"
                continue
            assert block.language in RUN + SHOWN, f"{block}: {block.language}"
            assert block.language != "text" or not commands.search(block.text), f"{block} looks like commands"


def test_tests_that_are_named_instead_are_there() -> None:
    reasons = [block.why_not for found in BLOCKS.values() for block in found if block.why_not]
    for named in re.findall(r"tests/[\w/]+\.py", "\n".join(reasons)):
        assert Path(named).exists(), named


# ---- configurations ----


def completed(data: dict[str, Any]) -> dict[str, Any]:
    """A part of a file as a whole one: with pools that are named, a listener, and the least that each must have."""
    listeners, pools = data.setdefault("listeners", {}), data.setdefault("pools", {})
    for name, listener in listeners.items():
        listener.setdefault("bind", ":8080")
        listener.setdefault("pool", name)
        for one in [listener, *listener.get("routes", [])]:
            for pool in [*one.get("split", {}), *([one["pool"]] if "pool" in one else [])]:
                pools.setdefault(pool, {})
    for name, pool in pools.items():
        if "discovery" not in pool:
            pool.setdefault("backends", ["10.0.0.1:8443"])
        if not listeners:
            listeners["any"] = {"bind": ":8080", "pool": name}
            if pool.get("hash_key") == "quic_cid":
                listeners["any"]["protocol"] = "udp"
    if not pools:
        data |= {
            "listeners": {"any": {"bind": ":8080", "pool": "any"}},
            "pools": {"any": {"backends": ["10.0.0.1:80"]}},
        }
    return data


@pytest.mark.parametrize("page", pages_with("toml"), ids=str)
def test_l4lb_check_takes_every_configuration(page: Path, tmp_path: Path) -> None:
    """With the files that they name, and the modules that the page has."""
    script, files = "", []
    for block in BLOCKS[page]:
        if block.language == "python" and (named := re.match(r"# (\w+\.py)\n", block.text)):
            (tmp_path / named[1]).write_text(block.text)
        if block.language == "toml" and not block.why_not:
            files.append(f"{block.line}.toml")
            (tmp_path / files[-1]).write_text(tomli_w.dumps(completed(tomllib.loads(block.text))))
            for path in re.findall(r"/etc/l4lb/[\w.-]+", block.text):
                script += f"touch {path}\n"
    run_in_a_place(tmp_path, f"{script}l4lb check {' '.join(files)}\n", addresses=())


# ---- commands ----


@pytest.mark.parametrize("page", pages_with("sh"), ids=str)
def test_every_command_works(page: Path, tmp_path: Path) -> None:
    """One after the other, as a reader types them."""
    script = STAGES.get(page.name, INSTANCE)
    for block in BLOCKS[page]:
        if block.file:
            script += written(block)
        elif block.language == "sh" and not block.why_not:
            script += as_script(block)
    said = run_in_a_place(tmp_path, script)
    if page.name == "first-steps.md":
        assert "hello from one" in said
        assert "hello from two" in said
        assert re.search(r"no new sessions: down .*", said)


def written(block: Block) -> str:
    return f"cat >{block.file} <<'END'\n{block.text}\nEND\n"


# ---- programs ----


@pytest.mark.parametrize("page", pages_with("python"), ids=str)
def test_every_program_runs(page: Path, tmp_path: Path) -> None:
    """The blocks of a page are one program; those that begin with the name of a file are modules of it."""
    program = ""
    for block in BLOCKS[page]:
        if block.language == "python" and not block.why_not:
            named = re.match(r"# (\w+)\.py\n", block.text)
            if named:
                (tmp_path / f"{named[1]}.py").write_text(block.text)
            program += f"from {named[1]} import *\n" if named else f"{block.before}\n{block.text}\n"
    (tmp_path / "program.py").write_text(program)
    files = "".join(written(block) for block in BLOCKS[page] if block.file)
    run_in_a_place(tmp_path, f"{STAGES.get(page.name, INSTANCE)}{files}python3 -W error program.py\n")
