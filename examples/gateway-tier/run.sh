#!/bin/sh
# Three nginx gateways behind one l4lb, all in DIRECTORY. PORT (8443) is l4lb's, the gateways take the next three.
# Usage: run.sh DIRECTORY [PORT]
set -eu

here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
directory=$(cd "$1" && pwd)
port=${2:-8443}
L4LB=${L4LB:-l4lb}
started=""
trap 'for pid in $started; do kill "$pid" 2>/dev/null || true; done' EXIT
trap 'exit 0' INT TERM

openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=api.example -addext subjectAltName=DNS:api.example \
    -keyout "$directory/key.pem" -out "$directory/certificate.pem" 2>/dev/null

for number in 1 2 3; do
    own="$directory/gateway-$number"
    mkdir -p "$own"
    rm -f "$own"/*.sock
    sed -e "s|@name@|gateway-$number|g" -e "s|@port@|$((port + number))|g" -e "s|@directory@|$own|g" \
        "$here/gateway.conf" > "$own/nginx.conf"
    PATH="$PATH:/usr/sbin" nginx -p "$own" -c nginx.conf -e error.log &
    started="$started $!"
done

sed -e "s|@directory@|$directory|g" -e "s|@port@|$port|g" -e "s|@port1@|$((port + 1))|g" \
    -e "s|@port2@|$((port + 2))|g" -e "s|@port3@|$((port + 3))|g" "$here/lb.toml" > "$directory/lb.toml"
$L4LB serve -c "$directory/lb.toml" &
started="$started $!"
wait "$!"
