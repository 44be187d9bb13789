# nginx as an app: files, at its defaults but for where it writes.
set -euo pipefail
. "$(dirname "$0")/nginx-common.sh"
printf hello >pages/hello
head -c 1048576 "$(command -v nginx)" >pages/large
cat >>nginx.conf <<EOF
    server {
        listen 127.0.0.1:$APP_PORT;
        root $PWD/pages;
    }
}
EOF
exec nginx -p "$PWD" -c "$PWD/nginx.conf"
