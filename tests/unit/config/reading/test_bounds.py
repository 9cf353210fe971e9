"""What a configuration may be made of: too much, too deep, or no text at all is one line that says so."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from l4lb.config import Config
from l4lb.config.reading.bounds import DEPTH_MAX, FILE_BYTES_MAX
from l4lb.errors import ConfigError

HEAD = '[listeners.web]\nbind = ":0"\npool = "web"\n'
POOL = '[pools.web]\nbackends = ["127.0.0.1:1"]\n'


def lines_of(text: str | bytes, file: Path) -> list[str]:
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    began = time.monotonic()
    with pytest.raises(ConfigError) as caught:
        Config.load(file)
    assert time.monotonic() - began < 30, "bounded, also on a busy machine"
    return str(caught.value).splitlines()


DEEP = {
    "header": "[" + ".".join(["a"] * 100_000) + "]\n",
    "key": ".".join(["a"] * 100_000) + " = 1\n",
    "lists": "a = " + "[" * 100_000 + "]" * 100_000 + "\n",
    "tables": "a = " + "{a = " * 100_000 + "1" + "}" * 100_000 + "\n",
    "open": "[" * 100_000,
}


@pytest.mark.parametrize("case", DEEP)
def test_too_deep_says_on_which_line(case: str, tmp_path: Path) -> None:
    (line,) = lines_of("# first\n" + DEEP[case], tmp_path / "lb.toml")
    message = f"more than {DEPTH_MAX} levels of tables, lists or dotted keys within each other"
    assert line == f"{tmp_path}/lb.toml:2: {message}"


def test_what_only_looks_deep_is_not() -> None:
    """Dots and brackets in strings and comments, and many side by side."""
    text = "[" * 100 + "." * 100
    quoted = f'# {text}\n{HEAD}{POOL}health = {{ type = "send_expect", send = [\'{text}\', "{text}\\"{text}"] }}\n'
    assert Config.loads(quoted).pools["web"].health.send[0] == text
    many = ", ".join(f'"10.0.{number}.1:{port}"' for number in range(200) for port in range(1, 11))
    assert len(Config.loads(f"{HEAD}[pools.web]\nbackends = [{many}]\n").pools["web"].backends) == 2000


def test_too_large(tmp_path: Path) -> None:
    expected = [f"{tmp_path}/lb.toml: cannot be read: larger than {FILE_BYTES_MAX >> 20} MiB"]
    assert lines_of("#" * (FILE_BYTES_MAX + 1), tmp_path / "lb.toml") == expected
    with pytest.raises(ConfigError, match="a device, expected a file"):
        Config.load("/dev/zero")


def test_thousands_of_mistakes_are_told_in_part(tmp_path: Path) -> None:
    text = HEAD + "".join(f"key{number} = 1\n" for number in range(20_000)) + POOL
    found = lines_of(text, tmp_path / "lb.toml")
    assert len(found) == 1001
    assert found[0].endswith("19000 more problems")


NO_TEXT = {
    "mark": ("\ufeff[global]\n", ":1: begins with a byte order mark (U+FEFF), which TOML does not have"),
    "utf-16": ("[global]\n".encode("utf-16"), ": not UTF-8: it is UTF-16, by its byte order mark"),
    "bytes": (b"[global]\nlog_level = '\xff'\n", ": not UTF-8 (byte 22)"),
    "surrogate": ('[listeners."\\ud800"]\n', ":1: not TOML: "),
    "digits": ("[global]\nhash_seed = " + "9" * 5000, ": not TOML: "),
    "twice": ("[global]\nhash_seed = 1\nhash_seed = 2\n", ":3: not TOML: "),
}  # fmt: skip


@pytest.mark.parametrize("case", NO_TEXT)
def test_what_is_no_text_is_named(case: str, tmp_path: Path) -> None:
    content, expected = NO_TEXT[case]
    (line,) = lines_of(content, tmp_path / "lb.toml")
    assert line.startswith(f"{tmp_path}/lb.toml{expected}"), line


def test_what_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path, reason in ((tmp_path, "Is a directory"), (tmp_path / "loop", "Too many levels of symbolic links")):
        with pytest.raises(ConfigError) as caught:
            Config.load(path)
        assert str(caught.value) == f"{path}: cannot be read: {reason}"
    with pytest.raises(ConfigError, match="cannot be read: a NUL in the path"):
        Config.load("a\0b")
    odd = os.fsdecode(bytes(tmp_path) + b"/\xff\n.toml")
    with pytest.raises(ConfigError) as caught:
        Config.load(odd)
    assert str(caught.value) == f"{tmp_path}/\\udcff\\n.toml: cannot be read: No such file or directory"


VALUES = {
    "address = 'tcp://10.0.0.1:80'": 'without "tcp://": expected "host:port"',
    "address = 'http://10.0.0.1:80/'": 'without "http://": expected "host:port"',
    "address = ' 10.0.0.1:80'": "a blank at the beginning or the end",
    "address = '10.0.0.1:80 '": "a blank at the beginning or the end",
    'address = "10.0.0.1:80\\n"': "a blank at the beginning or the end",
    'address = "10.0.0.1\\u0000:80"': "a control character (U+0000), which no address has",
    'address = "unix:/run/a\\u0000b"': "a control character (U+0000), which no address has",
    'address = "\\ufeff10.0.0.1:80"': "a byte order mark (U+FEFF), which no address has",
    "address = ''": 'expected "host:port"',
    "address = '10.0.0.1'": 'expected "host:port"',
    "address = '10.0.0.1:-1'": "-1 is not a port",
    "address = '10.0.0.1:65536'": "ports go from 0 to 65535",
    "address = '10.0.0.1:٣'": "٣ is not a port",
    "address = 1": "expected",
    "address = '10.0.0.1:80'\nweight = true": "expected a number, not true or false",
    "address = '10.0.0.1:80'\nweight = 1.5": "expected an integer",
    "address = '10.0.0.1:80'\nweight = nan": "expected",
    "address = '10.0.0.1:80'\nmax_sessions = 99999999999999999999": "expected less than or equal to 2147483647",
    "address = '10.0.0.1:80'\npriority = 1979-05-27": "expected",
    "address = '10.0.0.1:80'\nid = \"a\\nb\"": "has a control character (U+000A)",
    f"address = '10.0.0.1:80'\nid = '{'x' * 256}'": "should have at most 255 characters",
}


@pytest.mark.parametrize("entry", VALUES)
def test_a_value_that_cannot_be_says_what_is_wrong(entry: str, tmp_path: Path) -> None:
    found = lines_of(f"{HEAD}[pools.web]\n[[pools.web.backends]]\n{entry}\n", tmp_path / "lb.toml")
    assert len(found) == 1, found
    assert VALUES[entry] in found[0]


OPTIONS = {
    "[global]\nstate_file = \"/tmp/a\\u0000\"": "has a control character (U+0000)",
    "[global]\nlog = \"/tmp/a\\u0000\"": "has a control character (U+0000)",
    "[global]\ndrain_timeout = inf": "expected a duration",
    "[global]\ndrain_timeout = nan": "expected a duration",
    f"[global]\ndrain_timeout = {'9' * 400}": "expected a duration",
    f"[global]\ndrain_timeout = '{'9' * 400}h'": "expected a duration",
    "[global]\ndrain_timeout = '٣s'": "expected a duration",
    "[global]\ndrain_timeout = 07:32:00": "expected a duration",
    f"[global]\nworkers = {'9' * 400}": "expected less than or equal to 64",
    "[listeners.\"a\\nb\"]\nbind = ':9'\npool = 'web'": "has a control character (U+000A)",
    f"[listeners.{'a' * 300}]\nbind = ':9'\npool = 'web'": "at most 255 characters",
    f"[listeners.other]\nbind = ':9'\npool = 'web'\nbandwidth_up = '{'9' * 400}GB/s'": "expected a bandwidth",
    "[listeners.other]\nbind = ':9'\npool = 'web'\nsession_rate = '9999999999999999999/s'": "expected a rate",
    f"[pools.other]\nbackends = ':1'\nhealth = {{ type = 'http', expect_body = 'regex:{'(' * 5000}{')' * 5000}' }}":
        "too much within each other",
}  # fmt: skip


@pytest.mark.parametrize("entry", OPTIONS)
def test_an_option_that_cannot_be_says_what_is_wrong(entry: str, tmp_path: Path) -> None:
    found = lines_of(f"{HEAD}{POOL}{entry}\n", tmp_path / "lb.toml")
    assert len(found) == 1, found
    assert OPTIONS[entry] in found[0], found
