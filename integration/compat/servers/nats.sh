# NATS.
exec nats-server --addr 127.0.0.1 --port "$APP_PORT"
