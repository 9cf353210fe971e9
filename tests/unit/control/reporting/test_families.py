"""Every metric of the contract, with its type and labels, in text that parsers of both formats accept."""

from __future__ import annotations

import contextlib
import http.client
from dataclasses import replace

import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from l4lb import LoadBalancer
from l4lb.config import AdminConfig
from l4lb.control.reporting.access_log import Counts
from l4lb.control.reporting.exposition import exposition
from l4lb.control.reporting.gathered import BackendGathered, Busy, Gathered, ListenerLimits
from l4lb.control.reporting.usage import Usage
from l4lb.control.state.state import DiscoveryState
from l4lb.model.hooks import CloseCounts, HookResult
from l4lb.model.states import CloseReason, ConnectFailure
from l4lb.model.stats import (
    BackendStats,
    BackendTimes,
    Durations,
    Histogram,
    ListenerStats,
    Stats,
    Traffic,
    WorkerStats,
)
from tests.support.balancing import address_of, make_config, wait_idle
from tests.support.peers import connect, one_answer, serving
from tests.support.waiting import wait_until

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
CONTRACT = {
    "l4lb_sessions_active": ("gauge", {"listener"}),
    "l4lb_sessions_total": ("counter", {"listener"}),
    "l4lb_session_closed_total": ("counter", {"listener", "reason"}),
    "l4lb_bytes_total": ("counter", {"pool", "backend", "direction"}),
    "l4lb_datagrams_total": ("counter", {"pool", "backend", "direction"}),
    "l4lb_dropped_total": ("counter", {"listener", "reason"}),
    "l4lb_backend_sessions_active": ("gauge", {"pool", "backend"}),
    "l4lb_backend_sessions_total": ("counter", {"pool", "backend"}),
    "l4lb_backend_up": ("gauge", {"pool", "backend"}),
    "l4lb_backend_weight": ("gauge", {"pool", "backend"}),
    "l4lb_backend_connect_seconds": ("histogram", {"pool", "backend"}),
    "l4lb_backend_first_byte_seconds": ("histogram", {"pool", "backend"}),
    "l4lb_backend_session_seconds": ("histogram", {"pool", "backend"}),
    "l4lb_backend_connect_failures_total": ("counter", {"pool", "backend", "reason"}),
    "l4lb_session_seconds": ("histogram", {"listener"}),
    "l4lb_hook_seconds": ("histogram", set()),
    "l4lb_health_checks_total": ("counter", {"pool", "backend", "result"}),
    "l4lb_health_check_seconds": ("histogram", set()),
    "l4lb_health_lag_seconds": ("gauge", set()),
    "l4lb_queue_length": ("gauge", {"pool"}),
    "l4lb_spliced_bytes_total": ("counter", set()),
    "l4lb_worker_busy_ratio": ("gauge", {"worker"}),
    "l4lb_snapshot_version": ("gauge", set()),
    "l4lb_bans": ("gauge", set()),
    "l4lb_listener_refusing": ("gauge", {"listener"}),
    "l4lb_config_reloads_total": ("counter", {"result"}),
    "process_cpu_seconds_total": ("counter", set()),
    "process_open_fds": ("gauge", set()),
    "process_resident_memory_bytes": ("gauge", set()),
}
HOOKED = {  # where there are hooks
    "l4lb_hook_sessions_total": ("counter", {"listener", "result"}),
    "l4lb_hook_records_total": ("counter", {"result"}),
}
IN_KERNEL = {  # where the kernel forwards for a listener; not in the contract
    "l4lb_packets_total": ("counter", {"pool", "backend", "direction"}),
    "l4lb_kernel_packets_total": ("counter", {"verdict"}),
    "l4lb_listener_packets_total": ("counter", {"listener", "direction"}),
    "l4lb_listener_bytes_total": ("counter", {"listener", "direction"}),
}
DISCOVERED = {  # of pools with a source; not in the contract
    "l4lb_discovery_up": ("gauge", {"pool", "type"}),
    "l4lb_discovery_age_seconds": ("gauge", {"pool", "type"}),
    "l4lb_discovery_backends": ("gauge", {"pool", "type", "kind"}),
    "l4lb_discovery_answers_total": ("counter", {"pool", "type", "result"}),
    "l4lb_discovery_changes_total": ("counter", {"pool", "type"}),
}
LIMITS = {  # not in the contract
    "l4lb_max_sessions": ("gauge", set()),
    "l4lb_listener_max_sessions": ("gauge", {"listener"}),
    "l4lb_listener_session_rate": ("gauge", {"listener"}),
    "l4lb_queue_size": ("gauge", {"pool"}),
    "l4lb_backend_max_sessions": ("gauge", {"pool", "backend"}),
}
MARKED = 'a "name" \\ of\nits own'


