"""Combinations of the reporting options (log, access log, StatsD) in which one of them has no effect."""

from __future__ import annotations

from collections.abc import Iterator

from l4lb.config.options.callables import load_record_sink
from l4lb.config.options.process import GlobalConfig
from l4lb.config.options.reporting import record_sink_of


def reporting_conflicts(settings: GlobalConfig) -> Iterator[tuple[str, str]]:
    """(key, what is wrong)."""
    given = settings.model_fields_set
    if "syslog" not in (settings.log, settings.access_log):
        for key in ("syslog", "syslog_facility"):
            if key in given:
                yield key, 'has no effect: neither log nor access_log is "syslog"'
    sink = record_sink_of(settings.access_log)
    if sink is None:
        if settings.access_log_options:
            yield "access_log_options", 'has no effect without access_log = "plugin:NAME"'
    else:
        try:
            load_record_sink(sink)
        except ValueError as error:
            yield "access_log", f'"{settings.access_log}": {error}'
    if settings.statsd == "off":
        for key in ("statsd_format", "statsd_interval", "statsd_prefix", "statsd_tags"):
            if key in given:
                yield key, "has no effect without statsd"
    elif settings.statsd_tags and settings.statsd_format != "datadog":
        yield "statsd_tags", 'needs statsd_format = "datadog": the plain format has no tags'
