"""The buckets in which a worker counts how long backends take."""

from __future__ import annotations

import pytest

from l4lb._native import times

probe = pytest.importorskip("_l4lb_probe", reason="the probe modules are not built (L4LB_PROBE=1)")


def test_bounds_are_powers_of_two_of_a_second() -> None:
    """As those of Prometheus' native histograms, so that one becomes the other without a loss."""
    assert len(times.BOUNDS_S) == 23
    assert all(bound == 2.0**power for power, bound in enumerate(times.BOUNDS_S, -12))


@pytest.mark.parametrize("bucket", range(23))
def test_a_bucket_ends_below_its_bound(bucket: int) -> None:
    bound_ns = round(times.BOUNDS_S[bucket] * 1e9)
    for duration_ns, expected in ((bound_ns - 2000, bucket), (bound_ns + 2000, bucket + 1)):
        buckets, sum_us = probe.times_of([duration_ns])
        assert [index for index, count in enumerate(buckets) if count] == [expected]
        assert sum_us == duration_ns // 1000


def test_nothing_and_years_have_a_bucket() -> None:
    buckets, sum_us = probe.times_of([0, 999, 2**63])
    assert (buckets[0], buckets[-1], sum(buckets)) == (2, 1, 3)
    assert sum_us == 2**63 // 1000