def gathered() -> Gathered:
    """One of everything, with a name that needs escaping."""
    time_ = Histogram((0.1, 0.2), (1, 2, 3), 4.5)
    closed = {CloseReason.NORMAL: 5, CloseReason.RATE_LIMITED: 1}
    listener = ListenerStats(
        ("127.0.0.1:80",),
        2,
        8,
        closed,
        time_,
        {"no_backend": 7},
        hooked={HookResult.LATE: 1},
        in_kernel=Traffic(1, None, 2, None),
    )
    backend = BackendStats(1, 6, 10, 20, 3, {ConnectFailure.TIMEOUT: 4}, datagrams_up=11, datagrams_down=12)
    backend = replace(backend, in_kernel=Traffic(3, 4, 5, 6))
    workers = (WorkerStats(spliced_bytes=30, busy_ns=10**9), WorkerStats())
    stats = Stats(3, {MARKED: listener}, {}, workers, max_sessions=36, kernel_packets={"no_route": 8})
    times = BackendTimes(time_, Histogram((0.1, 0.2), (0, 4, 0), 0.6), Histogram((0.1, 0.2), (0, 0, 5), 5.0))
    backends = (BackendGathered("p", "10.0.0.1:80", backend, True, False, 0.5, (13, 14), times, 37),)
    return Gathered(
        stats,
        {MARKED: listener},
        backends,
        {"p": 9},
        {"p": DiscoveryState("file", "no such file", 90.0, found=31, held=32, answers=33, failures=34, changes=35)},
        (0.25, 0.0),
        0.5,
        time_,
        15,
        (16, 17),
        18,
        27,
        False,
        Counts(19, 20, 21),
        CloseCounts(28, 29, 30),
        Usage(22.5, 0.25, 23, 24, 25, 26.0),
        frozenset({MARKED}),
        limits={MARKED: ListenerLimits(38, 39.5), "unlimited": ListenerLimits(0, 0.0)},
        queue_sizes={"p": 40, "other": 0},
        at=100.0,
    )


def families(accept: str = "") -> dict[str, Metric]:
    text, content_type = exposition(gathered(), accept)
    parse = parse_openmetrics if "openmetrics" in content_type else parse_text
    return {family.name: family for family in parse(text.decode())}


@pytest.fixture(params=["", OPENMETRICS])
def parsed(request: pytest.FixtureRequest) -> dict[str, Metric]:
    return families(request.param)


def samples(parsed: dict[str, Metric], name: str) -> dict[tuple[str, ...], float]:
    """By the values of their labels, in the order of the names."""
    every = [sample for family in parsed.values() for sample in family.samples if sample.name == name]
    return {tuple(sample.labels[label] for label in sorted(sample.labels)): sample.value for sample in every}


@pytest.mark.parametrize("name", [*CONTRACT, *HOOKED, *IN_KERNEL, *DISCOVERED, *LIMITS])
def test_every_metric_of_the_contract(parsed: dict[str, Metric], name: str) -> None:
    kind, labels = {**CONTRACT, **HOOKED, **IN_KERNEL, **DISCOVERED, **LIMITS}[name]
    family = parsed[name.removesuffix("_total")]
    assert family.type == kind
    assert family.documentation
    sampled = [one for one in family.samples if one.name in (name, f"{name}_count")]
    assert sampled
    assert {frozenset(one.labels) for one in sampled} == {frozenset(labels)}


