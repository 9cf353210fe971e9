"""The copy of the configuration on this host."""

from __future__ import annotations

import stat
from dataclasses import replace
from pathlib import Path

import pytest

from l4lb.control.fleet.keys import Document
from l4lb.control.fleet.place import Place, parse_place
from l4lb.control.fleet.reading import load, place_of, read_cache, write_cache
from l4lb.errors import ConfigError


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return parse_place(f"etcd://127.0.0.1:1/l4lb/prod?cache={tmp_path}/copy&timeout=100ms")


def refused(place: Place) -> str:
    with pytest.raises(ConfigError) as caught:
        read_cache(place)
    return str(caught.value)


def test_it_is_private_and_read_as_it_was_written(place: Place) -> None:
    for document in (Document("[pools]\n# zwölf\n", 3, 17), Document("", 4)):
        write_cache(place, document)
        assert read_cache(place) == replace(document, revision=0)
        assert stat.S_IMODE(Path(place.cache).stat().st_mode) == 0o600
    assert [path.name for path in Path(place.cache).parent.iterdir()] == ["copy"]
    elsewhere = replace(place, access=replace(place.access, endpoints=["http://127.0.0.2:1"]))
    assert read_cache(elsewhere) == Document("", 4), "the same keys, at another address"


def test_one_of_another_fleet_or_none_is_refused(place: Place) -> None:
    assert refused(place) == f"{place.cache}: cannot be read: No such file or directory"
    write_cache(place, Document("x", 1))
    assert "it is of another fleet, /l4lb/prod/config; expected /other/config" in refused(
        replace(place, prefix="/other/")
    )
    file = Path(place.cache)
    for text in ("", "[pools]\n", "# l4lb: generation x of /l4lb/prod/config\n", "# l4lb: generation 1\n"):
        file.write_text(text)
        assert "copy: " in refused(place)
    file.write_bytes(b"\xff")
    assert refused(place) == f"{file}: cannot be read: not UTF-8"
    file.unlink()
    file.mkdir()
    assert "Is a directory" in refused(place)


def test_a_directory_that_is_not_there_is_an_error_of_the_system(place: Place, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_cache(replace(place, cache=f"{tmp_path}/none/copy"), Document("x", 1))


def test_a_check_goes_by_etcd_alone(place: Place, tmp_path: Path) -> None:
    write_cache(place, Document("", 1))
    with pytest.raises(ConfigError, match=r"^etcd://127\.0\.0\.1:1/l4lb/prod/config: cannot be read: http://"):
        load(f"etcd://127.0.0.1:1/l4lb/prod?cache={tmp_path}/copy&timeout=100ms")
    with pytest.raises(ConfigError, match=r"^etcd://x: the prefix of the keys is missing"):
        place_of("etcd://x")
