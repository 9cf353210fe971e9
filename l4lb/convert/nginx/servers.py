"""server blocks as listeners."""

from __future__ import annotations

from collections.abc import Callable

from l4lb.config.options.units import bandwidth_text
from l4lb.convert.drafting.draft import Draft, Listener, Option, Options, Place, Pool, Route
from l4lb.convert.drafting.networks import EVERYBODY, Rule, lists_of, network_of
from l4lb.convert.drafting.refusing import refusing_pool
from l4lb.convert.drafting.values import duration, number, ports_of
from l4lb.convert.nginx.blocks import Directive
from l4lb.convert.nginx.listens import Group, groups_of
from l4lb.convert.nginx.settings import Settings
from l4lb.convert.nginx.upstreams import Upstreams
from l4lb.convert.nginx.values import bytes_of, seconds_of
from l4lb.convert.nginx.variables import Variables, Way

_IDLE_S, _CONNECT_S = 600.0, 60.0  # of nginx
_ANSWERS = ("return", "pass")
_HALF = "as nginx without proxy_half_close: the first FIN ends both sides, after the bytes before it"
_OF_CHECKS = ("interval", "passes", "fails", "port")
_LIMIT_KEYS = ("$binary_remote_addr", "$remote_addr")
_LISTS = "the longest prefix decides, not the order"
_V6_SOURCE = "of IPv6 a source is a /64 network, of which a client may use any address"


def add_server(
    draft: Draft, settings: Settings, upstreams: Upstreams, variables: Variables, zones: dict[str, str]
) -> None:
    """The listeners of one block. `zones` has the keys of limit_conn_zone."""
    if settings.last("proxy_pass") is None:
        if not any(settings.last(name) for name in _ANSWERS):
            settings.report.lost(settings.place, "server", "it has no proxy_pass")
        return
    if settings.is_on("proxy_ssl"):
        why = "l4lb begins no TLS: this server is not converted. Let the client's own TLS go through"
        settings.report.lost(settings.place_of("proxy_ssl"), "proxy_ssl on", why)
        return
    for group in groups_of(settings, variables.port_begins(settings.value("proxy_pass"))):
        port = ports_of(group.addresses[0])[0]
        kind = "udp" if group.udp else "tcp"
        wanted = f"{kind}-{port}" if port else group.addresses[0].rpartition("/")[2]
        listener = Listener(draft.free_listener_name(wanted), group.place, {})
        listener.set("bind", group.addresses, group.place, group.why)
        if group.udp:
            listener.set("protocol", "udp", group.place)
        listener.options |= group.options
        _options(listener, settings, group)
        _admit(listener, settings)
        _limit(listener, settings, zones)
        _route(draft, listener, settings, upstreams, variables, port)
        draft.listeners[listener.name] = listener


def _options(listener: Listener, settings: Settings, group: Group) -> None:
    listener.set(
        "idle_timeout", duration(settings.seconds("proxy_timeout", _IDLE_S)), settings.place_of("proxy_timeout")
    )
    if group.udp:
        for name, key in (("proxy_responses", "udp_responses"), ("proxy_requests", "udp_requests")):
            if (count := number(settings.value(name))) is not None:
                value = "none" if name == "proxy_responses" and not count else count
                listener.set(key, value, settings.place_of(name))
    else:
        half = settings.last("proxy_half_close")
        listener.set("half_close", settings.is_on("proxy_half_close"), settings.place_of("proxy_half_close"),
                     "" if half else _HALF)  # fmt: skip
        if settings.value("tcp_nodelay") == "off":
            listener.set("nodelay", False, settings.place_of("tcp_nodelay"))
    for name, key in (("proxy_download_rate", "bandwidth_down"), ("proxy_upload_rate", "bandwidth_up")):
        text = settings.value(name)
        size = bytes_of(text) if text else 0
        if size is None:
            settings.report.lost(
                settings.place_of(name), f"{name} {text}", "expected a size such as 512k; no variables"
            )
        elif size:
            listener.set(key, bandwidth_text(size), settings.place_of(name))


def _admit(listener: Listener, settings: Settings) -> None:
    """allow and deny."""
    rules: list[Rule] = []
    directives = settings.all("allow", "deny")
    for directive in directives:
        text = directive.arguments[0] if directive.arguments else ""
        try:
            networks = [network_of(one) for one in (EVERYBODY if text == "all" else [text])]
        except ValueError:
            settings.report.lost(directive.place, directive.text, "expected an address, a network or all")
            continue
        rules += [Rule(network, directive.name == "allow", directive.place) for network in networks]
    if not rules:
        return
    allow, deny = lists_of(rules, allow_rest=True)
    for key, entries in (("allow", allow), ("deny", deny)):
        if entries:
            listener.set(key, entries, directives[0].place, _LISTS if key == "allow" or not allow else "")


