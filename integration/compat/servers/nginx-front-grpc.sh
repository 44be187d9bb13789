# nginx in front of the caller's sidecar for gRPC: HTTP/2 without TLS on both sides.
set -euo pipefail
. "$(dirname "$0")/nginx-common.sh"
cat >>nginx.conf <<EOF
    http2_max_concurrent_streams 1000;
    upstream sidecar { server $AT; keepalive 16; }
    server {
        listen 127.0.0.1:$FRONT_PORT http2;
        client_max_body_size 0;
        client_body_timeout 300s;
        location / {
            grpc_pass grpc://sidecar;
            grpc_read_timeout 300s;
            grpc_send_timeout 300s;
        }
    }
}
EOF
exec nginx -p "$PWD" -c "$PWD/nginx.conf"
