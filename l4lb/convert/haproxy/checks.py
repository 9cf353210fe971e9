"""option httpchk, tcp-check and the like as health checks of a pool. When and where they connect is in servers.py."""

from __future__ import annotations

import re
from collections.abc import Callable

from l4lb.convert.drafting.directives import Table, converted, lost, needless
from l4lb.convert.drafting.draft import Pool
from l4lb.convert.drafting.values import bytes_text
from l4lb.convert.haproxy.proxies import Proxy, parameters
from l4lb.convert.haproxy.words import Line

_NEGATED = "a check says what must be there, not what must not"
_MYSQL_GREETING = r"regex:^[\s\S]{3}\x00\x0a"  # a packet, number 0, of protocol 10
_LDAP_BIND = "hex:300c020101600702010304008000"  # RFC 4511, 4.2: version 3, no name, no password
_LDAP_BOUND = r"regex:\x61.{1,5}\x0a\x01\x00"  # a BindResponse with the result success
_EXPECT_OPTIONS = (
    "comment",
    "ok-status",
    "error-status",
    "tout-status",
    "on-success",
    "on-error",
    "status-code",
    "min-recv",
)

_CONNECT: Table = {
    "port": converted("`health.address`", 1),
    "addr": converted("`health.address`", 1),
    "ssl": converted("`health.type`: https, or tls"),
    "sni": converted("`health.server_name`", 1),
    "send-proxy": converted("`health.send_proxy`"),
    "comment": needless("a remark", 1),
    "default": needless("as the server line says"),
    "linger": needless("connections of checks are closed properly"),
    "alpn": lost("checks offer no protocols", 1),
    "proto": lost("checks of type http speak HTTP/1.1", 1),
    "via-socks4": lost("there are no connections by way of SOCKS"),
}


def set_check(pool: Pool, proxy: Proxy, tls: bool) -> None:
    """The type and its own options; `tls` for checks that begin with a handshake."""
    line = proxy.last(*_CHECKS)
    if line is None:
        pool.set("health.type", "tls" if tls else "tcp", proxy.place)
        return
    _CHECKS[f"option {line.words[1]}"](pool, proxy, line)
    _with_tls(pool, proxy, line, tls or "ssl" in connection_of(proxy))


def connection_of(proxy: Proxy) -> dict[str, str]:
    """What a check by rules says of its connection, with the values; empty where it says nothing."""
    line = next((one for one in _rules(proxy) if one.words[1] == "connect"), None)
    return dict(parameters(line.words[2:], _CONNECT, line, proxy.report)) if line is not None else {}


def _rules(proxy: Proxy) -> list[Line]:
    """Of the check that is in force, its own or else those of the defaults, up to a second connection."""
    line = proxy.last(*_CHECKS)
    command = {"httpchk": "http-check", "tcp-check": "tcp-check"}.get(line.words[1]) if line is not None else None
    if command is None:
        return []
    lines = proxy.own_or_inherited(*(f"{command} {verb}" for verb in ("connect", "send", "send-binary", "expect")))
    connects = [index for index, one in enumerate(lines) if one.words[1] == "connect"]
    end = connects[1] if len(connects) > 1 else len(lines)
    for one in lines[end:]:
        proxy.report.lost(one.place, one.text, "a check has one connection, and the first is taken")
    return lines[:end]


def _with_tls(pool: Pool, proxy: Proxy, line: Line, tls: bool) -> None:
    if not tls:
        return
    kind = pool.tables["health"]["type"].value
    if kind == "http":
        pool.set("health.type", "https", line.place)
    elif kind != "tls":
        pool.tables["health"] = {}
        pool.set("health.type", "tls", line.place)
        proxy.report.lost(line.place, line.text, "by TLS l4lb checks http or the handshake alone, which it becomes")


def _http(pool: Pool, proxy: Proxy, line: Line) -> None:
    words = list(line.words[2:])
    pool.set("health.type", "http", line.place)
    if words and words[0].startswith("/"):
        words.insert(0, "OPTIONS")
    method, path, headers = (words[0] if words else "OPTIONS"), (words[1] if len(words) > 1 else "/"), words[2:]
    given = " ".join(headers)  # behind the version, each on a line of its own
    for name, value in re.findall(r"\n([!-9;-~]+):[ \t]*([^\r\n]*)", given):
        _header(pool, line, name, value)
    rules = _rules(proxy)
    for one in [one for one in rules if one.words[1] == "send"]:
        method, path = _sent(pool, proxy, one, method, path)
    _method(pool, proxy, line, method, path)
    for one in [one for one in rules if one.words[1] == "expect"]:
        _expect_http(pool, proxy, one)


def _method(pool: Pool, proxy: Proxy, line: Line, method: str, path: str) -> None:
    if method == "HEAD":
        pool.set("health.method", "HEAD", line.place)
    elif method not in ("GET", "OPTIONS"):
        proxy.report.lost(line.place, line.text, f"{method}: a check is GET or HEAD; it becomes GET")
    why = "HAProxy asks by OPTIONS; here it is GET" if method == "OPTIONS" else ""
    pool.set("health.path", path, line.place, why)


def _sent(pool: Pool, proxy: Proxy, line: Line, method: str, path: str) -> tuple[str, str]:
    words = line.words[2:]
    at = 0
    while at < len(words):
        name, value = words[at], words[at + 1] if at + 1 < len(words) else ""
        at += 2
        match name:
            case "meth":
                method = value
            case "uri":
                path = value
            case "hdr":
                _header(pool, line, value, words[at] if at < len(words) else "")
                at += 1
            case "ver" | "comment":
                pass
            case _:
                proxy.report.lost(line.place, f"http-check send {name}", "a check sends a path and headers, no body")
    return method, path


