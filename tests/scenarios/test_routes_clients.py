"""Real clients of several kinds find their servers by the routes of one port: curl, openssl, Chromium, psql, sftp."""

from __future__ import annotations

import contextlib
import getpass
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from l4lb import Config, Listener, LoadBalancer, Pool, Route
from l4lb.config import AdminConfig, GlobalConfig
from l4lb.model.states import CloseReason
from tests.support.balancing import NO_CHECKS, address_of, closed, wait_idle
from tests.support.browser import chromium, visiting
from tests.support.datagrams import address_pair
from tests.support.peers import read_exactly, serving
from tests.support.programs import free_port, program, require, run, without_preload
from tests.support.servers import (
    Program,
    certificate,
    directory_for,
    nginx_site,
    postgres,
    postgres_program,
)

pytestmark = [pytest.mark.external, pytest.mark.usefixtures("browser")]

WEB, API, SHOP = "www.l4lb.example", "api.l4lb.example", "*.shop.l4lb.example"
TRUSTED = {"accept_proxy": "any", "proxy_trusted": ["127.0.0.0/8"]}


@contextlib.contextmanager
def routing(
    pools: dict[str, str], *routes: dict[str, Any], listener: Any = None, **pool: Any
) -> Iterator[LoadBalancer]:
    """A balancer with one backend in each of `pools`; the first is the listener's own."""
    config = Config(
        global_=GlobalConfig(workers=2),
        admin=AdminConfig(bind="off"),
        listeners={
            "web": Listener(
                bind="127.0.0.1:0",
                pool=next(iter(pools)),
                routes=[Route(**one) for one in routes],
                **(listener or {}),
            )
        },
        pools={name: Pool(backends=[address], health=NO_CHECKS, **pool) for name, address in pools.items()},
    )
    with LoadBalancer(config) as balancer:
        yield balancer


def port_of(balancer: LoadBalancer) -> int:
    return address_pair(address_of(balancer))[1]


def sessions_of(balancer: LoadBalancer) -> dict[str, int]:
    return {name: pool.sessions_total for name, pool in balancer.stats().pools.items()}


def answer(name: str, http: str = "1.1", tls: str = "1.3", *, again: bool = False) -> str:
    """What a site says: its name, the protocols, and whether it knew the TLS session."""
    return f"{name} HTTP/{http} TLSv{tls} {'r' if again else '.'}"


