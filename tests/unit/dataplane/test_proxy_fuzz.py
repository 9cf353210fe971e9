"""A short run of the fuzzer of the PROXY codec, with sanitizers; `make fuzz` is the long one."""

from __future__ import annotations

import re

import pytest

from tests.support import fuzzing, proxy_twin
from tests.support.proxy_headers import MODES, native

CORPUS = sorted(fuzzing.CORPUS.iterdir())


@pytest.mark.external
def test_half_a_minute_of_fuzzing_finds_nothing() -> None:
    said = fuzzing.fuzz(fuzzing.build(), seconds=30)
    runs = re.search(r"Done (\d+) runs", said)
    assert runs is not None, said[-4000:]
    assert int(runs[1]) > 10 * len(CORPUS), said[-4000:]


def test_native_equals_python_on_the_whole_corpus() -> None:
    assert len(CORPUS) >= 36
    for path in CORPUS:
        for accept in MODES:
            data = path.read_bytes()
            assert native(data, accept) == proxy_twin.judge(data, accept), path
