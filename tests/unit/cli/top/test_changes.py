"""What is sent to the instance."""

from __future__ import annotations

from typing import Any

import pytest

from l4lb.cli.top.changes import change_weight, set_weight
from l4lb.cli.top.state.columns import Item
from tests.unit.cli.top.samples import backend, pool, seen


class Asked:
    """Answers as an instance whose backend has some weight."""

    def __init__(self, weight: int) -> None:
        self.weight = weight

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        if method == "PUT":
            self.weight = body["weight"]
        found = backend("a", weight=self.weight)
        return [found] if path.endswith("backends") else pool("web", found)


ITEM = Item(("backend", "web", "a"), backend("a"))


@pytest.mark.parametrize(("before", "by", "after"), [(1, 1, 2), (3, -1, 2), (1, -1, 1), (0, -1, 0), (65535, 1, 65535)])
def test_weight_by_one(before: int, by: int, after: int) -> None:
    asked = Asked(before)
    change_weight(ITEM, by).do(asked)  # type: ignore[arg-type]
    assert asked.weight == after


def test_only_weight_0_is_asked_about() -> None:
    found = seen(pool("web", backend("a"), backend("b")))
    assert set_weight(found, ITEM, 5).question == ""
    zero = set_weight(found, ITEM, 0)
    assert zero.question.startswith("Give a of pool web weight 0: it gets no new session, its 3 sessions may go on.")
    assert zero.warning == ""