class Sites:
    """nginx servers with TLS, each with a certificate of its own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._stack = contextlib.ExitStack()
        self._count = 0

    def add(self, name: str, listen: str = "ssl") -> tuple[str, str]:
        """The address of another site, and the file with its certificate."""
        self._count += 1
        directory = self._directory / str(self._count)
        directory.mkdir()
        certs = certificate(directory, name)
        extra = f"ssl_protocols TLSv1.2 TLSv1.3; ssl_certificate {certs[0]}; ssl_certificate_key {certs[1]};"
        extra += f'location = / {{ return 200 "{name} $server_protocol $ssl_protocol $ssl_session_reused"; }}'
        return self._stack.enter_context(nginx_site(listen, extra)).address, certs[0]

    def add_plain(self, name: str) -> str:
        """The address of one without TLS."""
        extra = f'location = / {{ return 200 "{name} $server_protocol"; }}'
        return self._stack.enter_context(nginx_site(extra=extra)).address

    def close(self) -> None:
        self._stack.close()


@pytest.fixture
def sites(tmp_path: Path) -> Iterator[Sites]:
    made = Sites(tmp_path)
    try:
        yield made
    finally:
        made.close()


# ---- curl ----


def curl(balancer: LoadBalancer, name: str, *options: str, scheme: str = "https") -> str:
    """The page that curl gets from `name`, which is where the balancer listens."""
    port = port_of(balancer)
    where = ["--noproxy", "*", "--resolve", f"{name}:{port}:127.0.0.1", f"{scheme}://{name}:{port}/"]
    return run("curl", "-sS", "-m", "30", *options, *where)


def test_curl_sees_the_certificate_of_the_name_it_asks_for(sites: Sites) -> None:
    (web, of_web), (api, of_api), (shop, of_shop) = (sites.add(name) for name in (WEB, API, SHOP))
    routes = [{"sni": API, "pool": "api"}, {"sni": SHOP, "pool": "shop"}]
    with routing({"web": web, "api": api, "shop": shop}, *routes) as balancer:
        assert curl(balancer, WEB, "--cacert", of_web) == answer(WEB)
        assert curl(balancer, API, "--cacert", of_api) == answer(API)
        assert curl(balancer, API.upper(), "--cacert", of_api) == answer(API)
        assert curl(balancer, "one.shop.l4lb.example", "--cacert", of_shop) == answer(SHOP)
        assert curl(balancer, "nobody.l4lb.example", "--insecure") == answer(WEB), "no route has this name"
        wait_idle(balancer)
        assert sessions_of(balancer) == {"web": 2, "api": 2, "shop": 1}


@pytest.mark.parametrize("newest", ["1.2", "1.3"])
def test_curl_gets_http2_where_it_offers_it(sites: Sites, newest: str) -> None:
    (old, of_old), (new, of_new) = sites.add(WEB), sites.add(WEB, "ssl http2")
    with routing({"old": old, "new": new}, {"alpn": ["h2"], "pool": "new"}) as balancer:
        assert curl(balancer, WEB, "--cacert", of_new, "--http2", "--tls-max", newest) == answer(WEB, "2.0", newest)
        assert curl(balancer, WEB, "--cacert", of_old, "--http1.1", "--tls-max", newest) == answer(WEB, "1.1", newest)
        assert curl(balancer, WEB, "--cacert", of_old, "--no-alpn", "--tls-max", newest) == answer(WEB, "1.1", newest)
        wait_idle(balancer)
        assert sessions_of(balancer) == {"old": 2, "new": 1}


def test_curl_without_tls_gets_another_site_of_the_same_port(sites: Sites) -> None:
    web, of_web = sites.add(WEB)
    route = {"starts_with": ["GET ", "HEAD "], "pool": "plain"}
    with routing({"web": web, "plain": sites.add_plain("plain")}, route) as balancer:
        assert curl(balancer, WEB, scheme="http") == "plain HTTP/1.1"
        assert curl(balancer, WEB, "--cacert", of_web) == answer(WEB)


def test_curl_names_its_site_behind_a_proxy_header(sites: Sites) -> None:
    (web, of_web), (api, of_api) = sites.add(WEB), sites.add(API)
    with routing({"web": web, "api": api}, {"sni": API, "pool": "api"}, listener=TRUSTED) as balancer:
        assert curl(balancer, API, "--cacert", of_api, "--haproxy-protocol") == answer(API)
        assert curl(balancer, WEB, "--cacert", of_web, "--haproxy-protocol") == answer(WEB)


# ---- openssl, in pieces ----


@contextlib.contextmanager
def in_pieces(balancer: LoadBalancer, size: int, log: Path) -> Iterator[int]:
    """The port of a socat that passes on what comes, each time no more than `size` bytes."""
    port = free_port()
    listen = f"TCP-LISTEN:{port},bind=127.0.0.1,fork,reuseaddr"
    with program("socat", ["-b", str(size), listen, f"TCP:{address_of(balancer)},nodelay"], port, log):
        yield port


def s_client(port: int, trusted: str, *options: str) -> str:
    """What a site answers to openssl, which knows no certificate but `trusted`."""
    done = subprocess.run(
        [require("openssl"), "s_client", "-quiet", "-connect", f"127.0.0.1:{port}", "-CAfile", trusted,
         "-verify_return_error", *options],
        input="GET / HTTP/1.0\r\n\r\n", env=without_preload(), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.rpartition("\n")[2]


@pytest.mark.parametrize("size", [1, 7])
@pytest.mark.parametrize("tls", ["1.2", "1.3"])
def test_a_handshake_in_small_pieces_completes_with_the_right_site(
    sites: Sites, size: int, tls: str, tmp_path: Path
) -> None:
    (web, of_web), (api, of_api) = sites.add(WEB), sites.add(API)
    with routing({"web": web, "api": api}, {"sni": API, "pool": "api"}) as balancer:
        with in_pieces(balancer, size, tmp_path / "socat.log") as port:
            version = "-tls" + tls.replace(".", "_")
            named = ["-servername", API, "-verify_hostname", API]
            assert s_client(port, of_api, version, *named) == answer(API, "1.0", tls)
            assert s_client(port, of_web, version, "-servername", WEB) == answer(WEB, "1.0", tls)
            assert s_client(port, of_web, version, "-noservername") == answer(WEB, "1.0", tls)


def test_a_session_that_is_taken_up_again_goes_to_the_same_site(sites: Sites, tmp_path: Path) -> None:
    """Its hello has a ticket, behind the name."""
    (web, _), (api, of_api) = sites.add(WEB), sites.add(API)
    with routing({"web": web, "api": api}, {"sni": API, "pool": "api"}) as balancer:
        ticket = str(tmp_path / "ticket")
        named = ["-servername", API, "-verify_hostname", API]
        assert s_client(port_of(balancer), of_api, *named, "-sess_out", ticket) == answer(API, "1.0")
        again = [*named, "-sess_in", ticket]
        assert s_client(port_of(balancer), of_api, *again) == answer(API, "1.0", again=True)
        wait_idle(balancer)
        assert sessions_of(balancer) == {"web": 0, "api": 2}


# ---- a browser ----

HYBRID = re.compile(rb"(\x11\xec|\x63\x99)\x04\xc0")  # X25519MLKEM768, or Kyber before it, and 1216 bytes


def test_a_browser_with_its_large_hello_gets_the_site_it_names(sites: Sites) -> None:
    """Names below localhost are its own host to Chromium."""
    with contextlib.ExitStack() as stack:
        hellos: list[bytes] = []

        def read(sock: socket.socket) -> None:
            head = read_exactly(sock, 5)
            hellos.append(head + read_exactly(sock, int.from_bytes(head[3:])))

        reader = stack.enter_context(serving(read))
        pools = {"web": sites.add("www.localhost")[0], "api": sites.add("api.localhost", "ssl http2")[0]}
        routes = [{"sni": "api.localhost", "pool": "api"}, {"sni": "read.localhost", "pool": "read"}]
        balancer = stack.enter_context(routing({**pools, "read": reader.address}, *routes))
        for name, said in (
            ("api.localhost", answer("api.localhost", "2.0")),
            ("www.localhost", answer("www.localhost")),
            ("other.localhost", answer("www.localhost")),
        ):
            with visiting(f"https://{name}:{port_of(balancer)}", ignore_https_errors=True) as visit:
                assert visit.page.inner_text("body") == said
        with chromium() as browser:
            from playwright.sync_api import Error

            page = browser.new_context(ignore_https_errors=True).new_page()
            with pytest.raises(Error, match="net::ERR_"):
                page.goto(f"https://read.localhost:{port_of(balancer)}")
        assert len(hellos[0]) > 1400, "more than a segment"
        assert HYBRID.search(hellos[0])


# ---- PostgreSQL ----

DATABASE = "select current_setting('cluster_name'), ssl from pg_stat_ssl where pid = pg_backend_pid()"


def psql(balancer: LoadBalancer, name: str, mode: str, trusted: str) -> subprocess.CompletedProcess[str]:
    """psql that asks the cluster at `name`, which is where the balancer listens, who it is and whether over TLS."""
    where = f"host={name} hostaddr=127.0.0.1 port={port_of(balancer)} user=postgres dbname=postgres connect_timeout=30"
    command = [postgres_program("psql"), "-XAt", "-d", f"{where} sslmode={mode} sslrootcert={trusted}", "-c", DATABASE]
    return subprocess.run(command, env=without_preload(), capture_output=True, text=True, timeout=60)


@contextlib.contextmanager
def cluster(cluster_name: str, host: str) -> Iterator[tuple[Program, str]]:
    """With TLS, and the file with its certificate."""
    user = "postgres" if os.geteuid() == 0 else ""
    with directory_for("postgres-tls", user) as directory:
        cert, key = certificate(directory, host)
        if user:
            shutil.chown(key, user, user)
        with postgres(cluster_name=cluster_name, ssl="on", ssl_cert_file=cert, ssl_key_file=key) as program:
            yield program, cert


def test_psql_finds_its_cluster_by_the_name_it_asks_for() -> None:
    with cluster("orders", "orders.l4lb.example") as (orders, of_orders), cluster("others", WEB) as (others, of_others):
        pools = {"others": others.address, "orders": orders.address}
        with routing(pools, {"sni": "orders.l4lb.example", "pool": "orders"}) as balancer:
            for name, mode, trusted, said in (
                ("orders.l4lb.example", "require", "/nowhere", "orders|t"),
                ("orders.l4lb.example", "verify-full", of_orders, "orders|t"),
                ("orders.l4lb.example", "prefer", "/nowhere", "orders|t"),
                ("orders.l4lb.example", "disable", "/nowhere", "others|f"),
                (WEB, "verify-full", of_others, "others|t"),
                ("stranger.l4lb.example", "require", "/nowhere", "others|t"),
            ):
                done = psql(balancer, name, mode, trusted)
                assert done.stdout == f"{said}\n", (name, mode, done.stderr)
            done = psql(balancer, "stranger.l4lb.example", "verify-full", of_orders)
            assert done.returncode == 2, "what it gets is not the cluster whose certificate it knows"
            assert "certificate verify failed" in done.stderr
            wait_idle(balancer)
            assert sessions_of(balancer) == {"others": 4, "orders": 3}


def test_psql_fails_at_a_cluster_without_tls_if_it_insists_and_does_without_otherwise() -> None:
    with postgres(cluster_name="plain") as plain:
        pools = {"others": plain.address, "orders": plain.address}
        with routing(pools, {"sni": "orders.l4lb.example", "pool": "orders"}) as balancer:
            done = psql(balancer, "orders.l4lb.example", "require", "/nowhere")
            assert done.returncode == 2, done.stdout
            wait_idle(balancer)
            assert closed(balancer) == {CloseReason.CONNECT_FAILED: 1}
            assert psql(balancer, "orders.l4lb.example", "disable", "/nowhere").stdout == "plain|f\n"
            assert psql(balancer, "orders.l4lb.example", "prefer", "/nowhere").stdout == "plain|f\n"
            wait_idle(balancer)
            assert closed(balancer)[CloseReason.CONNECT_FAILED] == 2
            assert sum(closed(balancer).values()) == 4


# ---- SSH ----

SSHD = """
ListenAddress 127.0.0.1
Port {port}
HostKey {dir}/host
AuthorizedKeysFile {dir}/own.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
Subsystem sftp internal-sftp
"""


@contextlib.contextmanager
def ssh_server() -> Iterator[Program]:
    """sshd for one user, who runs it: as root's it would need directories that Debian makes. `host` and `own` in its
    directory are its key and that user's."""
    sshd = require("sshd")
    user = "daemon" if os.geteuid() == 0 else ""
    with directory_for("sshd", user) as directory:
        port = free_port()
        for key in ("host", "own"):
            run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(directory / key))
        if user:
            shutil.chown(directory / "host", user, user)
        (directory / "conf").write_text(SSHD.format(dir=directory, port=port))
        server = Program([sshd, "-D", "-e", "-f", str(directory / "conf")], directory, port, user)
        try:
            server.wait_for(lambda: "Server listening" in server.log)
            yield server
        finally:
            server.stop()


