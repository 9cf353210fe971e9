"""The backend part of a section as a pool."""

from __future__ import annotations

from l4lb.convert.drafting.draft import Option, Pool
from l4lb.convert.drafting.values import duration, is_name
from l4lb.convert.haproxy.parameters import SERVER
from l4lb.convert.haproxy.proxies import Proxy, parameters
from l4lb.convert.haproxy.servers import fill, server_address, servers_of, set_source

_RETRIES = 3  # HAProxy's default
_POLICIES = {
    "roundrobin": "round_robin",
    "static-rr": "round_robin",
    "leastconn": "least_sessions",
    "first": "first",
    "source": "maglev",
}
_HASHING = ("maglev", "ring")
_STICK = ("stick on", "stick match", "stick store-request")


def pool_of(proxy: Proxy) -> Pool | None:
    """None for a section without servers that can be converted."""
    pool = Pool(proxy.name, proxy.place)
    _policy(pool, proxy)
    _stick(pool, proxy)
    _connecting(pool, proxy)
    if (source := proxy.last("source")) is not None:
        given = dict(parameters(["source", *source.words[1:]], SERVER, source, proxy.report))
        set_source(pool, given.get("source", ""), given.get("usesrc", ""), source, proxy)
    servers = servers_of(proxy)
    fill(pool, proxy, servers)
    if not servers:
        _dispatch(pool, proxy)
    for backend in pool.backends:
        if is_name(backend.value["address"]) and not backend.why:
            backend.why = "one backend, at the first address of the name that works"
            break
    return pool if pool.backends or "discovery" in pool.tables else None


def _policy(pool: Pool, proxy: Proxy) -> None:
    line = proxy.last("balance")
    if line is None or len(line.words) < 2:
        return
    name, _, argument = line.words[1].partition("(")
    if name == "random":
        policy = "random" if argument.startswith("1)") else "p2c"
        why = "the less busy of two that are drawn, as HAProxy does" if policy == "p2c" else ""
        pool.set("policy", policy, line.place, why)
    elif name in _POLICIES:
        pool.set("policy", _POLICIES[name], line.place)
    elif name == "hash" and line.words[2:] == ("src",):
        pool.set("policy", "maglev", line.place)
    else:
        why = "l4lb chooses by load or by a hash of addresses: see policy and hash_key; it becomes round_robin"
        proxy.report.lost(line.place, line.text, why)
    _hash_type(pool, proxy)


def _hash_type(pool: Pool, proxy: Proxy) -> None:
    if "policy" not in pool.options or pool.options["policy"].value not in _HASHING:
        return
    line = proxy.last("hash-type")
    if line is not None and line.words[1:2] == ("consistent",):
        pool.set("policy", "ring", line.place)
    else:
        pool.options["policy"].why = "when backends come and go, few clients move; HAProxy moves most of them"
    factor = proxy.count("hash-balance-factor")
    if factor:
        pool.set("bounded_load", factor / 100, proxy.line_of("hash-balance-factor").place)


def _stick(pool: Pool, proxy: Proxy) -> None:
    """Affinity by the client's address is what policies that hash give, without a table."""
    for line in proxy.all(*_STICK):
        if line.words[2:3] == ("src",) and not {"if", "unless"} & set(line.words):
            why = "a client keeps its backend by a hash of its address; HAProxy has a table, which forgets"
            if "policy" not in pool.options or pool.options["policy"].value not in _HASHING:
                pool.set("policy", "maglev", line.place, why)
        else:
            proxy.report.lost(line.place, line.text, "affinity is by the client's address: see policy and hash_key")
    for line in proxy.all("stick-table"):
        if "peers" in line.words:
            why = "nothing is shared: with one configuration and one hash_seed, every node has the same tables"
            proxy.report.lost(line.place, "stick-table ... peers", why)


def _connecting(pool: Pool, proxy: Proxy) -> None:
    seconds = proxy.seconds("timeout connect")
    if seconds:
        pool.set("connect_timeout", duration(seconds), proxy.line_of("timeout connect").place)
    retries = proxy.count("retries")
    line = proxy.last("retries")
    place = line.place if line is not None else proxy.place
    attempts = (_RETRIES if retries is None else retries) + 1
    pool.set("connect_attempts", attempts, place)
    if attempts > 1:
        pool.set("retry_pause", duration(min(seconds or 1.0, 1.0)), place)


def _dispatch(pool: Pool, proxy: Proxy) -> None:
    line = proxy.last("dispatch")
    if line is None or len(line.words) < 2:
        return
    address = server_address(line.words[1])
    if address is None:
        proxy.report.lost(line.place, line.text, "expected HOST:PORT")
        return
    pool.backends.append(Option({"address": address}, line.place))
    pool.set("health.type", "none", line.place, "nothing checks the address of dispatch")
    pool.set("passive.failures", 0, line.place)
