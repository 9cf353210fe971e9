"""Tags of sessions: what they may be, and that no more is kept than there is room for."""

from __future__ import annotations

import pytest

import l4lb.control.state.tags as tags_module
from l4lb.control.state.tags import COUNT_MAX, KEY_MAX, VALUE_MAX, SessionTags, TaggedRecords, checked
from l4lb.model.hooks import NO_TAGS
from l4lb.model.stats import SessionRecord
from tests.unit.net.output.test_record_stream import Ended, record


def test_what_may_be_a_tag() -> None:
    good = {"customer": "acme", "_x9": "", "k" * KEY_MAX: "v" * VALUE_MAX, "quoted": 'a "b"\n', "other": "ü\udc80"}
    assert checked(good) == good
    assert checked(good) is not good
    assert len(checked({f"k{number}": "v" for number in range(COUNT_MAX)})) == COUNT_MAX


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        (None, "tags: expected a dict of str by str, not None"),
        (["a"], "tags: expected a dict of str by str, not ['a']"),
        ({f"k{number}": "v" for number in range(COUNT_MAX + 1)}, "17 tags, at most 16"),
        ({1: "v"}, "tag 1: expected a name of letters, digits and _"),
        ({"": "v"}, "tag '': expected a name"),
        ({"9a": "v"}, "tag '9a': expected a name"),
        ({"a.b": "v"}, "tag 'a.b': expected a name"),
        ({"a\n": "v"}, "tag 'a\\n': expected a name"),
        ({"ä": "v"}, "tag 'ä': expected a name"),
        ({"k" * (KEY_MAX + 1): "v"}, "its name has 65 characters, at most 64"),
        ({"k": 1}, 'tag "k": expected a str, not 1'),
        ({"k": None}, 'tag "k": expected a str, not None'),
        ({"k": "v" * (VALUE_MAX + 1)}, 'tag "k": 257 characters, at most 256'),
    ],
)
def test_what_may_not(tags: object, reason: str) -> None:
    with pytest.raises(ValueError) as raised:
        checked(tags)
    assert reason in str(raised.value)


def test_they_are_kept_until_they_are_taken() -> None:
    tags = SessionTags()
    assert tags.keep(1, {"a": "b"})
    assert tags.keep(1, {"a": "c"})
    assert tags.keep(2, {"a": "d"})
    assert (tags.of(1), tags.of(3)) == ({"a": "c"}, NO_TAGS)
    assert (tags.take(1), tags.take(1)) == ({"a": "c"}, NO_TAGS)
    assert tags.known() == {2}
    tags.forget([2, 3])
    assert len(tags) == 0


def test_what_there_is_no_room_for_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tags_module, "KEPT_MAX_CHARS", 3 * (tags_module._ENTRY_CHARS + 2))
    tags = SessionTags()
    assert [tags.keep(number, {"k": "v"}) for number in range(1, 5)] == [True, True, True, False]
    assert tags.keep(3, {"k": "w"})  # instead of what it had
    assert not tags.keep(3, {"k": "longer"})
    assert tags.of(3) == NO_TAGS
    tags.take(1)
    assert tags.keep(4, {"k": "v"})
    assert tags.known() == {2, 4}


def test_what_comes_after_all_was_handed_on() -> None:
    tags = SessionTags()
    for number in (1, 2):
        tags.keep(number, {"k": "v"})
    assert tags.all() == {1: {"k": "v"}, 2: {"k": "v"}}
    assert tags.later() == {}
    for number in (2, 3, 4):
        tags.keep(number, {"k": "new"})
    tags.take(4)
    assert tags.later() == {2: {"k": "new"}, 3: {"k": "new"}}


def tagged(number: int) -> SessionRecord:
    return record(number)._replace(tagged=True)


def test_records_get_the_tags_that_their_worker_knows_of() -> None:
    """Of an answer that came too late nothing is seen, and nothing stays."""
    ended, tags = Ended(), SessionTags()
    records = TaggedRecords(ended, tags)
    ended.end(tagged(1))
    assert [one.tags for one in records.take_records(10)] == [NO_TAGS]
    tags.keep(1, {"k": "one"})
    tags.keep(2, {"k": "late"})
    ended.end(tagged(1), record(2), record(3), tagged(4))
    assert [one.tags for one in records.take_records(10)] == [{"k": "one"}, NO_TAGS, NO_TAGS, NO_TAGS]
    assert len(tags) == 0
