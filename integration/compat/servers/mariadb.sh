# MariaDB, whose root needs no password.
set -euo pipefail
as=()
if [ "$(id -u)" = 0 ]; then
    as=(--user=mysql)
    install -d -o mysql run
else
    install -d run
fi
mariadb-install-db --no-defaults "${as[@]}" --datadir="$PWD/data" --auth-root-authentication-method=normal \
    --skip-test-db >/dev/null
exec mariadbd --no-defaults "${as[@]}" --datadir="$PWD/data" --bind-address=127.0.0.1 --port="$APP_PORT" \
    --socket="$PWD/run/socket" --pid-file="$PWD/run/pid" --local-infile=1 --skip-name-resolve
