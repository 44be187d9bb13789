# PostgreSQL with replication, as a user that is not root.
set -euo pipefail
bin=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -n 1)
as=()
if [ "$(id -u)" = 0 ]; then
    as=(setpriv --reuid=postgres --regid=postgres --clear-groups --pdeathsig=KILL)
fi
install -d -m 700 ${as:+-o postgres} data run
${as[@]+"${as[@]}"} "$bin/initdb" -D data -U postgres -A trust --no-sync --no-instructions >/dev/null
exec ${as[@]+"${as[@]}"} "$bin/postgres" -D data -p "$APP_PORT" -k "$PWD/run" -c listen_addresses=127.0.0.1 \
    -c wal_level=logical -c fsync=off
