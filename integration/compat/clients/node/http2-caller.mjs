// Node's HTTP/2 client without TLS: one session for all.
import http2 from "node:http2";
import { AT, MIB, QUIET, digest, expect, passed, pattern, sleep, text, version } from "./compat.mjs";

version("Node", process.versions.node);
const session = http2.connect(`http://${AT}`);
session.on("error", (error) => {
  throw error;
});
// A session begins with the peer's settings: more streams than they allow wait here.
await new Promise((resolve) => session.once("remoteSettings", resolve));

function ask(path, { method = "GET", body } = {}) {
  const stream = session.request({ ":path": path, ":method": method }, { endStream: !body });
  body?.pipe(stream);
  return stream;
}
const hello = async () => expect(await text(ask("/hello")), "hello", "GET");
await Promise.all(Array.from({ length: 200 }, hello));
passed("short");

const seconds = QUIET / 1000;
await Promise.all([
  (async () => expect(await text(ask(`/late?seconds=${seconds}`)), "late", "a late answer"))(),
  (async () => expect(await text(ask(`/quiet?seconds=${seconds}`)), "begin\nend\n", "an answer that pauses"))(),
  (async () => {
    const stream = ask("/echo", { method: "POST", body: undefined });
    await text(stream);
  })(),
  (async () => {
    await hello();
    await sleep(QUIET);
    await new Promise((resolve, reject) => session.ping((error) => (error ? reject(error) : resolve())));
    await hello();
  })(),
]);
passed("quiet");

const size = 32 * MIB;
expect(await digest(ask("/echo", { method: "POST", body: pattern(size) })), await digest(pattern(size)), "echo of 32 MiB");
const events = await text(ask("/events?count=200&gap_ms=50"));
expect(events.match(/data: event/g).length, 200, "server-sent events");
session.close();
passed("long");
