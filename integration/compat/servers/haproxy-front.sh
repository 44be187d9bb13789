# HAProxy in front of the caller's sidecar, in the version that is its argument: h1 or h2.
set -euo pipefail
proto=
if [ "$1" = h2 ]; then proto="proto h2"; fi
cat >haproxy.cfg <<EOF
global
    maxconn 2000
defaults
    mode http
    option abortonclose
    timeout client 300s
    timeout server 300s
    timeout connect 10s
    timeout tunnel 300s
frontend front
    bind 127.0.0.1:$FRONT_PORT
    default_backend sidecar
backend sidecar
    http-reuse always
    server sidecar $AT $proto
EOF
exec haproxy -db -f haproxy.cfg
