"""MariaDB: its own client, PyMySQL, a dump and its return."""
import time

import pymysql

from compat import DIR, HOST, PORT, QUIET, expect, passed, run, together, version

ROWS = 200_000
BASE = ["-h", HOST, "-P", str(PORT), "--protocol=tcp", "-u", "root", "--skip-ssl"]


def mariadb(sql=None, database="test", stdin=None):
    command = ["mariadb", *BASE, "-N", "-B", database]
    return run(*command, *(["-e", sql] if sql else []), stdin=stdin).decode()


def connect():
    return pymysql.connect(host=HOST, port=PORT, user="root", database="test", autocommit=True, local_infile=True)


mariadb("CREATE DATABASE IF NOT EXISTS test", database="")
version("MariaDB", mariadb("SELECT VERSION()").split("-")[0])
version("PyMySQL", pymysql.__version__)
expect(mariadb("SELECT 6 * 7").strip(), "42", "SELECT by mariadb")
with connect() as db, db.cursor() as cursor:
    cursor.execute("SELECT REPEAT('x', 1000000)")
    expect(len(cursor.fetchone()[0]), 1_000_000, "SELECT by PyMySQL")
passed("short")


def idles():
    with connect() as db, db.cursor() as cursor:
        cursor.execute("CREATE TEMPORARY TABLE kept (n INT)")
        time.sleep(QUIET)
        cursor.execute("SELECT COUNT(*) FROM kept")
        expect(cursor.fetchone()[0], 0, "a session that pauses")


def long_statement():
    expect(mariadb(f"SELECT SLEEP({QUIET})").strip(), "0", "a long statement")


together(idles, long_statement)
passed("quiet")

path = f"{DIR}/rows"
with open(path, "w") as file:
    for n in range(ROWS):
        file.write(f"{n}\t{'words ' * 16}{n}\n")
with connect() as db, db.cursor() as cursor:
    cursor.execute("CREATE TABLE cargo (n INT PRIMARY KEY, words TEXT)")
    cursor.execute(f"LOAD DATA LOCAL INFILE '{path}' INTO TABLE cargo")
    expect(cursor.rowcount, ROWS, "LOAD DATA")
dump = run("mariadb-dump", *BASE, "test", "cargo")
mariadb("CREATE DATABASE back", database="")
mariadb(database="back", stdin=dump)
sums = "SELECT COUNT(*), SUM(CRC32(words)) FROM cargo"
expect(mariadb(sums, database="back"), mariadb(sums), "a dump and its return")
passed("long")
