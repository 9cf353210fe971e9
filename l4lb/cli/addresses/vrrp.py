"""``l4lb vrrp-config``: a keepalived.conf that moves addresses between nodes by VRRP, and goes by `l4lb health` and
`l4lb announce keepalived` where they may be."""

from __future__ import annotations

import ipaddress
import math
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import click

from l4lb.cli.addresses.keepalived import TRACK_FILE, Check, Interface, Vrrp, configuration
from l4lb.cli.addresses.options import admin_address, instance_options
from l4lb.cli.addresses.prefixes import Host, checked, parse_host
from l4lb.cli.shared.connection import duration_option

ADVERT_MIN_S, ADVERT_MAX_S = 0.01, 40.95  # RFC 5798, 5.2.7: 12 bits of hundredths of a second
ADDRESSES_MAX = 20  # a VRRP packet of keepalived's has no more; the rest would need virtual_ipaddress_excluded
_PATH = re.compile(r"/[A-Za-z0-9_.,:@/-]+", re.ASCII)
_PLAIN = re.compile(r"[A-Za-z0-9_.,:@/\[\]-]+", re.ASCII)
_INTERFACE = re.compile(r"(?!lo$)[A-Za-z0-9_.-]{1,15}", re.ASCII)  # IFNAMSIZ without its zero byte
_USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}", re.ASCII)


def parse_addresses(texts: Sequence[str]) -> tuple[Interface, ...]:
    found = []
    for text in texts:
        try:
            found.append(ipaddress.ip_interface(text if "/" in text and "%" not in text else ""))
        except ValueError:
            raise ValueError(f'"{text}": expected an address with its prefix, such as 192.0.2.10/24') from None
    if len(found) > ADDRESSES_MAX:
        raise ValueError(f"at most {ADDRESSES_MAX} addresses")
    hosts = [one.ip for one in found]
    if twice := next((one for one in hosts if hosts.count(one) > 1), None):
        raise ValueError(f"{twice} is given twice")
    return tuple(found)


def parse_hosts(texts: Sequence[str]) -> tuple[Host, ...]:
    return tuple(dict.fromkeys(map(parse_host, texts)))


def parse_sources(texts: Sequence[str]) -> tuple[Host, ...]:
    found = parse_hosts(texts)
    if len({one.version for one in found}) < len(found):
        raise ValueError("at most one for IPv4 and one for IPv6")
    return found


