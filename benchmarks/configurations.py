"""What each load balancer that is compared is told: one worker, one listener, one backend, as its users would."""

L4LB = """[global]
workers = {workers}
log_level = "warning"

[admin]
bind = "off"

[listeners.web]
bind = "127.0.0.1:{port}"
pool = "web"
{listener}

[pools.web]
backends = ["127.0.0.1:{backend}"]
{pool}

[pools.web.health]
type = "none"
"""

L4LB_UDP = """[global]
workers = {workers}
log_level = "warning"

[admin]
bind = "off"

[listeners.web]
bind = "127.0.0.1:{port}"
protocol = "udp"
pool = "web"
udp_requests = {answers}
udp_responses = {answers}
{listener}

[pools.web]
backends = ["127.0.0.1:{backend}"]
"""

NGINX = """daemon off;
master_process off;
worker_processes 1;
worker_rlimit_nofile 20000;
pid {directory}/pid;
error_log {directory}/error.log;
{module}
events {{
    worker_connections 20000;
    multi_accept on;
}}
stream {{
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        proxy_pass 127.0.0.1:{backend};
    }}
}}
"""

NGINX_UDP = """daemon off;
master_process off;
worker_processes 1;
worker_rlimit_nofile 20000;
pid {directory}/pid;
error_log {directory}/error.log;
{module}
events {{
    worker_connections 20000;
    multi_accept on;
}}
stream {{
    server {{
        listen 127.0.0.1:{port} udp rcvbuf=4m sndbuf=4m;
        proxy_pass 127.0.0.1:{backend};
        proxy_timeout 30s;
        {answers}
    }}
}}
"""

# maxconn and maxpipes: both together must fit into the descriptors that the machine allows.
HAPROXY = """global
    nbthread 1
    maxconn 8500
    maxpipes 200
    tune.pipesize 1048576
defaults
    mode tcp
    timeout client 10m
    timeout server 10m
    timeout connect 5s
    option splice-auto
frontend web
    bind 127.0.0.1:{port} backlog 4096
    default_backend web
backend web
    server one 127.0.0.1:{backend}
"""

# One of its threads takes the queries, another the answers. Without health checks, as l4lb is told.
DNSDIST = """setLocal("127.0.0.1:{port}")
newServer({{address="127.0.0.1:{backend}"}}):setUp()
setSecurityPollSuffix("")
"""
