"""`/metrics` with the programs that read it: a real Prometheus scrapes, and its tools check what `contrib/` has."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.peers import echo, serving
from tests.support.programs import answers, free_port, l4lb, program, require, run
from tests.support.traffic import sessions
from tests.support.waiting import wait_until
from tests.unit.control.reporting.test_families import CONTRACT

pytestmark = pytest.mark.external
CONTRIB = Path("contrib").resolve()
CONFIG = """
[admin]
bind = "{admin}"
token_file = "{token}"
[listeners.web]
bind = "127.0.0.1:0"
pool = "web"
[pools.web]
backends = ["{backend}"]
health = {{ type = "tcp", interval = "200ms" }}
"""
PROMETHEUS = """
global: {{ scrape_interval: 500ms, scrape_timeout: 500ms }}
rule_files: ["{rules}"]
scrape_configs:
  - job_name: l4lb
    authorization: {{ credentials_file: "{token}" }}
    static_configs: [{{ targets: ["{admin}"] }}]
"""


@contextlib.contextmanager
def scraped(tmp_path: Path) -> Iterator[tuple[tuple[str, int], str, str]]:
    """`l4lb serve` and a Prometheus that scrapes it: the listener's address, the admin API's, Prometheus'."""
    token, file, rules = tmp_path / "token", tmp_path / "lb.toml", CONTRIB / "prometheus/alerts.yml"
    token.write_text("secret")
    admin = f"127.0.0.1:{free_port()}"
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(serving(echo))
        file.write_text(CONFIG.format(admin=admin, token=token, backend=server.address))
        process = stack.enter_context(l4lb("serve", "-c", str(file), "--admin", admin))
        process.wait_for("backend up")
        (tmp_path / "prometheus.yml").write_text(PROMETHEUS.format(rules=rules, token=token, admin=admin))
        port = free_port()
        options = [f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data"]
        options += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"]
        stack.enter_context(program("prometheus", options, port, tmp_path / "prometheus.log"))
        assert wait_until(lambda: is_ready(f"127.0.0.1:{port}")), (tmp_path / "prometheus.log").read_text()
        yield process.address("web"), admin, f"127.0.0.1:{port}"


def is_ready(prometheus: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(f"http://{prometheus}/-/ready", timeout=20):
        return True
    return False


def query(prometheus: str, expression: str) -> list[dict[str, Any]]:
    """An instant vector; AssertionError with what is wrong with the expression."""
    url = f"http://{prometheus}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
    with contextlib.suppress(urllib.error.HTTPError), urllib.request.urlopen(url, timeout=20) as answer:
        return json.load(answer)["data"]["result"]
    raise AssertionError(f"not an expression: {expression}")


def value(prometheus: str, expression: str) -> float | None:
    found = query(prometheus, expression)
    return float(found[0]["value"][1]) if found else None


def expressions() -> list[str]:
    """Of the dashboard's panels, with its variables filled in."""
    dashboard = json.loads((CONTRIB / "grafana/l4lb.json").read_text())
    found = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    return [re.sub(r'"\$(job|instance|pool)"', '".*"', one).replace("$__rate_interval", "30s") for one in found]


def test_a_real_prometheus_scrapes_what_clients_counted(tmp_path: Path) -> None:
    require("prometheus")
    with scraped(tmp_path) as (address, _, prometheus):
        assert wait_until(lambda: value(prometheus, "up") == 1)
        counted = sessions(address, 300)
        assert wait_until(lambda: value(prometheus, 'sum(l4lb_session_closed_total{reason="normal"})') == 300)
        for direction, own in (("up", counted.sent), ("down", counted.received)):
            assert value(prometheus, f'sum(l4lb_bytes_total{{direction="{direction}"}})') == own
        for name, (kind, labels) in CONTRACT.items():
            if name == "l4lb_dropped_total":  # of UDP: no series without a datagram
                continue
            found = query(prometheus, f"{name}_count" if kind == "histogram" else name)
            assert found, name
            assert all(labels <= set(one["metric"]) for one in found), found
        assert value(prometheus, "histogram_quantile(0.99, sum by (le) (l4lb_session_seconds_bucket))") is not None
        shown = {expression: query(prometheus, expression) for expression in expressions()}
        unused = ("l4lb_dropped_total", "> 0", "access_log", "changes", "l4lb_backend_max_sessions")
        empty = [one for one, found in shown.items() if not found and not any(word in one for word in unused)]
        assert len(shown) >= 30
        assert wait_until(lambda: all(query(prometheus, one) for one in empty)), empty


@pytest.mark.parametrize("accept", ["text/plain", "application/openmetrics-text; version=1.0.0"])
def test_promtool_finds_nothing_wrong_with_the_text(accept: str, tmp_path: Path) -> None:
    promtool = require("promtool")
    admin = f"127.0.0.1:{free_port()}"
    with l4lb("serve", "--listen", "127.0.0.1:0", "--backend", "127.0.0.1:1", "--admin", admin) as process:
        process.wait_for("admin listening")
        text = run("curl", "-s", "-f", "-H", f"Accept: {accept}", f"http://{admin}/metrics")
    if accept == "text/plain":  # promtool does not read the other one
        done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    else:
        assert text.endswith("# EOF\n")


def test_the_alerts_are_sound_and_fire_when_they_should() -> None:
    run("promtool", "check", "rules", str(CONTRIB / "prometheus/alerts.yml"))
    run("promtool", "test", "rules", str(CONTRIB / "prometheus/alerts_test.yml"))


def test_all_that_alerts_and_dashboard_name_is_there(tmp_path: Path) -> None:
    """A misspelt metric makes an alert that never fires."""
    admin = f"127.0.0.1:{free_port()}"
    with l4lb("serve", "--listen", "127.0.0.1:0", "--backend", "127.0.0.1:1", "--admin", admin) as process:
        process.wait_for("admin listening")
        assert wait_until(lambda: answers(int(admin.rpartition(":")[2])))
        text = run("curl", "-s", "-f", f"http://{admin}/metrics")
    known = set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))
    named = re.findall(r"\b((?:l4lb|process)_\w+)", (CONTRIB / "prometheus/alerts.yml").read_text())
    named += re.findall(r"\b((?:l4lb|process)_\w+)", " ".join(expressions()))
    assert len(set(named)) > 20
    assert {name.removesuffix("_bucket") for name in named} <= known
