"""For packages that take the access log's records elsewhere: what a sink is, as an entry point in the group
``l4lb.record_sinks``.

The entry point, named like the sink in ``access_log = "plugin:NAME"``, refers to a function that gets the options of
``[global.access_log_options]`` as a dict and returns a `RecordSink`, or raises ValueError with what is wrong with them.
It is called when the configuration is used, at a start and at a reload that changes it, and must not block: a sink
connects in its first `write`.

A record is a dict with the keys of the access log, as ``log_format = "json"`` writes them: `time`, when the session
ended, as ``2026-01-02T03:04:05.678Z``; `connect_ms` (None: none was connected) and `duration_ms` in milliseconds;
`bytes_up` and `bytes_down`; `session_id` as text; `close_reason`, and so on. `tags` is a dict of what a hook attached
to the session (`l4lb.hooks`), mostly empty.
"""

from l4lb.net.output.record_sink import RecordSink

__all__ = ["RecordSink"]