def public_key(server: Program) -> str:
    kind, key, *_ = (server.directory / "host.pub").read_text().split()
    return f"{kind} {key}"


def fetch_by_sftp(balancer: LoadBalancer, server: Program, name: str, target: Path) -> None:
    """Log in at the server with the key that it must have, and copy a file of its directory."""
    port, home = port_of(balancer), server.directory
    (home / "known").write_text(f"[127.0.0.1]:{port} {public_key(server)}\n")
    (home / "batch").write_text(f"get {home}/{name} {target}\n")
    options = {
        "UserKnownHostsFile": home / "known", "GlobalKnownHostsFile": "none", "StrictHostKeyChecking": "yes",
        "BatchMode": "yes", "IdentitiesOnly": "yes", "ConnectTimeout": "30",
    }  # fmt: skip
    user = "daemon" if os.geteuid() == 0 else getpass.getuser()
    said = [f"-o{option}={value}" for option, value in options.items()]
    where = ["-P", str(port), "-i", str(home / "own"), "-b", str(home / "batch"), f"{user}@127.0.0.1"]
    run("sftp", "-q", "-F", "none", *said, *where)


def test_ssh_and_tls_share_a_port(sites: Sites, tmp_path: Path) -> None:
    require("sftp")
    (web, of_web), (api, of_api) = sites.add(WEB), sites.add(API)
    with ssh_server() as server:
        content = os.urandom(1 << 20)
        (server.directory / "file").write_bytes(content)
        routes = [{"sni": API, "pool": "api"}, {"starts_with": "SSH-", "pool": "ssh"}]
        with routing({"web": web, "api": api, "ssh": server.address}, *routes) as balancer:
            fetch_by_sftp(balancer, server, "file", tmp_path / "copy")
            assert (tmp_path / "copy").read_bytes() == content
            assert curl(balancer, API, "--cacert", of_api) == answer(API)
            assert curl(balancer, WEB, "--cacert", of_web) == answer(WEB)
            wait_idle(balancer)
            assert sessions_of(balancer) == {"web": 1, "api": 1, "ssh": 1}


@pytest.mark.parametrize("by_source", [True, False])
def test_a_client_that_lets_the_server_speak_first_gets_its_key(sites: Sites, by_source: bool) -> None:
    """ssh-keyscan waits for the server's banner: a route by source alone takes it at once, the listener's own pool
    once the time to say something is over."""
    web, of_web = sites.add(WEB)
    with ssh_server() as server:
        if by_source:
            pools = {"web": web, "ssh": server.address}
            routes = [{"source": "127.0.0.0/8", "pool": "ssh"}]
        else:
            pools = {"ssh": server.address, "web": web}
            routes = [{"sni": WEB, "pool": "web"}]
        with routing(pools, *routes) as balancer:
            scanned = run("ssh-keyscan", "-T", "30", "-t", "ed25519", "-p", str(port_of(balancer)), "127.0.0.1")
            assert scanned.strip().splitlines()[-1].split(" ", 1)[1] == public_key(server)  # a newer one tells more
            if not by_source:
                assert curl(balancer, WEB, "--cacert", of_web) == answer(WEB)
