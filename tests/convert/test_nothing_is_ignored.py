"""What the tables call converted changes the result: each directive with one line of its own in a configuration that is
otherwise the same."""

from __future__ import annotations

import pytest

from l4lb.convert.converting import Format, convert
from l4lb.convert.drafting.directives import Fate, Table
from l4lb.convert.haproxy import keywords, parameters
from l4lb.convert.nginx import keywords as nginx

Cases = dict[str, tuple[str, str]]  # the configuration, with {} for what is added, and what that is

# ---- HAProxy ----

LISTEN = "listen web\n bind :2\n{}\n server s 127.0.0.1:9 check\n"
FRONTEND = (
    "frontend f\n bind :2\n{}\n default_backend b\nbackend b\n server s 127.0.0.1:9\nbackend c\n server s 127.0.0.1:8\n"
)
GLOBAL = 'global\n setenv X 127.0.0.1\n{}\nlisten web\n bind "$X:2"\n log global\n server s 127.0.0.1:9\n'
BIND = "listen web\n bind :2 {}\n server s 127.0.0.1:9\n"
SERVER = "listen web\n bind :2\n server s 127.0.0.1:9 {}\n"


def after(template: str, *lines: str) -> str:
    """With lines before what is added."""
    return template.replace("{}", "".join(f" {line}\n" for line in lines) + "{}")