def test_values_stand_where_they_belong(parsed: dict[str, Metric]) -> None:
    place = ("10.0.0.1:80",)
    assert samples(parsed, "l4lb_sessions_active") == {(MARKED,): 2}
    assert samples(parsed, "l4lb_discovery_up") == {("p", "file"): 0}
    assert samples(parsed, "l4lb_discovery_age_seconds") == {("p", "file"): 10}
    assert samples(parsed, "l4lb_discovery_backends") == {("found", "p", "file"): 31, ("held", "p", "file"): 32}
    answers = {("p", "success", "file"): 33, ("p", "failure", "file"): 34}
    assert samples(parsed, "l4lb_discovery_answers_total") == answers
    assert samples(parsed, "l4lb_discovery_changes_total") == {("p", "file"): 35}
    closed = samples(parsed, "l4lb_session_closed_total")
    assert {key: count for key, count in closed.items() if count} == {
        (MARKED, "normal"): 5,
        (MARKED, "rate_limited"): 1,
    }
    assert set(closed) == {(MARKED, str(reason)) for reason in CloseReason}  # 0 is told too: rates begin there
    assert samples(parsed, "l4lb_bytes_total") == {(*place, "up", "p"): 10, (*place, "down", "p"): 20}
    assert samples(parsed, "l4lb_datagrams_total") == {(*place, "up", "p"): 11, (*place, "down", "p"): 12}
    assert samples(parsed, "l4lb_packets_total") == {(*place, "up", "p"): 3, (*place, "down", "p"): 4}
    assert samples(parsed, "l4lb_listener_packets_total") == {("up", MARKED): 1}  # down: nobody knows, by dsr
    assert samples(parsed, "l4lb_listener_bytes_total") == {("up", MARKED): 2}
    assert samples(parsed, "l4lb_kernel_packets_total") == {("no_route",): 8}
    assert samples(parsed, "l4lb_dropped_total") == {(MARKED, "no_backend"): 7}
    assert samples(parsed, "l4lb_backend_up") == {(*place, "p"): 1}
    assert samples(parsed, "l4lb_backend_usable") == {(*place, "p"): 0}
    assert samples(parsed, "l4lb_backend_weight") == {(*place, "p"): 0.5}
    assert samples(parsed, "l4lb_backend_connect_failures_total")[*place, "p", "timeout"] == 4
    assert samples(parsed, "l4lb_health_checks_total") == {(*place, "p", "success"): 13, (*place, "p", "failure"): 14}
    assert samples(parsed, "l4lb_config_reloads_total") == {("success",): 16, ("failure",): 17}
    assert samples(parsed, "l4lb_session_seconds_bucket") == {
        ("0.1", MARKED): 1,
        ("0.2", MARKED): 3,
        ("+Inf", MARKED): 6,
    }
    assert samples(parsed, "l4lb_backend_connect_seconds_count") == {(*place, "p"): 6}
    assert samples(parsed, "l4lb_backend_connect_seconds_sum") == {(*place, "p"): 4.5}
    assert samples(parsed, "l4lb_backend_first_byte_seconds_count") == {(*place, "p"): 4}
    assert samples(parsed, "l4lb_backend_session_seconds_count") == {(*place, "p"): 5}
    assert samples(parsed, "l4lb_spliced_bytes_total") == {(): 30}
    assert samples(parsed, "l4lb_access_log_lines_total") == {(): 19}
    assert samples(parsed, "l4lb_access_log_dropped_total") == {("write",): 20, ("ring",): 21}
    told = {("delivered",): 28, ("failed",): 29, ("dropped",): 30}
    assert samples(parsed, "l4lb_hook_records_total") == told


def test_there_is_a_value_for_each_limit_that_there_is(parsed: dict[str, Metric]) -> None:
    assert samples(parsed, "l4lb_max_sessions") == {(): 36}
    assert samples(parsed, "l4lb_backend_max_sessions") == {("10.0.0.1:80", "p"): 37}
    assert samples(parsed, "l4lb_listener_max_sessions") == {(MARKED,): 38}
    assert samples(parsed, "l4lb_listener_session_rate") == {(MARKED,): 39.5}
    assert samples(parsed, "l4lb_queue_size") == {("p",): 40, ("other",): 0}, "0: nobody may wait"


def test_a_backend_that_is_not_measured_has_no_histogram() -> None:
    """It would say that it had no sessions."""
    unmeasured = BackendGathered("kernel", "10.0.0.2:80", BackendStats(), True, True, 1.0, (0, 0))
    text, _ = exposition(replace(gathered(), backends=(unmeasured,)), "")
    found = {family.name: family for family in parse_text(text.decode())}
    assert samples(found, "l4lb_backend_up") == {("10.0.0.2:80", "kernel"): 1}
    for name in ("connect", "first_byte", "session"):
        assert samples(found, f"l4lb_backend_{name}_seconds_count") == {}


def test_durations_are_counted_at_their_bound() -> None:
    durations = Durations((1.0, 2.0))
    for duration in (0.5, 1.0, 1.5, 2.0, 3.0):
        durations.add(duration)
    assert durations.histogram == Histogram((1.0, 2.0), (2, 2, 1), 8.0)


