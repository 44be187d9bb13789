# Redis without a disk.
exec redis-server --bind 127.0.0.1 --port "$APP_PORT" --dir "$PWD" --save "" --appendonly no