def _header(pool: Pool, line: Line, name: str, value: str) -> None:
    if name.lower() == "host":
        pool.set("health.host", value, line.place)
    elif name.lower() not in ("connection", "content-length"):
        headers = pool.tables["health"].get("headers")
        pool.set("health.headers", {**(headers.value if headers else {}), name: value}, line.place)


def _expectation(line: Line) -> tuple[str, str] | None:
    """What is looked for, and the pattern; None for a negation."""
    words = list(line.words[2:])
    while words and words[0] in _EXPECT_OPTIONS:
        del words[:2]
    if not words or words[0].startswith("!"):
        return None
    return words[0], words[1] if len(words) > 1 else ""


def _expect_http(pool: Pool, proxy: Proxy, line: Line) -> None:
    match _expectation(line):
        case ("status", text):
            pool.set("health.expect_status", text.split(","), line.place)
        case ("string", text):
            pool.set("health.expect_body", bytes_text(text.encode("utf-8", "replace")), line.place)
        case ("rstring", text):
            pool.set("health.expect_body", f"regex:{text}", line.place)
        case None:
            proxy.report.lost(line.place, line.text, _NEGATED)
        case (kind, _):
            proxy.report.lost(line.place, line.text, f"{kind}: expect_status takes statuses and ranges")


def _scripted(pool: Pool, proxy: Proxy, line: Line) -> None:
    """tcp-check lines, whose sends and expects alternate in the steps of a check."""
    send: list[str] = []
    expect: list[str] = []
    for one in [one for one in _rules(proxy) if one.words[1] != "connect"]:
        if one.words[1] == "expect":
            pattern = _pattern(proxy, one)
            if pattern is not None:
                expect.append(pattern)
                send += [""] * (len(expect) - len(send))
        else:
            _send(proxy, one, send, expect)
    if not any(send) and not expect:
        pool.set("health.type", "tcp", line.place)
        return
    pool.set("health.type", "send_expect", line.place)
    if any(send):
        pool.set("health.send", send, line.place)
    if expect:
        pool.set("health.expect", expect, line.place)


def _send(proxy: Proxy, line: Line, send: list[str], expect: list[str]) -> None:
    """Adds to the step that follows the last answer."""
    text = line.words[2] if len(line.words) > 2 else ""
    try:
        data = bytes.fromhex(text) if line.words[1] == "send-binary" else text.encode("latin-1", "replace")
    except ValueError:
        proxy.report.lost(line.place, line.text, "expected pairs of hexadecimal digits")
        return
    if len(send) > len(expect):
        before = send.pop()
        data = (bytes.fromhex(before[4:]) if before.startswith("hex:") else before.encode()) + data
    send.append(bytes_text(data))


def _pattern(proxy: Proxy, line: Line) -> str | None:
    match _expectation(line):
        case ("string", text):
            return bytes_text(text.encode("latin-1", "replace"))
        case ("rstring", text):
            return f"regex:{text}"
        case ("binary", text):
            return f"hex:{text}"
        case None:
            proxy.report.lost(line.place, line.text, _NEGATED)
        case _:
            proxy.report.lost(line.place, line.text, "expected string, rstring or binary")
    return None


def _redis(pool: Pool, proxy: Proxy, line: Line) -> None:
    pool.set("health.type", "redis", line.place)


def _postgres(pool: Pool, proxy: Proxy, line: Line) -> None:
    why = "stricter than HAProxy: a server that starts, recovers or is full is down too"
    pool.set("health.type", "postgres", line.place, why)
    if "user" in line.words[:-1]:
        pool.set("health.user", line.words[line.words.index("user") + 1], line.place)


def _mysql(pool: Pool, proxy: Proxy, line: Line) -> None:
    login = "user" in line.words
    why = "the greeting of a server that takes connections" + ("; HAProxy also logs in as a user" if login else "")
    pool.set("health.type", "send_expect", line.place, why)
    pool.set("health.expect", _MYSQL_GREETING, line.place)


def _smtp(pool: Pool, proxy: Proxy, line: Line) -> None:
    hello = " ".join(line.words[2:4]) if len(line.words) > 3 else "HELO localhost"
    pool.set("health.type", "send_expect", line.place)
    pool.set("health.send", ["", f"{hello}\r\n", "QUIT\r\n"], line.place)
    pool.set("health.expect", ["regex:^2", "regex:^\\s*2\\d\\d", ""], line.place)


def _ldap(pool: Pool, proxy: Proxy, line: Line) -> None:
    pool.set("health.type", "send_expect", line.place)
    pool.set("health.send", _LDAP_BIND, line.place)
    pool.set("health.expect", _LDAP_BOUND, line.place)


def _tls(pool: Pool, proxy: Proxy, line: Line) -> None:
    pool.set("health.type", "tls", line.place)


def _plain(pool: Pool, proxy: Proxy, line: Line) -> None:
    pool.set("health.type", "tcp", line.place)


_CHECKS: dict[str, Callable[[Pool, Proxy, Line], None]] = {
    "option tcp-check": _scripted,
    "option httpchk": _http,
    "option redis-check": _redis,
    "option pgsql-check": _postgres,
    "option mysql-check": _mysql,
    "option smtpchk": _smtp,
    "option ldap-check": _ldap,
    "option ssl-hello-chk": _tls,
    "option spop-check": _plain,
    "option external-check": _plain,
}
