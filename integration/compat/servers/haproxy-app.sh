# HAProxy as an app: it answers by itself, in HTTP/1.1 and, with prior knowledge, in HTTP/2.
set -euo pipefail
printf hello >hello
head -c 1048576 "$(command -v haproxy)" >large
cat >haproxy.cfg <<EOF
global
    tune.bufsize 2097152
defaults
    mode http
    timeout client 300s
    timeout server 300s
    timeout connect 10s
frontend app
    bind 127.0.0.1:$APP_PORT
    http-request return status 200 content-type text/plain file $PWD/hello if { path /hello }
    http-request return status 200 content-type application/octet-stream file $PWD/large if { path /large }
    http-request return status 404
EOF
exec haproxy -db -f haproxy.cfg
