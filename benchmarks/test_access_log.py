"""What a line of the access log costs: the bar is 30,000 a second with half a CPU to spare."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from l4lb.control.reporting.access_format import Formatter
from l4lb.model.states import CloseReason
from l4lb.model.stats import SessionRecord
from l4lb.net.output.line_writer import LineWriter
from l4lb.net.output.sinks import FileSink

RECORDS = 30_000
BATCH = 300  # what waits after a hundredth of a second
LINE_NS_MAX = 0.5 * 1e9 / RECORDS


def record(number: int) -> SessionRecord:
    client, backend = f"192.0.2.{number % 250}", f"10.0.0.{number % 20}:8443"
    times = (1000.0 + number / 1000, 0.000_123, 0.0456)
    place = (client, 10_000 + number, "198.51.100.7:443")
    return SessionRecord(number << 32, "web", "web", backend, *place, *times, 120, 4567, 1, CloseReason.NORMAL, False)


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_lines(benchmark: BenchmarkFixture, log_format: str) -> None:
    records = [record(number) for number in range(RECORDS)]
    formatter, writer = Formatter(log_format), LineWriter(FileSink("/dev/null"), print)

    def write() -> None:
        for at in range(0, RECORDS, BATCH):
            writer.add(formatter.lines(records[at : at + BATCH]))
            writer.flush()

    benchmark(write)
    line_ns = benchmark.stats.stats.median / RECORDS * 1e9
    benchmark.extra_info["ns a line"] = line_ns
    writer.close()
    assert line_ns <= LINE_NS_MAX
