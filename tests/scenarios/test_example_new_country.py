"""examples/new-country as its readers run it, with a GeoIP file that changes and a webhook that is down for a while."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from mmdb_writer import MMDBWriter
from netaddr import IPSet

from tests.support import forking
from tests.support.peers import greeting, read_until_end, serving
from tests.support.programs import L4lb, free_port, l4lb
from tests.support.waiting import wait_until

EXAMPLE = Path("examples/new-country").resolve()
FRANCE, JAPAN, CHILE, NOWHERE = "127.0.1.1", "127.0.2.1", "127.0.3.1", "127.0.0.1"
NETWORKS = {"127.0.1.0/24": "FR", "127.0.2.0/24": "JP"}
OTHER = '\n[listeners.other]\nbind = "127.0.0.1:0"\npool = "web"\n'


class Webhook:
    """A real HTTP server, which keeps what is posted. `status` is its answer."""

    def __init__(self, port: int) -> None:
        self.posted: list[dict[str, str]] = []
        self.status = 200
        self.refused = 0
        webhook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if webhook.status == 200:
                    webhook.posted.append(json.loads(body))
                else:
                    webhook.refused += 1
                self.send_response(webhook.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *arguments: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))
        self._thread.start()

    @property
    def countries(self) -> list[tuple[str, str]]:
        return [(alert["listener"], alert["country"]) for alert in self.posted]

    def stop(self) -> None:
        self.server.shutdown()
        self._thread.join()
        self.server.server_close()


@contextlib.contextmanager
def webhook(port: int) -> Iterator[Webhook]:
    server = Webhook(port)
    try:
        yield server
    finally:
        server.stop()


class Site:
    def __init__(self, directory: Path, backend: str) -> None:
        self.geoip, self.seen = directory / "country.mmdb", directory / "seen.json"
        self.port = free_port()
        self.file = directory / "lb.toml"
        text = (EXAMPLE / "lb.toml").read_text() + OTHER
        self.file.write_text(text.replace("127.0.0.1:8080", "127.0.0.1:0").replace("127.0.0.1:9001", backend))
        self.environment = {
            "PYTHONPATH": f"{EXAMPLE}:{os.getcwd()}",
            "NEW_COUNTRY_GEOIP": str(self.geoip),
            "NEW_COUNTRY_SEEN": str(self.seen),
            "NEW_COUNTRY_URL": f"http://127.0.0.1:{self.port}/alerts",
        }
        self.write_geoip(NETWORKS)

    def write_geoip(self, networks: dict[str, str]) -> None:
        """As geoipupdate does: beside the old one, and then in its place."""
        writer = MMDBWriter(ip_version=6, ipv4_compatible=True, database_type="GeoLite2-Country")
        for network, code in networks.items():
            writer.insert_network(IPSet([network]), {"country": {"iso_code": code}})
        new = self.geoip.with_suffix(".new")
        writer.to_db_file(str(new))
        new.replace(self.geoip)

    @contextlib.contextmanager
    def serving(self) -> Iterator[L4lb]:
        with l4lb("serve", "-c", str(self.file), environment=self.environment) as process:
            process.wait_for("backend up")
            yield process

    def check(self) -> subprocess.CompletedProcess[str]:
        return forking.run("check", str(self.file), environment=self.environment)

    def remembered(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = json.loads(self.seen.read_text()) if self.seen.exists() else {}
        return found


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with serving(greeting(b"hello")) as backend:
        yield Site(tmp_path, backend.address)


def session(process: L4lb, client: str, listener: str = "web") -> None:
    with socket.create_connection(process.address(listener), timeout=30, source_address=(client, 0)) as sock:
        assert read_until_end(sock) == (b"hello", False)


def alerted(process: L4lb, country: str, listener: str = "web") -> None:
    process.wait_for(f"warning session from a new country listener={listener} country={country} client=")


def test_a_country_is_reported_once_and_after_a_restart_not_again(site: Site) -> None:
    with webhook(site.port) as hook:
        with site.serving() as process:
            for client in (NOWHERE, FRANCE, FRANCE):
                session(process, client)
            alerted(process, "FR")
            session(process, FRANCE, "other")
            alerted(process, "FR", "other")
            assert wait_until(lambda: len(hook.posted) == 2)
            assert hook.countries == [("web", "FR"), ("other", "FR")]
            first = hook.posted[0]
            assert (first["client"], first["close_reason"]) == (FRANCE, "normal")
            assert first["text"] == "first session from FR at listener web: 127.0.1.1"
            assert wait_until(lambda: site.remembered() == {"web": ["FR"], "other": ["FR"]})
            process.signal(signal.SIGHUP)  # loads the module of the hook again
            process.wait_for("reloaded")
            session(process, FRANCE)
            process.signal(signal.SIGTERM)
            assert process.wait() == 0
        with site.serving() as process:
            session(process, FRANCE)
            session(process, JAPAN)
            alerted(process, "JP")
            assert wait_until(lambda: len(hook.posted) == 3)
            assert hook.countries[2] == ("web", "JP")
            assert process.log.count("new country") == 1


def test_alerts_wait_for_the_webhook(site: Site) -> None:
    with site.serving() as process:
        session(process, FRANCE)
        process.wait_for("warning alerts cannot be delivered, they wait reason=.*refused")
        assert site.remembered() == {}
        with webhook(site.port) as hook:
            hook.status = 503
            assert wait_until(lambda: hook.refused)
            session(process, JAPAN)
            alerted(process, "JP")
            hook.status = 200
            assert wait_until(lambda: len(hook.posted) == 2)
            assert hook.countries == [("web", "FR"), ("web", "JP")]
            process.wait_for("alerts are delivered again")
        assert wait_until(lambda: site.remembered() == {"web": ["FR", "JP"]})
        assert process.log.count("alerts cannot be delivered") == 1


def test_what_was_not_delivered_is_reported_after_a_restart(site: Site) -> None:
    with site.serving() as process:
        session(process, FRANCE)
        process.wait_for("alerts cannot be delivered")
        process.signal(signal.SIGTERM)
        assert process.wait() == 0
    with webhook(site.port) as hook, site.serving() as process:
        session(process, FRANCE)
        assert wait_until(lambda: hook.countries == [("web", "FR")])


def test_a_file_that_changes_is_read_and_one_that_is_broken_is_not(site: Site) -> None:
    del site.environment["NEW_COUNTRY_URL"]  # the log only
    with site.serving() as process:
        session(process, FRANCE)
        alerted(process, "FR")
        site.geoip.write_bytes(b"rubbish")
        session(process, JAPAN)
        process.wait_for("warning geoip file cannot be read, the last one goes on path=.* reason=")
        alerted(process, "JP")
        site.geoip.unlink()
        session(process, JAPAN)
        process.wait_for("geoip file cannot be read.* reason=.*No such file")
        site.write_geoip({**NETWORKS, "127.0.3.0/24": "CL"})
        session(process, CHILE)
        process.wait_for("info    geoip file read")
        alerted(process, "CL")
        assert process.log.count("cannot be read") == 2
        assert wait_until(lambda: site.remembered() == {"web": ["CL", "FR", "JP"]})


def test_wrong_settings_are_errors_of_the_configuration(site: Site) -> None:
    assert site.check().returncode == 0
    site.seen.write_text('{"web": "DE"}')
    assert 'seen.json: expected JSON such as {"web": ["DE"]}' in site.check().stderr
    site.seen.unlink()
    site.geoip.write_bytes(b"rubbish")
    assert "country.mmdb: expected a GeoIP database in MaxMind's format" in site.check().stderr
    site.environment["NEW_COUNTRY_URL"] = "chat.example.com"
    assert "NEW_COUNTRY_URL: expected http:// or https://" in site.check().stderr
    site.environment["NEW_COUNTRY_URL"] = ""
    del site.environment["NEW_COUNTRY_GEOIP"]
    failed = site.check()
    assert failed.returncode == 2
    assert "NEW_COUNTRY_GEOIP is not set: expected the path of a file" in failed.stderr
