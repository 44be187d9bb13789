"""OpenSSH: commands, a quiet session, bytes both ways, sftp."""
import getpass

from compat import DIR, HOST, MIB, PORT, QUIET, Pattern, digest, expect, passed, run, version

OPTIONS = ["-F", "none", "-i", f"{DIR}/user_key", "-o", f"UserKnownHostsFile={DIR}/known_hosts", "-o",
           "StrictHostKeyChecking=accept-new", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes"]
USER = getpass.getuser()


def ssh(command, stdin=b""):
    return run("ssh", *OPTIONS, "-p", str(PORT), f"{USER}@{HOST}", command, stdin=stdin)


version("OpenSSH", run("sh", "-c", "ssh -V 2>&1").decode().split("_")[1].split()[0].rstrip(","))
expect(ssh("echo hello"), b"hello\n", "a command")
passed("short")

expect(ssh(f"echo begin; sleep {QUIET}; echo end"), b"begin\nend\n", "a session that pauses")
passed("quiet")

whole = b"".join(Pattern.pieces(32 * MIB))
expect(digest([ssh("cat", whole)]), Pattern.digest(32 * MIB), "32 MiB both ways at once")
with open(f"{DIR}/sent", "wb") as file:
    file.write(whole)
run("sftp", *OPTIONS, "-P", str(PORT), "-b", "-", f"{USER}@{HOST}",
    stdin=f"put {DIR}/sent {DIR}/there\nget {DIR}/there {DIR}/back\n".encode())
with open(f"{DIR}/back", "rb") as file:
    expect(digest([file.read()]), Pattern.digest(32 * MIB), "sftp there and back")
passed("long")
