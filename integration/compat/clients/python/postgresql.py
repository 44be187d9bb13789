"""PostgreSQL: psql with COPY both ways, LISTEN and NOTIFY, a base backup and two replication streams."""
import glob
import os
import subprocess
import time

import psycopg

from compat import DIR, HOST, PATIENCE, PORT, QUIET, Pattern, expect, passed, run, together, until, version

ENV = {"PGHOST": HOST, "PGPORT": str(PORT), "PGUSER": "postgres", "PGDATABASE": "postgres"}
URI = f"host={HOST} port={PORT} user=postgres dbname=postgres"
BIN = sorted(glob.glob("/usr/lib/postgresql/*/bin"))[-1]
ROWS = 300_000


def psql(sql, stdin=None):
    return run(f"{BIN}/psql", "-X", "-v", "ON_ERROR_STOP=1", "-At", "-c", sql, stdin=stdin, env=ENV).decode()


version("PostgreSQL", psql("SHOW server_version").split()[0])
version("psycopg", psycopg.__version__)
expect(psql("SELECT 6 * 7").strip(), "42", "SELECT by psql")
with psycopg.connect(URI) as db:
    expect(db.execute("SELECT %s::text", ("x" * 100_000,)).fetchone()[0], "x" * 100_000, "SELECT by psycopg")
    with db.pipeline():
        cursors = [db.execute("SELECT %s::int", (at,)) for at in range(500)]
        expect([cursor.fetchone()[0] for cursor in cursors], list(range(500)), "a pipeline of 500")
# Cancelling opens a second connection that carries one packet.
with psycopg.connect(URI) as db:
    def cancel():
        until("the statement to cancel runs", lambda: psql("SELECT 1 FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(300)' AND state = 'active'"))
        db.cancel()

    def sleeps():
        try:
            db.execute("SELECT pg_sleep(300)")
        except psycopg.errors.QueryCanceled:
            return
        raise AssertionError("the statement was not cancelled")

    together(cancel, sleeps)
passed("short")


def listens():
    with psycopg.connect(URI, autocommit=True) as db:
        db.execute("LISTEN news")
        time.sleep(QUIET)
        psql("NOTIFY news, 'after the pause'")
        note = next(db.notifies(timeout=PATIENCE))
        expect(note.payload, "after the pause", "NOTIFY")


def transaction_pauses():
    with psycopg.connect(URI) as db:
        db.execute("CREATE TEMP TABLE kept (n int)")
        time.sleep(QUIET)
        db.execute("INSERT INTO kept VALUES (1)")
        expect(db.execute("SELECT count(*) FROM kept").fetchone()[0], 1, "a transaction that pauses")


def long_statement():
    expect(psql(f"SELECT 'done' FROM pg_sleep({QUIET})").strip(), "done", "a long statement")


together(listens, transaction_pauses, long_statement)
passed("quiet")

psql("CREATE TABLE cargo (n int, words text)")
lines = "".join(f"{n}\t{'words ' * 16}{n}\n" for n in range(ROWS)).encode()
psql("COPY cargo FROM STDIN", stdin=lines)
expect(psql("COPY (SELECT * FROM cargo ORDER BY n) TO STDOUT").encode() == lines, True, "COPY both ways")


def base_backup():
    run(f"{BIN}/pg_basebackup", "-D", f"{DIR}/backup", "-X", "stream", "-c", "fast", env=ENV)
    run(f"{BIN}/pg_verifybackup", f"{DIR}/backup")


def follow(program, args, written, change):
    """A replication stream until what was changed has arrived."""
    stream = subprocess.Popen([f"{BIN}/{program}", *args], env=dict(os.environ, **ENV), stderr=subprocess.PIPE)
    try:
        def arrived():
            expect(stream.poll(), None, f"{program} still runs")
            return written()
        change()
        until(f"{program} has the change", arrived)
    finally:
        stream.terminate()
        stream.wait(PATIENCE)


def logical():
    run(f"{BIN}/pg_recvlogical", "-d", "postgres", "--slot", "changes", "--create-slot", "-P", "test_decoding", env=ENV)
    out = f"{DIR}/changes"
    follow("pg_recvlogical", ["-d", "postgres", "--slot", "changes", "--start", "-F", "1", "-f", out],
           lambda: os.path.exists(out) and "the last change" in open(out).read(),
           lambda: psql("INSERT INTO cargo SELECT n, 'followed' FROM generate_series(1, 20000) n;"
                        "INSERT INTO cargo VALUES (0, 'the last change')"))


def physical():
    os.mkdir(f"{DIR}/wal")
    run(f"{BIN}/pg_receivewal", "-D", f"{DIR}/wal", "--slot", "wal", "--create-slot", env=ENV)

    def change():
        for _ in range(3):
            psql("CREATE TABLE IF NOT EXISTS filler (words text); INSERT INTO filler SELECT repeat('w', 200) FROM generate_series(1, 1000);"
                 "SELECT pg_switch_wal()")
    whole = lambda: sum(1 for name in os.listdir(f"{DIR}/wal") if not name.endswith(".partial")) >= 2
    follow("pg_receivewal", ["-D", f"{DIR}/wal", "--slot", "wal", "-s", "1"], whole, change)


together(base_backup, logical, physical)
passed("long")
