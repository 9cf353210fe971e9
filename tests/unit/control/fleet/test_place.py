from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l4lb.control.fleet.place import Place, is_url, parse_node, parse_place
from l4lb.net.services.etcd import Login
from l4lb.net.services.json_api import Access


def test_servers_prefix_and_options() -> None:
    assert parse_place("etcd://10.0.0.1/l4lb/prod/") == Place(
        "etcd://10.0.0.1:2379/l4lb/prod", Access(["http://10.0.0.1:2379"], 5.0), Login(), "/l4lb/prod/"
    )
    options = "ca_file=/a%20b/ca.pem&cert_file=c&key_file=k&user=root&password_file=p%26w&timeout=250ms&cache=/var/c"
    found = parse_place(f"etcds://etcd-1.example,[2001:db8::1]:1234/x?{options}")
    endpoints = ["https://etcd-1.example:2379", "https://[2001:db8::1]:1234"]
    assert found.access == Access(endpoints, 0.25, "/a b/ca.pem", "c", "k")
    assert (found.login, found.cache) == (Login("root", "p&w"), "/var/c")
    assert found.config_name == "etcds://etcd-1.example:2379,[2001:db8::1]:1234/x/config"
    assert found.files == ["p&w", "/a b/ca.pem", "c", "k"]


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("etcd:/host/x", "expected etcd://HOST:2379/PREFIX"),
        ("http://host/x", "expected etcd://HOST:2379/PREFIX"),
        ("etcd://host", "the prefix of the keys is missing"),
        ("etcd://host//", "the prefix of the keys is missing"),
        ("etcd:///x", '"": expected HOST:PORT'),
        ("etcd://a,,b/x", '"": expected HOST:PORT'),
        ("etcd://a:0/x", '"a:0": expected HOST:PORT'),
        ("etcd://a:70000/x", '"a:70000": expected HOST:PORT'),
        ("etcd://a b/x", '"a b": expected HOST:PORT'),
        ("etcd://root:secret@a/x", "a user is given as [?]user=NAME&password_file=FILE"),
        ("etcd://a/x//y", '"/x//y": expected names with slashes between them'),
        ("etcd://a/x%2Fy", '"/x%2Fy": expected names'),
        ("etcd://a/x#y", "a fragment is not expected"),
        ("etcd://a/x?", ""),
        ("etcd://a/x?user", "expected OPTION=VALUE"),
        ("etcd://a/x?usr=a", '"usr": unknown option; expected user, password_file, .* or cache'),
        ("etcd://a/x?cache=a&cache=b", '"cache": given twice'),
        ("etcd://a/x?cache=", '"cache": expected a value'),
        ("etcd://a/x?cache=%00", '"cache": expected a value'),
        ("etcd://a/x?user=root", '"user" and "password_file" are given together'),
        ("etcd://a/x?ca_file=ca", '"ca_file": only with etcds://'),
        ("etcds://a/x?key_file=k", '"key_file": only together with cert_file'),
        ("etcd://a/x?timeout=soon", '"timeout": expected a duration'),
        ("etcd://a/x?timeout=0s", '"timeout": .* above 0'),
        ("etcd://a/x?timeout=61s", '"timeout": at most 60 s'),
    ],
)
def test_what_is_wrong_is_named(url: str, reason: str) -> None:
    if not reason:
        assert parse_place(url)
        return
    with pytest.raises(ValueError, match=reason) as caught:
        parse_place(url)
    assert type(caught.value) is ValueError
    assert "secret" not in str(caught.value) or "@" in url


@given(st.one_of(st.text(), st.text().map("etcd://{}".format), st.text().map("etcds://a/x?{}".format)))
def test_nothing_but_a_value_error_comes_of_any_text(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert parse_place(text).prefix.endswith("/")


def test_a_url_is_told_from_a_file() -> None:
    assert is_url("etcd://a/b")
    assert is_url("etcds://a/b")
    assert not any(map(is_url, ("lb.toml", "/etc/etcd", "etcd:", "http://a", "etcd/x://", "C://x")))


def test_the_name_of_a_node() -> None:
    assert parse_node("lb-1.example_2") == "lb-1.example_2"
    for name in ("", "a/b", "-a", "a b", "ä", "x" * 64, "a\n"):
        with pytest.raises(ValueError, match="expected up to 63 letters"):
            parse_node(name)
