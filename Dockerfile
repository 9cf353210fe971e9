# l4lb in a container, as a user without rights.
#
#   docker build -t l4lb .
#   docker run --init -v ./lb.toml:/etc/l4lb/lb.toml:ro -p 443:443 l4lb
#   docker exec CONTAINER l4lb status
#   docker kill --signal=HUP CONTAINER      reloads
#   docker stop --time=40 CONTAINER         drains: give it more than drain_timeout
#
# Process 1 of a container cannot be replaced: to upgrade, start a new container and stop the old one. `--init` is for
# health checks of type exec, whose programs may leave others behind. Ports below 1024 need no right in Docker's own
# networks (net.ipv4.ip_unprivileged_port_start is 0 there); with --network=host they take --cap-add=NET_BIND_SERVICE and
# --user=0 with `[global] user = "l4lb"`. Forwarding in the kernel is not in this image: it takes clang and libbpf to
# build, and more rights than a container has.

FROM python:3.12-slim-bookworm AS build
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY pyproject.toml setup.py MANIFEST.in README.md LICENSE ./
COPY l4lb ./l4lb
RUN pip wheel --no-cache-dir --wheel-dir=/wheels .

FROM python:3.12-slim-bookworm
# The one that was built above is the only one there.
# hadolint ignore=DL3013
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-index --find-links=/wheels l4lb
RUN useradd --system --uid=10001 --user-group --no-create-home --shell=/usr/sbin/nologin l4lb \
    && install --directory --owner=l4lb --group=l4lb --mode=0700 /run/l4lb \
    && install --directory /etc/l4lb
# Where the admin API's socket is, for the service and for `docker exec CONTAINER l4lb status`.
ENV RUNTIME_DIRECTORY=/run/l4lb
USER 10001
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s CMD ["l4lb", "status"]
ENTRYPOINT ["l4lb"]
CMD ["serve", "-c", "/etc/l4lb/lb.toml"]