OF_SECTIONS: Cases = {
    "global": (f"defaults\n{{}}\n maxconn 7\n{LISTEN.format('')}", "global"),
    "defaults": (f"defaults\n{{}}\n{LISTEN.format('')}", " timeout client 7s"),
    "frontend": (f"{{}}\n{LISTEN.format('')}", "frontend f\n bind :3\n default_backend web"),
    "backend": (f"{FRONTEND.format(' use_backend x if TRUE')}{{}}\n", "backend x\n server s 127.0.0.1:7"),
    "listen": (f"{{}}\n{LISTEN.format('')}", "listen x\n bind :3\n server s 127.0.0.1:8"),
}
OF_GLOBAL: Cases = {
    "maxconn": (GLOBAL, " maxconn 7"),
    "nbthread": (GLOBAL, " nbthread 2"),
    "log": (GLOBAL, " log /dev/log local0"),
    "hard-stop-after": (GLOBAL, " hard-stop-after 7s"),
    "setenv": (GLOBAL, " setenv X 127.0.0.2"),
    "presetenv": (GLOBAL.replace(" setenv X 127.0.0.1\n", ""), " presetenv X 127.0.0.2"),
    "unsetenv": (GLOBAL, " unsetenv X"),
    "resetenv": (GLOBAL, " resetenv HOME"),
}
RATE = " tcp-request connection reject if { src_conn_rate gt 100 }"
OF_PROXY: Cases = {
    "mode": (LISTEN, " mode http"),
    "bind": (LISTEN, " bind :3"),
    "server": (LISTEN, " server t 127.0.0.1:8"),
    "default-server": (LISTEN, " default-server weight 7"),
    "server-template": (LISTEN, " server-template t 2 a.example:80"),
    "dispatch": ("listen web\n bind :2\n{}\n", " dispatch 127.0.0.1:9"),
    "balance": (LISTEN, " balance leastconn"),
    "hash-type": (after(LISTEN, "balance source"), " hash-type consistent"),
    "hash-balance-factor": (after(LISTEN, "balance source"), " hash-balance-factor 150"),
    "default_backend": (FRONTEND.replace(" default_backend b\n", ""), " default_backend b"),
    "use_backend": (FRONTEND, " use_backend c if { src ::1 }"),
    "acl": (FRONTEND.replace("{}", "{}\n use_backend c if x"), " acl x src ::1"),
    "maxconn": (LISTEN, " maxconn 7"),
    "backlog": (LISTEN, " backlog 7"),
    "rate-limit sessions": (LISTEN, " rate-limit sessions 7"),
    "timeout client": (LISTEN, " timeout client 7s"),
    "timeout server": (LISTEN, " timeout server 7s"),
    "timeout tunnel": (LISTEN, " timeout tunnel 7s"),
    "timeout client-fin": (LISTEN, " timeout client-fin 7s"),
    "timeout server-fin": (LISTEN, " timeout server-fin 7s"),
    "timeout connect": (LISTEN, " timeout connect 7s"),
    "timeout queue": (LISTEN.replace("check", "maxconn 7"), " timeout queue 7s"),
    "timeout check": (LISTEN, " timeout check 1s"),
    "retries": (LISTEN, " retries 7"),
    "source": (LISTEN, " source 127.0.0.3"),
    "log": (f"global\n log /dev/log daemon\n{LISTEN}", " log global"),
    "option tcpka": (LISTEN, " option tcpka"),
    "option clitcpka": (LISTEN, " option clitcpka"),
    "option srvtcpka": (LISTEN, " option srvtcpka"),
    "clitcpka-idle": (after(LISTEN, "option tcpka"), " clitcpka-idle 7s"),
    "clitcpka-intvl": (after(LISTEN, "option tcpka"), " clitcpka-intvl 7s"),
    "clitcpka-cnt": (after(LISTEN, "option tcpka"), " clitcpka-cnt 7"),
    "srvtcpka-idle": (after(LISTEN, "option tcpka"), " srvtcpka-idle 7s"),
    "srvtcpka-intvl": (after(LISTEN, "option tcpka"), " srvtcpka-intvl 7s"),
    "srvtcpka-cnt": (after(LISTEN, "option tcpka"), " srvtcpka-cnt 7"),
    "option allbackups": (
        f"{LISTEN} server t 127.0.0.1:8 backup\n server u 127.0.0.1:7 backup\n",
        " option allbackups",
    ),
    "option tcp-check": (f"defaults\n option redis-check\n{LISTEN}", " option tcp-check"),
    "tcp-check connect": (after(LISTEN, "option tcp-check"), " tcp-check connect port 81"),
    "tcp-check send": (after(LISTEN, "option tcp-check"), " tcp-check send hello"),
    "tcp-check send-binary": (after(LISTEN, "option tcp-check"), " tcp-check send-binary 0a"),
    "tcp-check expect": (after(LISTEN, "option tcp-check"), " tcp-check expect string hello"),
    "option httpchk": (LISTEN, " option httpchk"),
    "http-check send": (after(LISTEN, "option httpchk"), " http-check send uri /up"),
    "http-check expect": (after(LISTEN, "option httpchk"), " http-check expect status 204"),
    "http-check connect": (after(LISTEN, "option httpchk"), " http-check connect ssl"),
    "option redis-check": (LISTEN, " option redis-check"),
    "option pgsql-check": (LISTEN, " option pgsql-check"),
    "option mysql-check": (LISTEN, " option mysql-check"),
    "option smtpchk": (LISTEN, " option smtpchk"),
    "option ldap-check": (LISTEN, " option ldap-check"),
    "option ssl-hello-chk": (LISTEN, " option ssl-hello-chk"),
    "stick-table": (LISTEN.replace("{}", f"{{}}\n{RATE}"), " stick-table type ip size 1m store conn_rate(1s)"),
    "stick on": (LISTEN, " stick on src"),
    "stick match": (LISTEN, " stick match src"),
    "stick store-request": (LISTEN, " stick store-request src"),
    "tcp-request connection": (LISTEN, " tcp-request connection reject if { src ::1 }"),
    "tcp-request session": (LISTEN, " tcp-request session reject if { src ::1 }"),
    "tcp-request content": (LISTEN, " tcp-request content reject if { src ::1 }"),
    "disabled": (LISTEN, " disabled"),
}
OF_BIND: Cases = {
    "accept-proxy": (BIND, "accept-proxy"),
    "backlog": (BIND, "backlog 7"),
    "maxconn": (BIND, "maxconn 7"),
    "defer-accept": (BIND, "defer-accept"),
    "tfo": (BIND, "tfo"),
    "tcp-ut": (BIND, "tcp-ut 7s"),
    "transparent": (BIND, "transparent"),
    "v6only": (BIND.replace(":2", ":::2"), "v6only"),
}
OF_SERVER: Cases = {
    "weight": (SERVER, "weight 7"),
    "maxconn": (SERVER, "maxconn 7"),
    "maxqueue": (SERVER.replace("9 ", "9 maxconn 7 "), "maxqueue 7"),
    "backup": (SERVER, "backup"),
    "no-backup": (SERVER.replace("9 ", "9 backup "), "no-backup"),
    "disabled": (SERVER, "disabled"),
    "enabled": (SERVER.replace("9 ", "9 disabled "), "enabled"),
    "check": (SERVER, "check"),
    "no-check": (SERVER.replace("9 ", "9 check "), "no-check"),
    "inter": (SERVER.replace("9 ", "9 check "), "inter 7s"),
    "fastinter": (SERVER.replace("9 ", "9 check "), "fastinter 7s"),
    "downinter": (SERVER.replace("9 ", "9 check "), "downinter 7s"),
    "rise": (SERVER.replace("9 ", "9 check "), "rise 7"),
    "fall": (SERVER.replace("9 ", "9 check "), "fall 7"),
    "port": (SERVER.replace("9 ", "9 check "), "port 81"),
    "addr": (SERVER.replace("9 ", "9 check "), "addr 127.0.0.3"),
    "check-ssl": (SERVER.replace("9 ", "9 check "), "check-ssl"),
    "check-sni": (SERVER.replace("9 ", "9 check check-ssl "), "check-sni a.example"),
    "check-send-proxy": (SERVER.replace("9 ", "9 check "), "check-send-proxy"),
    "send-proxy": (SERVER, "send-proxy"),
    "send-proxy-v2": (SERVER, "send-proxy-v2"),
    "no-send-proxy": (SERVER.replace("9 ", "9 send-proxy "), "no-send-proxy"),
    "no-send-proxy-v2": (SERVER.replace("9 ", "9 send-proxy-v2 "), "no-send-proxy-v2"),
    "proxy-v2-options": (SERVER.replace("9 ", "9 send-proxy-v2 "), "proxy-v2-options crc32c"),
    "slowstart": (SERVER.replace("9 ", "9 check "), "slowstart 7s"),
    "source": (SERVER, "source 127.0.0.3"),
    "usesrc": (SERVER.replace("9 ", "9 source 0.0.0.0 "), "usesrc clientip"),
    "agent-check": (SERVER.replace("9 ", "9 agent-port 81 "), "agent-check"),
    "agent-port": (SERVER.replace("9 ", "9 agent-check "), "agent-port 81"),
    "agent-inter": (SERVER.replace("9 ", "9 agent-check agent-port 81 "), "agent-inter 7s"),
    "no-agent-check": (SERVER.replace("9 ", "9 agent-check agent-port 81 "), "no-agent-check"),
    "observe": (SERVER, "observe layer4"),
    "error-limit": (SERVER.replace("9 ", "9 observe layer4 "), "error-limit 7"),
    "ca-file": (SERVER.replace("9 ", "9 check check-ssl verifyhost a.example "), "ca-file @system-ca"),
    "verify": (SERVER.replace("9 ", "9 check check-ssl verifyhost a.example ca-file @system-ca "), "verify none"),
    "verifyhost": (SERVER.replace("9 ", "9 check check-ssl ca-file @system-ca "), "verifyhost a.example"),
    "on-marked-down": (SERVER.replace("9 ", "9 check "), "on-marked-down shutdown-sessions"),
}

