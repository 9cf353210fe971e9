"""`allow` and `deny` of a listener: what is read with the configuration, and what is read again."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import pytest

from l4lb import Config
from l4lb.config.options.access import Access
from l4lb.errors import ConfigError

TEXT = """
[listeners.{name}]
bind = "127.0.0.1:0"
pool = "web"
{keys}
[pools.web]
backends = ["127.0.0.1:1"]
"""


def config_with(keys: str) -> Config:
    return Config.loads(TEXT.format(name="web", keys=keys))


def test_without_lists_nobody_is_refused() -> None:
    assert config_with("").listeners["web"].access == Access() == Access.of((), ())
    assert Access().is_current()


def test_files_are_part_of_the_configuration_as_they_were_when_it_was_read(tmp_path: Path) -> None:
    file = tmp_path / "list"
    file.write_text("192.0.2.0/24\n")
    config = config_with(f'deny = ["198.51.100.0/24", "file:{file}"]')
    access = config.listeners["web"].access
    assert len(access.refused) == 2 * 32
    assert [one.path for one in access.files] == [str(file)]
    assert config.with_lists_read() is config
    assert config.listeners == config_with(f'deny = ["198.51.100.0/24", "file:{file}"]').listeners
    file.write_text("192.0.2.0/24\n203.0.113.0/24\n")
    assert not access.is_current()
    again = config.with_lists_read()
    assert again.listeners != config.listeners, "a reload finds the change"
    assert len(again.listeners["web"].access.refused) == 3 * 32
    assert again.listeners["web"].deny == config.listeners["web"].deny
    assert len(config.listeners["web"].access.refused) == 2 * 32


def test_a_file_that_breaks_or_goes_is_an_error_with_the_place(tmp_path: Path) -> None:
    file = tmp_path / "list"
    file.write_text("192.0.2.0/24\n")
    config = config_with(f'deny = "file:{file}"')
    file.write_text("192.0.2.0/24\n192.0.2.300\n")
    with pytest.raises(ConfigError, match=rf'listeners.web: {file}:2: "192.0.2.300": expected an address'):
        config.with_lists_read()
    file.unlink()
    assert not config.listeners["web"].access.is_current()
    with pytest.raises(ConfigError, match=f"listeners.web: {file}: No such file or directory"):
        config.with_lists_read()


def test_a_broken_file_is_an_error_of_its_listener(tmp_path: Path) -> None:
    file = tmp_path / "list"
    file.write_text("nobody\n")
    with pytest.raises(ConfigError, match=rf'listeners.web: .*{file}:1: "nobody": expected an address'):
        config_with(f'allow = ["192.0.2.1", "file:{file}"]')
    with pytest.raises(ConfigError, match=r"listeners.web.allow\[1\]: .*: No such file or directory"):
        config_with(f'allow = ["192.0.2.1", "file:{tmp_path}/nothing"]')


def test_the_same_lists_are_shared_and_old_ones_go(tmp_path: Path) -> None:
    file = tmp_path / "list"
    file.write_text("192.0.2.0/24\n")
    first, second = (config_with(f'deny = "file:{file}"') for _ in range(2))
    assert first.listeners["web"].access is second.listeners["web"].access
    watched = weakref.ref(first.listeners["web"].access)
    file.write_text("198.51.100.0/24\n")
    first, second = first.with_lists_read(), second.with_lists_read()
    assert first.listeners["web"].access is second.listeners["web"].access
    gc.collect()
    assert watched() is None
