"""What a change costs with 10,000 backends in 1,000 pools: from the call until every worker goes by it."""

from __future__ import annotations

import gc
import statistics
import time

from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.results import Results
from l4lb import Config, Listener, LoadBalancer, Pool
from l4lb.config import AdminConfig, HealthConfig

POOLS, BACKENDS = 1000, 10


def _config(policy: str, extra: int = 0) -> Config:
    def addresses(pool: int) -> list[str]:
        return [f"127.{1 + pool // 250}.{pool % 250}.{1 + number}:80" for number in range(BACKENDS + extra)]

    none = HealthConfig(type="none")
    return Config(
        admin=AdminConfig(bind="off"),
        listeners={"web": Listener(bind="127.0.0.1:0", pool="p0")},
        pools={f"p{number}": Pool(backends=addresses(number), policy=policy, health=none) for number in range(POOLS)},
    )


def test_changes(benchmark: BenchmarkFixture, results: Results) -> None:
    took: dict[str, list[float]] = {"set": [], "add": [], "remove": []}
    with LoadBalancer(_config("maglev")) as balancer:
        gc.collect()
        gc.freeze()
        pool = balancer.pools["p500"]
        first = next(iter(pool))
        number = 0

        def change() -> None:
            nonlocal number
            number += 1
            for verb, call in (
                ("set", lambda: pool[first].set_weight(1 + number % 5)),
                ("add", lambda: pool.add("127.250.0.1:80")),
                ("remove", lambda: pool.remove("127.250.0.1:80")),
            ):
                began = time.perf_counter()
                call()
                took[verb].append(time.perf_counter() - began)

        benchmark.pedantic(change, rounds=30, iterations=1)
        began = time.perf_counter()
        balancer.reload(_config("maglev", extra=1))
        reload_s = time.perf_counter() - began
        gc.unfreeze()
    for verb, seconds in took.items():
        title = f"{verb} one of {POOLS * BACKENDS} backends in {POOLS} pools: live in ms, median and worst (bar: 200)"
        results.figures.append((title, f"{1000 * statistics.median(seconds):.1f}, {1000 * max(seconds):.1f}"))
    results.figures.append((f"reload that adds a backend to each of {POOLS} maglev pools, s", f"{reload_s:.2f}"))