# ---- nginx ----

STREAM = (
    "stream {\n@\nserver { listen 2; proxy_pass a; {} }\n upstream a { server 127.0.0.1:9; server 127.0.0.1:8; }\n}\n"
)
UDP = STREAM.replace("listen 2", "listen 2 udp")
PROXIED = STREAM.replace("listen 2", "listen 2 proxy_protocol")
CHECKED = STREAM.replace("proxy_pass", "health_check; proxy_pass")
LIMITED = STREAM.replace("@", "limit_conn_zone $remote_addr zone=z:1m;")
BY = STREAM.replace("proxy_pass a", "proxy_pass $x").replace("{}", "").replace("@", "{}")
LISTENING = STREAM.replace("listen 2;", "listen 2 {};").replace("{} }", "}")
UPSTREAM = (
    "stream {\nserver { listen 2; proxy_pass a; }\n upstream a { {} server 127.0.0.1:9; server 127.0.0.1:8; }\n}\n"
)
BACKEND = UPSTREAM.replace("{} server 127.0.0.1:9;", "server 127.0.0.1:9 {};")

OF_MAIN: Cases = {
    "stream": ("{}\n", "stream { server { listen 2; proxy_pass 127.0.0.1:9; } }"),
    "worker_processes": ("{}\n" + STREAM.replace("{} }", "}"), "worker_processes 7;"),
    "worker_cpu_affinity": ("{}\n" + STREAM.replace("{} }", "}"), "worker_cpu_affinity auto;"),
    "worker_shutdown_timeout": ("{}\n" + STREAM.replace("{} }", "}"), "worker_shutdown_timeout 7s;"),
    "error_log": ("{}\n" + STREAM.replace("{} }", "}"), "error_log stderr;"),
}
OF_STREAM: Cases = {
    "upstream": (BY.replace("$x", "b"), "upstream b { server 127.0.0.1:7; }"),
    "server": (BY.replace("$x", "a"), "server { listen 3; proxy_pass a; }"),
    "map": (BY, "map $ssl_preread_server_name $x { b.example a; }"),
    "geo": (BY, "geo $x { default a; }"),
    "split_clients": (BY, "split_clients $remote_addr $x { * a; }"),
    "listen": (STREAM, "listen 3;"),
    "proxy_pass": (STREAM.replace("proxy_pass a;", ""), "proxy_pass a;"),
    "proxy_timeout": (STREAM, "proxy_timeout 7s;"),
    "proxy_connect_timeout": (STREAM, "proxy_connect_timeout 7s;"),
    "proxy_half_close": (STREAM, "proxy_half_close on;"),
    "proxy_next_upstream": (STREAM, "proxy_next_upstream off;"),
    "proxy_next_upstream_tries": (STREAM, "proxy_next_upstream_tries 1;"),
    "proxy_protocol": (STREAM, "proxy_protocol on;"),
    "proxy_protocol_timeout": (PROXIED, "proxy_protocol_timeout 7s;"),
    "proxy_bind": (STREAM, "proxy_bind 127.0.0.3;"),
    "proxy_responses": (UDP, "proxy_responses 7;"),
    "proxy_requests": (UDP, "proxy_requests 7;"),
    "proxy_download_rate": (STREAM, "proxy_download_rate 7k;"),
    "proxy_upload_rate": (STREAM, "proxy_upload_rate 7k;"),
    "proxy_socket_keepalive": (STREAM, "proxy_socket_keepalive on;"),
    "proxy_session_drop": (STREAM, "proxy_session_drop on;"),
    "tcp_nodelay": (STREAM, "tcp_nodelay off;"),
    "allow": (STREAM, "allow ::1; deny all;"),
    "deny": (STREAM, "deny ::1;"),
    "limit_conn": (LIMITED, "limit_conn z 7;"),
    "limit_conn_zone": (BY.replace("$x;", "a; limit_conn z 7;"), "limit_conn_zone $remote_addr zone=z:1m;"),
    "limit_conn_dry_run": (LIMITED.replace("proxy_pass", "limit_conn z 7; proxy_pass"), "limit_conn_dry_run on;"),
    "set_real_ip_from": (PROXIED, "set_real_ip_from 10.0.0.0/8;"),
    "access_log": (STREAM, "access_log /tmp/access.log;"),
    "health_check": (STREAM, "health_check;"),
    "health_check_timeout": (CHECKED, "health_check_timeout 7s;"),
}
OF_LISTEN: Cases = {
    "udp": (LISTENING, "udp"),
    "proxy_protocol": (LISTENING, "proxy_protocol"),
    "backlog": (LISTENING, "backlog=7"),
    "fastopen": (LISTENING, "fastopen=7"),
    "deferred": (LISTENING, "deferred"),
    "so_keepalive": (LISTENING, "so_keepalive=on"),
    "ipv6only": (LISTENING.replace("listen 2", "listen [::]:2"), "ipv6only=off"),
}
OF_UPSTREAM: Cases = {
    "server": (UPSTREAM, "server 127.0.0.1:7;"),
    "least_conn": (UPSTREAM, "least_conn;"),
    "least_time": (UPSTREAM, "least_time connect;"),
    "random": (UPSTREAM, "random;"),
    "hash": (UPSTREAM, "hash $remote_addr;"),
}
OF_BACKEND: Cases = {
    "weight": (BACKEND, "weight=7"),
    "max_conns": (BACKEND, "max_conns=7"),
    "max_fails": (BACKEND, "max_fails=7"),
    "fail_timeout": (BACKEND, "fail_timeout=7s"),
    "slow_start": (BACKEND, "slow_start=7s"),
    "backup": (BACKEND, "backup"),
    "down": (BACKEND, "down"),
    "drain": (BACKEND, "drain"),
}

