# memcached, as a user that is not root.
if [ "$(id -u)" = 0 ]; then
    exec memcached -u nobody -l 127.0.0.1 -p "$APP_PORT" -m 128
fi
exec memcached -l 127.0.0.1 -p "$APP_PORT" -m 128
