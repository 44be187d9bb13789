"""WebDAV: its methods (RFC 4918) with their headers and bodies, by requests."""
import time
from importlib.metadata import version as package_version

import requests

from compat import MIB, PATIENCE, QUIET, URL, Pattern, digest, expect, passed, version

version("wsgidav", package_version("wsgidav"))
web = requests.Session()
web.trust_env = False
LOCK = ('<?xml version="1.0"?><lockinfo xmlns="DAV:"><lockscope><exclusive/></lockscope><locktype><write/></locktype>'
        "<owner>orders</owner></lockinfo>")
FIND = '<?xml version="1.0"?><propfind xmlns="DAV:"><prop><getcontentlength/><displayname/></prop></propfind>'
PATCH = ('<?xml version="1.0"?><propertyupdate xmlns="DAV:" xmlns:x="urn:shop"><set><prop><x:colour>green</x:colour>'
         "</prop></set></propertyupdate>")


def call(method, path, status, **more):
    answer = web.request(method, URL + path, timeout=PATIENCE, **more)
    expect(answer.status_code, status, f"{method} {path}")
    return answer


def to(path, **more):
    return {"headers": {"Destination": URL + path, "Overwrite": "T", **more}}


expect("PROPFIND" in call("OPTIONS", "/", 200).headers["allow"], True, "Allow of OPTIONS")
expect("1" in call("OPTIONS", "/", 200).headers["dav"], True, "DAV of OPTIONS")
call("MKCOL", "/goods", 201)
call("MKCOL", "/goods", 405)
call("PUT", "/goods/one", 201, data=b"one")
call("COPY", "/goods/one", 201, **to("/goods/two"))
call("MOVE", "/goods/two", 201, **to("/goods/three"))
found = call("PROPFIND", "/goods", 207, data=FIND, headers={"Depth": "1"}).text
expect(("/goods/one" in found, "/goods/three" in found), (True, True), "PROPFIND")
call("PROPPATCH", "/goods/one", 207, data=PATCH)
call("DELETE", "/goods/three", 204)
passed("short")

token = call("LOCK", "/goods/one", 200, data=LOCK, headers={"Timeout": "Second-600"}).headers["lock-token"]
time.sleep(QUIET)
call("PUT", "/goods/one", 423, data=b"not allowed")
call("PUT", "/goods/one", 204, data=b"allowed", headers={"If": f"({token})"})
call("UNLOCK", "/goods/one", 204, headers={"Lock-Token": token})
passed("quiet")

for name in ("first", "second"):
    call("PUT", f"/goods/{name}", 201, data=Pattern.pieces(32 * MIB))
    expect(digest([call("GET", f"/goods/{name}", 200).content]), Pattern.digest(32 * MIB), "32 MiB there and back")
part = call("GET", "/goods/first", 206, headers={"Range": "bytes=1000-1999"})
expect(part.content, Pattern.BLOCK[1000:2000], "a range")
call("DELETE", "/goods", 204)
passed("long")