# ---- both ----

TABLES: list[tuple[Format, Table, Cases, set[str]]] = [  # the last: what has no effect of its own
    ("haproxy", keywords.SECTIONS, OF_SECTIONS, set()),
    ("haproxy", keywords.GLOBAL, OF_GLOBAL, set()),
    ("haproxy", keywords.PROXY, OF_PROXY, set()),
    ("haproxy", parameters.BIND, OF_BIND, {"v4v6"}),  # as without it
    ("haproxy", parameters.SERVER, OF_SERVER, set()),
    ("nginx", nginx.MAIN, OF_MAIN, {"include"}),  # see test_nginx.py
    ("nginx", nginx.STREAM, OF_STREAM, {"include"}),
    ("nginx", nginx.LISTEN, OF_LISTEN, set()),
    ("nginx", nginx.UPSTREAM, OF_UPSTREAM, {"include"}),
    ("nginx", nginx.SERVER, OF_BACKEND, set()),
]


@pytest.mark.parametrize(("kind", "table", "cases", "without"), TABLES)
def test_each_directive_that_is_converted_has_a_case(
    kind: Format, table: Table, cases: Cases, without: set[str]
) -> None:
    assert {name for name, one in table.items() if one.fate is Fate.CONVERTED} == {*cases, *without}


@pytest.mark.parametrize(
    ("kind", "template", "line"),
    [
        pytest.param(kind, *case, id=f"{kind} {index} {name}")
        for index, (kind, _, cases, _) in enumerate(TABLES)
        for name, case in cases.items()
    ],
)
def test_it_changes_the_result(kind: Format, template: str, line: str) -> None:
    blank = "\n".join("" for _ in line.split("\n"))  # the other lines keep their numbers
    without, with_it = (
        convert(template.replace("{}", text).replace("@", ""), "file", kind, {}).text for text in (blank, line)
    )
    assert with_it != without


def test_what_changes_nothing_is_seen() -> None:
    with pytest.raises(AssertionError):
        test_it_changes_the_result("haproxy", SERVER, "id 7")
