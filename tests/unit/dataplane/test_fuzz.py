"""Short runs of the fuzzers of the native parsers, with sanitizers; `make fuzz` runs the long ones. What they have
found before is judged alike by native code and Python."""

from __future__ import annotations

import re

import pytest

from tests.support import fuzzing, hello_twin, proxy_twin
from tests.support.proxy_headers import MODES, native

probe = pytest.importorskip("_l4lb_probe", reason="the probe module is not built (L4LB_PROBE=1)")


@pytest.mark.external
@pytest.mark.parametrize("seconds", [1, pytest.param(10, marks=pytest.mark.slow)])
@pytest.mark.parametrize("target", list(fuzzing.MAX_BYTES))
def test_a_short_run_of_the_fuzzer_finds_nothing(target: str, seconds: int) -> None:
    said = fuzzing.fuzz(target, fuzzing.build(target), seconds)
    runs = re.search(r"Done (\d+) runs", said)
    assert runs is not None, said[-4000:]
    assert int(runs[1]) > 10 * len(list(fuzzing.corpus(target).iterdir())), said[-4000:]


def test_native_equals_python_on_the_whole_corpus_of_headers() -> None:
    paths = sorted(fuzzing.corpus("proxy").iterdir())
    assert len(paths) >= 36
    for path in paths:
        for accept in MODES:
            data = path.read_bytes()
            assert native(data, accept) == proxy_twin.judge(data, accept), path


def test_native_equals_python_on_the_whole_corpus_of_hellos() -> None:
    paths = sorted(fuzzing.corpus("hello").iterdir())
    assert len(paths) >= 12
    for path in paths:
        data = path.read_bytes()
        assert probe.client_hello(data) == hello_twin.judge(data), path
