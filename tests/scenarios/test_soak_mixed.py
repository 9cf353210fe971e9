"""The short form of `make soak`: traffic of all kinds, one trouble of each kind, every byte compared."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.soak.running import Soak

SECONDS = 300 if os.environ.get("L4LB_SOAK") else 15


@pytest.mark.slow
def test_nothing_is_lost_mixed_up_or_left_behind_while_everything_happens(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    seed = random.randrange(1 << 32)
    result = Soak(tmp_path, seed).run(SECONDS, all_kinds=True)
    assert result.clean, f"seed {seed}\n{result.judge.summary()}\n{result.figures()}"
    assert result.judge.counts["upgraded"] >= 1
    assert result.counts["bytes"] > 1_000_000