def _limit(listener: Listener, settings: Settings, zones: dict[str, str]) -> None:
    for directive in settings.all("limit_conn"):
        zone, *rest = [*directive.arguments, ""]
        count = number(rest[0]) if rest else None
        key = zones.get(zone, "")
        if not count:
            settings.report.lost(directive.place, directive.text, "expected a zone and a number")
        elif key in _LIMIT_KEYS:
            limits: dict[str, object] = {"sessions": count}
            if settings.is_on("limit_conn_dry_run"):
                limits["dry_run"] = True
            listener.set("per_source", limits, directive.place, _V6_SOURCE)
        elif key in ("$server_addr", "$server_port", "$server_addr:$server_port"):
            listener.set("max_sessions", count, directive.place, "at this limit l4lb resets new clients")
        else:
            settings.report.lost(
                directive.place, directive.text, "what is limited is a client's address, or a listener"
            )


def _route(
    draft: Draft, listener: Listener, settings: Settings, upstreams: Upstreams, variables: Variables, port: int
) -> None:
    directive = settings.last("proxy_pass")
    assert directive is not None
    target = directive.arguments[0] if directive.arguments else ""
    pool_settings, tcp_only = _pool_settings(settings, "protocol" in listener.options)

    def pool_for(name: str, place: Place) -> str | None:
        pool = upstreams.pool(name, place, pool_settings, tcp_only) if name else refusing_pool(draft, place)
        if pool is not None and name:
            _check(draft.pools[pool], settings)
        return pool

    for way in variables.ways(target, directive.place, port):
        if _goes(listener, way, pool_for):
            break
    if "pool" not in listener.options:
        listener.set("pool", refusing_pool(draft, settings.place), settings.place)


def _goes(listener: Listener, way: Way, pool_for: Callable[[str, Place], str | None]) -> bool:
    """Add a way; whether it takes all clients that are left."""
    shares = {pool: weight for name, weight in way.split if (pool := pool_for(name, way.place))}
    goal: Options = {}
    if len(shares) > 1:
        goal["split"] = Option(shares, way.place, "by the client's address: each stays with its pool")
    elif shares or (pool := pool_for(way.target, way.place)) is not None:
        goal["pool"] = Option(next(iter(shares)) if shares else pool, way.place)
    if not goal:
        return False
    if not way.conditions and "pool" in goal:
        listener.options["pool"] = goal["pool"]
        return True
    given = {key: Option(list(values), way.place) for key, values in way.conditions.items()}
    listener.routes.append(Route(way.place, given | goal))
    if not way.conditions:
        listener.set("pool", next(iter(shares)), way.place)
        return True
    return False


def _pool_settings(settings: Settings, udp: bool) -> tuple[Options, Options]:
    """What is the same for both protocols, and what only TCP has."""
    options: Options = {}
    if settings.is_on("proxy_protocol"):
        options["send_proxy"] = Option("v1", settings.place_of("proxy_protocol"))
    bind = settings.last("proxy_bind")
    if bind is not None and bind.arguments and bind.arguments[0] != "off":
        _source(options, bind, settings)
    if udp:
        return options, {}
    place = settings.place_of("proxy_connect_timeout")
    tcp_only = {"connect_timeout": Option(duration(settings.seconds("proxy_connect_timeout", _CONNECT_S)), place)}
    off = settings.value("proxy_next_upstream") == "off"
    tries = 1 if off else number(settings.value("proxy_next_upstream_tries")) or 0
    tcp_only["connect_attempts"] = Option(tries, settings.place_of("proxy_next_upstream"))
    return options, tcp_only


def _source(options: Options, bind: Directive, settings: Settings) -> None:
    address = bind.arguments[0]
    if address in ("$remote_addr", "$remote_addr:$remote_port"):
        options["source_address"] = Option("client", bind.place)
    elif "$" in address:
        settings.report.lost(bind.place, bind.text, "the source is an address of this host, or the client's")
    else:
        if "transparent" in bind.arguments[1:]:
            settings.report.lost(bind.place, bind.text, "the source is an address of this host, or the client's")
        host = address.rpartition(":")[0] if "." in address and ":" in address else address.strip("[]")
        options["source_address"] = Option(host, bind.place)


def _check(pool: Pool, settings: Settings) -> None:
    """health_check and proxy_session_drop."""
    directive = settings.last("health_check")
    if directive is not None:
        _set_check(pool, directive, settings)
    if settings.is_on("proxy_session_drop"):
        place = settings.place_of("proxy_session_drop")
        pool.set("on_backend_removed", "reset", place)
        if directive is not None:
            pool.set("on_backend_down", "reset", place)


def _set_check(pool: Pool, directive: Directive, settings: Settings) -> None:
    place = directive.place
    given = dict(word.partition("=")[::2] for word in directive.arguments)
    if "udp" in given or "match" in given:
        settings.report.lost(place, directive.text, "write a check of type udp or send_expect with send and expect")
        return
    for name in given:
        if name not in _OF_CHECKS:
            settings.report.lost(place, f"health_check ... {name}", "checks have no option for it")
    pool.set("health.type", "tcp", place)
    pool.set("health.interval", duration(seconds_of(given.get("interval", "")) or 5.0), place)
    pool.set("health.timeout", duration(settings.seconds("health_check_timeout", 5.0)), place)
    for name, key in (("passes", "rise"), ("fails", "fall")):
        pool.set(f"health.{key}", number(given.get(name, "")) or 1, place)
    if port := number(given.get("port", "")):
        pool.set("health.address", f":{port}", place)
