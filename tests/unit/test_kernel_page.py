"""docs/kernel.md says what is: its commands are those that the lab runs or `l4lb check` prints, its numbers are the
programs' own, its links lead somewhere."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

import pytest

from l4lb.config import Config
from l4lb.control.changes.in_kernel import kernel_needs
from tests.lab.cells import FAMILIES, MODES
from tests.lab.network import PAGE, commands, on_lan

TEXT = PAGE.read_text(encoding="utf-8")
LAYOUT = Path("l4lb/_kernel/layout.h").read_text(encoding="utf-8")
TUNNEL = """
[listeners.web]
bind = "203.0.113.10:80"
pool = "web"
engine = "kernel"
mode = "tunnel"
[pools.web]
policy = "maglev"
backends = ["10.0.0.1:80"]
"""


def limit(name: str) -> int:
    found = re.search(rf"^#define {name} (\d+|\(1 << (\d+)\))", LAYOUT, re.MULTILINE)
    assert found is not None, name
    return 1 << int(found[2]) if found[2] else int(found[1])


def test_all_commands_that_change_a_host_are_run_or_printed() -> None:
    changing = re.compile(r"^(ip (-6 )?(addr|link|route) \w+|sysctl -w)", re.MULTILINE)
    for before, block in re.findall(r"([^\n]*)\n```\n(.*?)```", TEXT, re.DOTALL):
        if changing.search(block):
            assert re.fullmatch(r"<!-- (check|(router|balancer|backend) \w+ IPv[46]) -->", before), block


@pytest.mark.parametrize("family", FAMILIES)
def test_each_host_of_the_lab_has_commands(family: int) -> None:
    assert len(commands("router", "any", family)) == len(commands("balancer", "any", family)) == 1
    for mode in MODES.values():
        assert len(commands("backend", mode.topic, family)) == 1


def test_commands_that_open_a_tunnel_are_those_that_check_prints(tmp_path: Path) -> None:
    (tmp_path / "lb.toml").write_text(TUNNEL)
    printed = "\n".join(kernel_needs(Config.load(tmp_path / "lb.toml")))
    (block,) = re.findall(r"<!-- check -->\n```\n(.*?)```", TEXT, re.DOTALL)
    (reduced,) = commands("backend", "advmss", 4)
    for line in block.splitlines():
        assert f"`{line}`" in printed
    assert f"`{reduced.split(' via 10.0.0.254 ')[1].strip()}`" in printed


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("known flows of TCP, and as many of UDP", "FLOWS_MAX"),
        ("handshakes: connections whose second packet has not come", "HANDSHAKES_MAX"),
        ('connection ids of QUIC clients (`hash_key = "quic_cid"`)', "QUIC_IDS_MAX"),
        ("flows by full NAT, of both protocols together, as their backends see them", "TRANSLATIONS_MAX"),
        ("the same of flows whose second packet has not come", "HANDSHAKES_MAX"),
        ("fragmented packets on their way", "FRAGMENTS_MAX"),
        ("addresses of listeners", "SERVICES_MAX"),
        ("backends, and those that were removed and still have flows", "BACKENDS_MAX"),
        ("backends of nat, for their answers", "BACKENDS_MAX"),
        ("networks in lists and bans of all listeners", "DENIED_MAX"),
    ],
)
def test_sizes_are_those_of_the_programs(words: str, name: str) -> None:
    assert f"| {words} | {limit(name):,} |" in TEXT


def maps_open_here() -> dict[str, int]:
    """How many bytes each takes, by its number."""
    found = {}
    for path in Path("/proc/self/fdinfo").iterdir():
        with contextlib.suppress(FileNotFoundError):
            fields = dict(re.findall(r"^(map_id|memlock):\t(\d+)$", path.read_text(), re.MULTILINE))
            if "map_id" in fields:
                found[fields["map_id"]] = int(fields["memlock"])
    return found


def test_maps_take_what_it_says() -> None:
    """As the kernel counts; what belongs to each CPU is there for two in the page."""
    kernel = pytest.importorskip("l4lb._native.kernel", reason="built without clang and libbpf")
    from l4lb.engine.kernel.attaching import images
    from l4lb.engine.kernel.forwarding import KernelForwarder

    if os.geteuid() != 0:
        pytest.skip("maps are made by root alone")
    before = maps_open_here()
    forwarder = KernelForwarder(images())
    taken = sum(size for number, size in maps_open_here().items() if number not in before)
    forwarder.close()
    counts = 2 * 48 * limit("SERVICES_MAX")
    said = re.search(r"they take (\d+) MiB in all", TEXT)
    assert said is not None
    assert (taken - (kernel.CPUS - 2) * counts) / 2**20 == pytest.approx(int(said[1]), abs=3)


def test_as_many_slots_as_it_says() -> None:
    pytest.importorskip("l4lb._native.kernel", reason="built without clang and libbpf")
    from l4lb.engine.kernel.forwarding import SLOTS
    from l4lb.engine.kernel.slots import words_of

    assert f"| slots of hash tables of all pools | {SLOTS:,}, or twice as many as the tables have | 2 |" in TEXT
    assert f"Up to {words_of(SLOTS) // words_of(65537) // 2} such pools have room at the start" in TEXT


def test_what_can_become_of_packets_is_explained() -> None:
    pytest.importorskip("l4lb._native.kernel", reason="built without clang and libbpf")
    from l4lb.engine.kernel.layout import Verdict

    table = TEXT[TEXT.index("| verdict |") : TEXT.index("Then by what you see")]
    assert set(re.findall(r"^\| (\w+) \|", table, re.MULTILINE)) - {"verdict"} == {one.name.lower() for one in Verdict}


def test_examples_are_configurations(tmp_path: Path) -> None:
    first, source, second = re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)
    for mode in ("nat", "dsr", "tunnel"):
        (tmp_path / "lb.toml").write_text(first.replace('mode = "nat"', f'mode = "{mode}"'))
        assert Config.load(tmp_path / "lb.toml").listeners["web"].mode == mode
    (tmp_path / "lb.toml").write_text(first.replace("[pools.web]\n", source))
    assert Config.load(tmp_path / "lb.toml").pools["web"].source_address == on_lan("balancer", 4)
    (tmp_path / "lb.toml").write_text(second)
    assert Config.load(tmp_path / "lb.toml").pools["web"].send_proxy == "v2"


def test_links_lead_somewhere() -> None:
    titles = re.findall(r"^#+ (.*)$", TEXT, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-") for title in titles}
    for target in re.findall(r"\]\((?!https:)([^)]+)\)", TEXT):
        if target.startswith("#"):
            assert target[1:] in anchors, target
        else:
            assert (PAGE.parent / target).exists(), target
    assert "docs/kernel.md" in Path("README.md").read_text(encoding="utf-8")