def _matching(pattern: re.Pattern[str], expected: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if not pattern.fullmatch(text):
            raise ValueError(f'"{text}": expected {expected}')
        return text

    return parse


def own_program() -> str:
    """The absolute path of this l4lb; empty when it is not found."""
    beside = Path(sys.executable).with_name("l4lb")
    return str(beside) if beside.exists() else shutil.which("l4lb") or ""


def _command(program: str, admin: str, names: Mapping[str, Sequence[str]], min_backends: int, timeout_s: int) -> str:
    """UsageError for words that keepalived would split or take for something else."""
    words = [program, "health", "--admin", admin, "--timeout", f"{timeout_s}s"]
    words += [word for option, values in names.items() for value in values for word in (option, value)]
    words += ["--min-backends", str(min_backends)] if min_backends > 1 else []
    if wrong := next((word for word in words if not _PLAIN.fullmatch(word)), None):
        raise click.UsageError(f'"{wrong}": keepalived is given letters, digits and _.,:@/[]- only')
    return " ".join(words)


def _expect_families(versions: set[int], **given: Sequence[Host]) -> None:
    for option, addresses in given.items():
        if other := next((one for one in addresses if one.version not in versions), None):
            raise click.BadParameter(f"{other}: no --address is of this family", param_hint=f"--{option}")


@click.command(name="vrrp-config")
@click.option(
    "--address", "addresses", multiple=True, required=True, metavar="IP/LENGTH", callback=checked(parse_addresses),
    help="Virtual address, with the length of its network's prefix; may be repeated.",
)  # fmt: skip
@click.option(
    "--interface", required=True, metavar="NAME", help="Where the addresses are, and where nodes talk to each other.",
    callback=checked(_matching(_INTERFACE, "the name of an interface such as eth0, not lo")),
)  # fmt: skip
@click.option(
    "--router-id", type=click.IntRange(1, 255), default=51, show_default=True, metavar="N",
    help="Virtual router: the same on all nodes, and on no other pair in this network.",
)  # fmt: skip
@click.option(
    "--priority", type=click.IntRange(1, 254), default=100, show_default=True, metavar="N",
    help="Who gets the addresses when nobody has them: the highest.",
)  # fmt: skip
@duration_option("--advert-int", "How often the node that has them says so; three such times without are its end.",
                 "200ms")  # fmt: skip
@click.option(
    "--peer", "peers", multiple=True, metavar="IP", callback=checked(parse_hosts),
    help="Another node, told directly instead of by multicast; may be repeated.",
)  # fmt: skip
@click.option(
    "--source", "sources", multiple=True, metavar="IP", callback=checked(parse_sources),
    help="This node's own address for that. Default: the interface's first.",
)  # fmt: skip
@click.option(
    "--program", metavar="FILE", default=own_program, help="Absolute path of l4lb. Default: this one.",
)  # fmt: skip
@click.option(
    "--script-user", default="root", show_default=True, metavar="USER", help="Who runs the check: needs the admin API.",
    callback=checked(_matching(_USER, "the name of a user")),
)  # fmt: skip
@click.option("--interval", type=click.IntRange(1, 3600), default=1, show_default=True, metavar="SECONDS",
              help="How often the check runs.")  # fmt: skip
@click.option("--timeout", type=click.IntRange(1, 3600), default=3, show_default=True, metavar="SECONDS",
              help="How long the instance may take to answer it.")  # fmt: skip
@click.option("--rise", type=click.IntRange(1, 1000), default=3, show_default=True, metavar="N",
              help="So many good checks in a row make a node fit.")  # fmt: skip
@click.option("--fall", type=click.IntRange(1, 1000), default=1, show_default=True, metavar="N",
              help="So many bad ones make it unfit.")  # fmt: skip
@click.option(
    "--track-file", default=TRACK_FILE, show_default=True, metavar="FILE",
    help="Written by `l4lb announce keepalived`, which sees the end of l4lb sooner than the check.",
    callback=checked(_matching(_PATH, "an absolute path of letters, digits and _.,:@/-")),
)  # fmt: skip
@instance_options
def vrrp_config(
    addresses: tuple[Interface, ...],
    interface: str,
    router_id: int,
    priority: int,
    advert_int: float,
    peers: tuple[Host, ...],
    sources: tuple[Host, ...],
    program: str,
    script_user: str,
    interval: int,
    timeout: int,
    rise: int,
    fall: int,
    track_file: str,
    admin: str | None,
    listeners: tuple[str, ...],
    pools: tuple[str, ...],
    min_backends: int,
) -> None:
    """Print a keepalived.conf that moves addresses between nodes by VRRP, and keeps them where l4lb is ready.

    All nodes begin as backups (`nopreempt`): a node that comes back takes nothing from the one that serves. IPv4 and
    IPv6 move together.
    """
    if not ADVERT_MIN_S <= advert_int <= ADVERT_MAX_S or not math.isclose(advert_int * 100, round(advert_int * 100)):
        raise click.BadParameter("expected 10ms to 40.95s, in steps of 10ms", param_hint="--advert-int")
    _expect_families({one.version for one in addresses}, peer=peers, source=sources)
    if sources and not {one.version for one in sources} <= {one.version for one in peers}:
        raise click.BadParameter("goes with a --peer of its family", param_hint="--source")
    if not program.startswith("/"):
        raise click.BadParameter(f'"{program}": expected the absolute path of l4lb', param_hint="--program")
    names = {"--listener": listeners, "--pool": pools}
    command = _command(program, admin_address(admin), names, min_backends, timeout)
    check = Check(command, script_user, interval, timeout + 1, rise, fall)
    vrrp = Vrrp(addresses, interface, router_id, priority, advert_int, check, track_file, peers, sources)
    click.echo(configuration(vrrp), nl=False)
