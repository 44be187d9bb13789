# RabbitMQ with a port mapper of its own; both end with the script's process group.
set -euo pipefail
export ERL_EPMD_PORT=$FRONT_PORT ERL_EPMD_ADDRESS=127.0.0.1 HOME=$PWD
epmd -port "$FRONT_PORT" &
printf 'listeners.tcp.1 = 127.0.0.1:%s\nlog.console = true\nlog.console.level = info\nlog.file = false\n' "$APP_PORT" >rabbitmq.conf
echo '[].' >advanced.config
export RABBITMQ_NODENAME="compat$APP_PORT@localhost" RABBITMQ_CONFIG_FILE=$PWD/rabbitmq.conf \
    RABBITMQ_ADVANCED_CONFIG_FILE=$PWD/advanced.config RABBITMQ_MNESIA_BASE=$PWD/mnesia RABBITMQ_LOG_BASE=$PWD/logs \
    RABBITMQ_LOGS=- RABBITMQ_ENABLED_PLUGINS_FILE=$PWD/plugins RABBITMQ_DIST_PORT=$SPARE_PORT RABBITMQ_CONF_ENV_FILE=/dev/null \
    RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="-kernel inet_dist_use_interface {127,0,0,1}"
server=$(ls -d /usr/lib/rabbitmq/bin/rabbitmq-server /usr/lib/rabbitmq/lib/*/sbin/rabbitmq-server 2>/dev/null | head -n 1)
exec "${server:-rabbitmq-server}"
