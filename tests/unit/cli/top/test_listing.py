"""Order, filter, folds, and a selection that stays on its item."""

from __future__ import annotations

from typing import Any

from l4lb.cli.top.state.columns import Column, Item
from l4lb.cli.top.state.listing import Branch, Listing
from l4lb.cli.top.state.seen import Seen

COLUMNS = [
    Column("name", 5, lambda seen, item: item.key[-1], right=False, large_first=False),
    Column("size", 5, lambda seen, item: item.data.get("size")),
    Column("state", 5, lambda seen, item: item.data.get("state"), right=False, large_first=False),
]


def item(name: str, size: int | None = None, state: str = "up") -> Item:
    return Item(("item", name), {"size": size, "state": state})


def branch(name: str, *inner: tuple[str, int, str]) -> Branch:
    head = Item(("head", name), {"state": None}, folded=False)
    return head, [Item(("leaf", name, one), {"size": size, "state": state}, head.key) for one, size, state in inner]


TREE = [
    branch("web", ("a", 1, "up"), ("b", 3, "down"), ("c", 2, "up")),
    branch("api", ("a", 9, "down")),
    branch("none"),
]


def arranged(listing: Listing, *items: Any) -> list[str]:
    branches = [one if isinstance(one, tuple) else (one, ()) for one in items]
    listing.arrange(branches, COLUMNS, Seen(), listing.words)
    return ["/".join(one.key[1:]) for one in listing.rows]


def chosen(listing: Listing) -> str:
    assert listing.selected is not None
    return "/".join(listing.selected.key[1:])


def test_the_order_is_that_of_the_answer_at_first() -> None:
    assert arranged(Listing(), item("b"), item("a"), item("c")) == ["b", "a", "c"]
    assert arranged(Listing(reverse=True), item("b"), item("a"), item("c")) == ["c", "a", "b"]


def test_sorting_has_the_unknown_last_either_way() -> None:
    items = item("a", 2), item("b"), item("c", 1)
    assert arranged(Listing("size"), *items) == ["c", "a", "b"]
    assert arranged(Listing("size", reverse=True), *items) == ["a", "c", "b"]


def test_sorting_keeps_leaves_with_their_head() -> None:
    listing = Listing("name", reverse=True)
    assert arranged(listing, *TREE) == ["web", "web/c", "web/b", "web/a", "none", "api", "api/a"]


def test_the_keys_go_through_all_columns_and_back() -> None:
    listing, seen = Listing(), []
    for by in (1, 1, 1, 1, -1, -1):
        listing.sort_by_next(COLUMNS, by)
        seen.append((listing.sort, listing.reverse))
    assert seen == [("name", False), ("size", True), ("state", False), ("", False), ("state", False), ("size", True)]


def test_the_filter() -> None:
    for words, rows in {
        "DOWN": ["web", "web/b", "api", "api/a"],
        "web !down": ["web", "web/a", "web/c"],
        "api": ["api", "api/a"],
        "!down": ["web", "web/a", "web/c", "none"],
        "none": ["none"],
        "up down": [],
        "!": ["web", "web/a", "web/b", "web/c", "api", "api/a", "none"],
    }.items():
        listing = Listing(words=words)
        assert arranged(listing, *TREE) == rows, words
        assert (listing.shown, listing.count) == (sum("/" in one for one in rows), 4)


def test_folds() -> None:
    listing = Listing()
    arranged(listing, *TREE)
    listing.move(2)
    listing.fold()
    assert arranged(listing, *TREE) == ["web", "api", "api/a", "none"]
    assert chosen(listing) == "web", "what was selected is in it"
    assert listing.rows[0].folded
    listing.words = "down"
    assert arranged(listing, *TREE) == ["web", "web/b", "api", "api/a"], "a filter looks into it"
    listing.words = ""
    arranged(listing, *TREE)
    listing.fold()
    assert arranged(listing, *TREE)[:2] == ["web", "web/a"]
    heads = {head.key for head, _ in TREE}
    listing.fold_all(heads)
    assert arranged(listing, *TREE) == ["web", "api", "none"]
    listing.fold_all(heads)
    assert len(arranged(listing, *TREE)) == 7


def test_the_selection_stays_on_its_item() -> None:
    listing = Listing("size")
    arranged(listing, item("a", 1), item("b", 2), item("c", 3))
    listing.move(1)
    assert chosen(listing) == "b"
    arranged(listing, item("b", 9), item("new", 0), item("a", 1), item("c", 3))
    assert (chosen(listing), listing.index) == ("b", 3)
    arranged(listing, item("new", 0), item("a", 1), item("c", 3))
    assert chosen(listing) == "c", "it is gone: the row that is nearest"
    arranged(listing)
    assert listing.selected is None
    arranged(listing, item("c", 3), item("b", 9))
    assert chosen(listing) == "c"


def test_moving_ends_at_the_ends() -> None:
    listing = Listing()
    listing.move(1)
    arranged(listing, item("a"), item("b"))
    listing.move(5)
    assert chosen(listing) == "b"
    listing.move(-5)
    assert chosen(listing) == "a"
    assert listing.move_to(("item", "b"))
    assert not listing.move_to(("item", "x"))
    assert chosen(listing) == "b"


def test_the_window_has_the_selection_and_moves_no_further() -> None:
    listing = Listing()
    arranged(listing, *(item(str(number)) for number in range(10)))
    tops = []
    for by in (0, 2, 1, 3, -1, -2, -3, 9):
        listing.move(by)
        window = listing.window(3)
        assert listing.selected in window
        tops.append(listing.top)
    assert tops == [0, 0, 1, 4, 4, 3, 0, 7]
    assert len(listing.window(20)) == 10
    assert listing.top == 0
    arranged(listing, item("0"))
    assert [one.key[1] for one in listing.window(3)] == ["0"]
