"""curl in the versions named on the command line. `static`: the app serves files and answers only GET and HEAD."""
import sys

from compat import DIR, MIB, QUIET, URL, Pattern, digest, expect, passed, run, together, version

version("curl", run("curl", "--version").decode().split()[1])
WHICH = {"1.0": "--http1.0", "1.1": "--http1.1", "upgrade": "--http2", "2": "--http2-prior-knowledge"}
VERSIONS = [word for word in sys.argv[1:] if word in WHICH]
STATIC = "static" in sys.argv


def curl(http, *args, path="/hello"):
    return run("curl", WHICH[http], "--silent", "--show-error", "--fail", "--noproxy", "*", "--max-time", "240", *args,
               URL + path)


def spoken(http):
    """The version in which curl was answered."""
    return curl(http, "--output", "/dev/null", "--write-out", "%{http_version}").decode()


for http in VERSIONS:
    expect(curl(http), b"hello", f"GET in {http}")
    answered = spoken(http)
    wanted = {"1.0": {"1", "1.1"}, "1.1": {"1.1"}, "upgrade": {"1.1", "2"}, "2": {"2"}}[http]
    expect(answered in wanted, True, f"version of the answer to a request in {http}, {answered}")
    # Ten over as few connections as the version allows. (curl 7.88 cannot use a connection of prior knowledge again.)
    if http != "2":
        expect(curl(http, *[URL + "/hello"] * 9), b"hello" * 10, f"ten GETs in {http}")
    if not STATIC:
        expect(curl(http, "--data-binary", "some words", path="/echo"), b"some words", f"POST in {http}")
passed("short")


def late(http):
    expect(curl(http, path=f"/late?seconds={QUIET}"), b"late", f"a late answer in {http}")


def pauses(http):
    expect(curl(http, path=f"/quiet?seconds={QUIET}"), b"begin\nend\n", f"an answer that pauses in {http}")


def trickles(http):
    # So slow that the pause between two pieces is long: the caller's own limit, in bytes a second.
    expect(len(curl(http, "--limit-rate", str(int(MIB / QUIET)), path="/large" if STATIC else f"/bytes?count={MIB}")),
           MIB, f"1 MiB taken slowly in {http}")


tasks = [(lambda task=task, http=http: task(http)) for http in VERSIONS
         for task in ([trickles] if STATIC else [late, pauses, trickles])]
together(*tasks)
passed("quiet")

with open(f"{DIR}/body", "wb") as file:
    for piece in Pattern.pieces(16 * MIB):
        file.write(piece)
for http in VERSIONS:
    if STATIC:
        expect(len({digest([curl(http, path="/large")]) for _ in range(16)}), 1, f"16 times the same 1 MiB in {http}")
        continue
    expect(digest([curl(http, "--upload-file", f"{DIR}/body", path="/echo")]), Pattern.digest(16 * MIB),
           f"16 MiB up and back in {http}")
    if http != "1.0":
        expect(digest([curl(http, "--header", "Transfer-Encoding: chunked" if http == "1.1" else "X-Any: 1", "--header",
                            "Expect: 100-continue", "--request", "POST", "--data-binary", f"@{DIR}/body", path="/echo")]),
               Pattern.digest(16 * MIB), f"Expect: 100-continue in {http}")
passed("long")
