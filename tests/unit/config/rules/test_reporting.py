"""Where to report to: what is accepted, and errors that say what was expected."""

from __future__ import annotations

import pytest

from l4lb.config import Config
from l4lb.errors import ConfigError

REST = '[listeners.web]\nbind = ":0"\npool = "web"\n[pools.web]\nbackends = ["127.0.0.1:1"]\n'


def settings(text: str) -> Config:
    return Config.loads(f"[global]\n{text}\n{REST}", file="lb.toml")


def test_defaults() -> None:
    found = settings("").global_
    assert (found.log, found.access_log, found.syslog, found.statsd) == ("stderr", "off", "unix:/dev/log", "off")
    assert (found.statsd_interval, found.statsd_prefix, found.statsd_format) == (10.0, "l4lb", "statsd")


@pytest.mark.parametrize(
    "text",
    [
        'access_log = "stdout"',
        'access_log = "/var/log/l4lb/access.log"',
        'access_log = "syslog"\nsyslog = "[::1]:514"\nsyslog_facility = "local7"',
        'log = "syslog"\nsyslog = "unix:@log"',
        'log = "/var/log/l4lb/l4lb.log"',
        'statsd = "unix:/run/statsd"\nstatsd_interval = "1s"',
        'statsd = "statsd.example:8125"\nstatsd_format = "datadog"\nstatsd_tags = { env = "prod" }',
    ],
)
def test_what_is_accepted(text: str) -> None:
    settings(text)


WRONG = {
    'access_log = "access.log"': 'access_log: "access.log": expected "off", "stdout", "syslog" or an absolute path',
    'log = "stdout"': 'log: "stdout": expected "stderr", "syslog" or an absolute path',
    'access_log = "syslog"\nsyslog = ":514"': 'syslog: ":514": expected "host:port" or "unix:/path"',
    'access_log = "syslog"\nsyslog = "host:0"': 'syslog: "host:0": expected "host:port" or "unix:/path"',
    'access_log = "syslog"\nsyslog_facility = "local8"': "syslog_facility: \"local8\": expected 'kern', 'user'",
    'syslog = "host:514"': 'syslog: has no effect: neither log nor access_log is "syslog"',
    'statsd = "8125"': 'statsd: "8125": expected',
    'statsd = "host:8125-8126"': 'statsd: "host:8125-8126": expected "host:port" or "unix:/path"',
    'statsd_interval = "1s"': "statsd_interval: has no effect without statsd",
    'statsd = "host:8125"\nstatsd_tags = { env = "prod" }': 'statsd_tags: needs statsd_format = "datadog"',
    'statsd = "host:8125"\nstatsd_prefix = "a b"': 'statsd_prefix: "a b": expected',
    'statsd = "host:8125"\nstatsd_interval = "0s"': "statsd_interval",
}


@pytest.mark.parametrize("text", WRONG)
def test_what_is_not(text: str) -> None:
    with pytest.raises(ConfigError) as raised:
        settings(text)
    problems = [str(problem) for problem in raised.value.problems]
    assert len(problems) == 1, problems
    assert f"global.{WRONG[text]}" in problems[0]
    assert problems[0].startswith("lb.toml:")