def test_busy_is_of_the_last_ten_seconds() -> None:
    busy = Busy()
    assert busy.ratios([WorkerStats(busy_ns=5)], 0.0) == (0.0,)
    for second in range(31):  # half busy for 15 s, then idle
        busy.sample([WorkerStats(busy_ns=min(second, 15) * 500_000_000)], float(second))
    after = WorkerStats(busy_ns=15 * 500_000_000)
    assert busy.ratios([after], 30.5) == (0.0,)
    assert busy.ratios([WorkerStats(busy_ns=after.busy_ns + 2 * 10**9)], 30.0) == (pytest.approx(0.2),)
    assert busy.ratios([WorkerStats(busy_ns=10**12)], 30.0) == (1.0,)


def scrape(address: str, accept: str = "", token: str = "") -> tuple[int, str, dict[str, Metric]]:
    host, _, port = address.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=10)
    headers = {"Accept": accept, **({"Authorization": f"Bearer {token}"} if token else {})}
    connection.request("GET", "/metrics", headers=headers)
    response = connection.getresponse()
    kind, text = response.headers["Content-Type"], response.read().decode()
    connection.close()
    parse = parse_openmetrics if "openmetrics" in kind else parse_text
    return response.status, kind, {one.name: one for one in parse(text)} if response.status == 200 else {}


def test_two_instances_in_one_process_count_apart() -> None:
    with serving(one_answer(b"hello")) as server:
        config = make_config([server.address]).model_copy(update={"admin": AdminConfig(bind="127.0.0.1:0")})
        with LoadBalancer(config) as one, LoadBalancer(config) as other:
            for _ in range(3):
                with connect(address_of(one)) as sock:
                    sock.sendall(b"hi")
                    assert sock.recv(10) == b"hello"
            wait_idle(one)
            for balancer, count in ((one, 3), (other, 0)):
                for accept, kind in (("", "text/plain"), (OPENMETRICS, "application/openmetrics-text")):
                    status, said, found = scrape(balancer.admin_address, accept)
                    assert (status, said.partition(";")[0]) == (200, kind)
                    assert samples(found, "l4lb_sessions_total") == {("web",): count}
                    assert samples(found, "l4lb_bytes_total")[server.address, "down", "web"] == 5 * count


def test_checks_and_reloads_are_counted() -> None:
    with serving(one_answer(b"hello")) as server:
        health = {"type": "tcp", "interval": 0.1, "fast_interval": 0.1}
        config = make_config([server.address], health=health)
        config = config.model_copy(update={"admin": AdminConfig(bind="127.0.0.1:0")})
        with LoadBalancer(config) as balancer:
            assert balancer.wait_ready()
            balancer.reload(config)
            with pytest.raises(Exception, match="no file to reload"):
                balancer.reload()
            found = scrape(balancer.admin_address)[2]
            assert samples(found, "l4lb_config_reloads_total") == {("success",): 1, ("failure",): 1}
            assert samples(found, "l4lb_backend_up") == {(server.address, "web"): 1}

            def checked() -> bool:
                found = scrape(balancer.admin_address)[2]
                passed = samples(found, "l4lb_health_checks_total")[server.address, "web", "success"]
                return passed >= 2 and samples(found, "l4lb_health_check_seconds_count")[()] == passed

            assert wait_until(checked)


def test_metrics_are_behind_the_token(tmp_path) -> None:
    (tmp_path / "token").write_text("secret")
    admin = AdminConfig(bind="127.0.0.1:0", token_file=str(tmp_path / "token"))
    with LoadBalancer(make_config(["127.0.0.1:1"]).model_copy(update={"admin": admin})) as balancer:
        assert scrape(balancer.admin_address)[0] == 401
        assert scrape(balancer.admin_address, token="secret")[0] == 200


def test_a_listener_is_told_of_until_its_process_has_drained() -> None:
    config = make_config(["127.0.0.1:1"]).model_copy(update={"admin": AdminConfig(bind="127.0.0.1:0")})
    with LoadBalancer(config) as balancer:
        with contextlib.suppress(ConnectionResetError):
            connect(address_of(balancer)).close()
        assert wait_until(lambda: balancer.stats().sessions_total == 1)
        balancer.drain(1)
        found = scrape(balancer.admin_address)[2]
    assert samples(found, "l4lb_sessions_total") == {("web",): 1}
    assert samples(found, "l4lb_draining") == {(): 1}
