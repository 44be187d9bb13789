# sshd on a port of its own with keys of its own, for the user that runs it.
set -euo pipefail
ssh-keygen -q -t ed25519 -N "" -f host_key
ssh-keygen -q -t ed25519 -N "" -f user_key
cp user_key.pub authorized_keys
if [ "$(id -u)" = 0 ]; then
    install -d -m 755 /run/sshd
fi
exec /usr/sbin/sshd -D -e -f /dev/null -o ListenAddress="127.0.0.1:$APP_PORT" -o HostKey="$PWD/host_key" \
    -o AuthorizedKeysFile="$PWD/authorized_keys" -o StrictModes=no -o PidFile=none -o UsePAM=no \
    -o PermitRootLogin=prohibit-password -o PasswordAuthentication=no -o Subsystem="sftp internal-sftp"
