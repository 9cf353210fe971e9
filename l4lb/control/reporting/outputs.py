"""The outputs besides the log: records of sessions, of which the access log is made, and StatsD, as currently
configured.

Everything that may fail is in `prepare`: a reload whose access log cannot be opened changes nothing. Control loop,
except for `prepare`.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from l4lb.config import Config
from l4lb.config.options.callables import load_record_sink
from l4lb.config.options.process import GlobalConfig
from l4lb.config.options.reporting import record_sink_of
from l4lb.control.reporting.access_log import AccessLog
from l4lb.control.reporting.gathered import Sources
from l4lb.control.reporting.statsd import Sent, Statsd, StatsdSettings
from l4lb.control.state.events import Events
from l4lb.errors import ConfigError
from l4lb.net.address import parse_address, resolve_backend
from l4lb.net.output.log_targets import open_sink
from l4lb.net.output.record_sink import PluginSink, made_record_sink
from l4lb.net.output.record_stream import RecordStream
from l4lb.net.output.sinks import Sink


@dataclass(slots=True)
class Prepared:
    """`sink` is None when the access log is off or stays where it is."""

    settings: GlobalConfig
    sink: Sink | None
    statsd: StatsdSettings

    def discard(self) -> None:
        if self.sink is not None:
            self.sink.close()


@dataclass(frozen=True, slots=True)
class Reported:
    """What was sent by StatsD, and where to."""

    to: str
    sent: Sent


def _access_log_of(settings: GlobalConfig) -> tuple[str, ...]:
    if record_sink_of(settings.access_log) is not None:
        return (settings.access_log, repr(settings.access_log_options))
    if settings.access_log == "syslog":
        return (settings.access_log, settings.syslog, settings.syslog_facility)
    return (settings.access_log,)


def _open_sink(settings: GlobalConfig) -> Sink:
    """OSError and ValueError, with what is wrong."""
    name = record_sink_of(settings.access_log)
    if name is None:
        return open_sink(settings.access_log, settings.syslog, settings.syslog_facility, "session")
    return PluginSink(settings.access_log, made_record_sink(load_record_sink(name), settings.access_log_options))


def _log_format_of(settings: GlobalConfig) -> str:
    """Of the access log. A plug-in gets what JSON has."""
    return settings.log_format if record_sink_of(settings.access_log) is None else "json"


class Outputs:
    def __init__(self, records: RecordStream, access_log: AccessLog, sources: Sources, events: Events) -> None:
        self.access_log = access_log
        self._records = records
        self._sources = sources
        self._events = events
        self._access_log_of: tuple[str, ...] = ("off",)
        self._log_format = ""
        self._statsd: Statsd | None = None
        self._statsd_paused = False
        self._statsd_settings = StatsdSettings()

    def prepare(self, config: Config) -> Prepared:
        """Open and look up what `config` names. Any thread. ConfigError when that fails."""
        settings, sink = config.global_, None
        statsd = self._statsd_of(config)
        if settings.access_log != "off" and _access_log_of(settings) != self._access_log_of:
            try:
                sink = _open_sink(settings)
            except (OSError, ValueError) as error:
                reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
                message = f'"{settings.access_log}": cannot be opened: {reason}'
                raise ConfigError([config.problem(("global", "access_log"), message)]) from error
        return Prepared(settings, sink, statsd)

    def _statsd_of(self, config: Config) -> StatsdSettings:
        settings = config.global_
        if settings.statsd == "off":
            return StatsdSettings()
        try:
            address = resolve_backend(parse_address(settings.statsd))
        except ValueError as error:
            raise ConfigError([config.problem(("global", "statsd"), str(error))]) from error
        datadog = settings.statsd_format == "datadog"
        return StatsdSettings(address, datadog, settings.statsd_interval, settings.statsd_prefix, settings.statsd_tags)

    async def commit(self, prepared: Prepared) -> None:
        """Nothing here fails."""
        settings = prepared.settings
        if settings.access_log == "off":
            await asyncio.to_thread(self.access_log.off)
        elif prepared.sink is not None or _log_format_of(settings) != self._log_format:
            await asyncio.to_thread(self.access_log.use, prepared.sink, _log_format_of(settings))
        self._access_log_of, self._log_format = _access_log_of(settings), _log_format_of(settings)
        if prepared.statsd != self._statsd_settings:
            await self._stop_statsd()
            self._statsd_settings = prepared.statsd
            self._statsd = Statsd(prepared.statsd, self._sources, self._events)
            if not self._statsd_paused:
                self._statsd.start()

    def reopen(self) -> None:
        """Open files again by name; an event reports the result."""
        self.access_log.reopen()

    async def stop(self) -> None:
        """Call this after the forwarder has closed. Idempotent."""
        await self._stop_statsd()
        self.access_log.stop()
        await asyncio.to_thread(self._records.stop)

    async def pause_statsd(self) -> Reported | None:
        """Send nothing until `resume_statsd`. What was sent, for another process to go on from; None: nothing."""
        self._statsd_paused = True
        sent = await self._statsd.pause() if self._statsd is not None else None
        return None if sent is None else Reported(str(self._statsd_settings.address), sent)

    def resume_statsd(self, reported: Reported | None) -> None:
        """Go on from there, when that was sent to the same receiver, or else from now. Nothing is done while it
        runs."""
        if not self._statsd_paused:
            return
        self._statsd_paused = False
        if self._statsd is not None:
            same = reported is not None and reported.to == str(self._statsd_settings.address)
            self._statsd.start(reported.sent if reported is not None and same else None)

    async def _stop_statsd(self) -> None:
        statsd, self._statsd = self._statsd, None
        if statsd is not None:
            await statsd.stop()
