"""What runs on a backend: nginx for the web, dnsmasq for names over UDP, iperf3 to measure with."""

from __future__ import annotations

from pathlib import Path

from tests.lab.processes import Processes
from tests.support.namespaces import Host

PROGRAMS = ("ip", "sysctl", "setpriv", "nginx", "dnsmasq", "iperf3", "curl", "dig")
BIG = bytes(range(256)) * 4096  # 1 MiB, what GET /big answers
LONG_ANSWER = 3000  # bytes of the TXT record long.lab, in pieces of 250
# `listening` is what follows the port; `said` is what is known of the client.
_NGINX = """
daemon off; master_process off; worker_processes 1; pid {dir}/nginx.pid; error_log {dir}/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log {dir}/access.log; default_type text/plain; client_max_body_size 16m; keepalive_timeout 1h;
  client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/fastcgi;
  uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi; {http}
  server {{
    listen {port} {listening}; listen [::]:{port} {listening};
    location / {{ return 200 "{name}, for {said}\\n"; }}
    location = /big {{ root {dir}; }}
    location = /upload {{ proxy_pass http://unix:{dir}/length.sock; }}
  }}
  server {{ listen unix:{dir}/length.sock; location / {{ return 200 "$content_length\\n"; }} }}
}}
"""
_REAL_ADDRESS = "set_real_ip_from 10.0.0.0/24; set_real_ip_from 2001:db8:2::/64; real_ip_header proxy_protocol;"


def start_backend(processes: Processes, host: Host, name: str, directory: Path, address: str) -> None:
    """All three servers. `address` is the one that packets of clients have when they get here."""
    _start_nginx(processes, host, name, directory, port="80", listening="", http="", said="$remote_addr")
    long = [f"long.lab,{','.join(['x' * 250] * (LONG_ANSWER // 250))}"]
    records = [option for record in (f"who.lab,{name}", *long) for option in ("--txt-record", record)]
    processes.start(
        host, f"{name}-dnsmasq", "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--user=root",
        "--no-resolv", "--no-hosts", "--pid-file", "--edns-packet-max=4096", "--local=/lab/", *records,
    )  # fmt: skip
    processes.start(host, f"{name}-iperf3", "iperf3", "--server", "--bind", address)


def start_service(processes: Processes, host: Host, name: str, directory: Path) -> None:
    """Of the second tier: the client's address is the one that the PROXY header names."""
    said = "$remote_addr port $remote_port through $realip_remote_addr"
    _start_nginx(
        processes, host, name, directory, port="8080", listening="proxy_protocol", http=_REAL_ADDRESS, said=said
    )


def _start_nginx(processes: Processes, host: Host, name: str, directory: Path, **fields: str) -> None:
    own = directory / name
    own.mkdir()
    (own / "big").write_bytes(BIG)
    configuration = own / "nginx.conf"
    configuration.write_text(_NGINX.format(name=name, dir=own, **fields))
    files = ["-p", str(own), "-c", str(configuration), "-e", str(own / "error.log")]
    processes.start(host, f"{name}-nginx", "nginx", *files)
