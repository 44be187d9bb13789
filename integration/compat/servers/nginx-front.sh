# nginx in front of the caller's sidecar: HTTP/1.1 with keep-alives and WebSocket, gRPC on the port beside it.
set -euo pipefail
. "$(dirname "$0")/nginx-common.sh"
cat >>nginx.conf <<EOF
    map \$http_upgrade \$connection_upgrade { default upgrade; '' ''; }
    upstream sidecar { server $AT; keepalive 16; }
    server {
        listen 127.0.0.1:$FRONT_PORT;
        client_max_body_size 0;
        location / {
            proxy_pass http://sidecar;
            proxy_http_version 1.1;
            proxy_set_header Upgrade \$http_upgrade;
            proxy_set_header Connection \$connection_upgrade;
            proxy_buffering off;
            proxy_request_buffering off;
            proxy_read_timeout 300s;
        }
    }
}
EOF
exec nginx -p "$PWD" -c "$PWD/nginx.conf"
