"""The Python face of the data plane."""

from __future__ import annotations

from typing import get_args

from l4lb import _fastpath
from l4lb.model.hooks import HookResult
from l4lb.model.sessions import SourceOrder
from l4lb.model.states import CloseReason, ConnectFailure, DropReason, PathError, Shortage, SourceLimit


def test_close_reasons_are_the_native_enum_in_its_order() -> None:
    with open("l4lb/_dataplane/base/enums.pxd", encoding="utf-8") as file:
        lines = [line.split("=")[0].strip() for line in file if line.strip().startswith("CLOSE_")]
    native = [line.removeprefix("CLOSE_").lower() for line in lines]
    assert native == [*CloseReason, "reason_count"]
    assert len(CloseReason) == _fastpath.CLOSE_REASONS


def test_drop_reasons_are_the_native_enum_in_its_order() -> None:
    with open("l4lb/_dataplane/base/enums.pxd", encoding="utf-8") as file:
        lines = [line.split()[0] for line in file if line.strip().startswith("DROP_")]
    native = [line.removeprefix("DROP_").lower() for line in lines]
    assert native == [*DropReason, "reason_count"]
    assert len(DropReason) == _fastpath.DROP_REASONS


def test_hook_results_are_the_native_enum_in_its_order() -> None:
    with open("l4lb/_dataplane/base/enums.pxd", encoding="utf-8") as file:
        _, _, rest = file.read().partition("cdef enum hook_result_t:")
    lines = [line.split()[0] for line in rest.partition("cdef enum")[0].splitlines() if "HOOK_" in line]
    assert [line.removeprefix("HOOK_").lower() for line in lines] == [*HookResult, "result_count"]
    assert len(HookResult) == _fastpath.HOOK_RESULTS


def test_source_limits_are_the_native_enum_in_its_order() -> None:
    with open("l4lb/_dataplane/base/source_types.pxd", encoding="utf-8") as file:
        lines = [line.split()[0] for line in file if line.strip().startswith("SOURCE_LIMIT_")]
    assert [line.removeprefix("SOURCE_LIMIT_").lower() for line in lines] == [*SourceLimit, "count"]
    assert len(SourceLimit) == _fastpath.SOURCE_LIMITS
    assert list(_fastpath.SOURCE_ORDERS) == list(get_args(SourceOrder))


def test_shortages_are_the_native_enum_in_its_order() -> None:
    with open("l4lb/_dataplane/base/enums.pxd", encoding="utf-8") as file:
        lines = [line.split()[0] for line in file if line.strip().startswith("SHORTAGE_")]
    names = [
        "source_address" if line == "SHORTAGE_ADDRESS" else line.removeprefix("SHORTAGE_").lower() for line in lines
    ]
    assert names == ["none", *Shortage, "count"]
    plane = _fastpath.DataPlane(2, 0)
    assert plane.shortages() == [0] * len(Shortage)
    plane.finish()


def test_connect_failures_are_the_native_enum_in_its_order() -> None:
    with open("l4lb/_dataplane/base/enums.pxd", encoding="utf-8") as file:
        lines = [line.split()[0] for line in file if line.strip().startswith("FAILURE_")]
    assert [line.removeprefix("FAILURE_").lower() for line in lines] == [*ConnectFailure, "count"]
    assert len(ConnectFailure) == _fastpath.CONNECT_FAILURES


def test_path_errors_are_the_native_enum_in_its_order() -> None:
    with open("l4lb/_dataplane/base/enums.pxd", encoding="utf-8") as file:
        lines = [line.split()[0] for line in file if line.strip().startswith("PATH_")]
    assert [line.removeprefix("PATH_").lower() for line in lines] == [*PathError, "error_count"]
    assert len(PathError) == _fastpath.PATH_ERRORS
