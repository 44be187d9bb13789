// Node's HTTP/1.1 client with a keep-alive agent, and fetch.
import http from "node:http";
import { AT, HOST, MIB, PORT, QUIET, digest, expect, passed, pattern, sleep, text, version } from "./compat.mjs";

version("Node", process.versions.node);
const agent = new http.Agent({ keepAlive: true, maxSockets: 20 });

function ask(path, { method = "GET", body, through = agent } = {}) {
  return new Promise((resolve, reject) => {
    const request = http.request({ host: HOST, port: PORT, path, method, agent: through }, resolve);
    request.on("error", reject);
    body ? body.on("error", reject).pipe(request) : request.end();
  });
}

const hello = async () => expect(await text(await ask("/hello")), "hello", "GET");
await Promise.all(Array.from({ length: 200 }, hello));
expect((await ask("/hello", { method: "HEAD" }).then((answer) => answer.resume())).statusCode, 200, "HEAD");
expect(await (await fetch(`http://${AT}/hello`)).text(), "hello", "fetch");
expect((await ask("/nowhere").then((answer) => answer.resume())).statusCode, 404, "status");
passed("short");

const seconds = QUIET / 1000;
await Promise.all([
  (async () => expect(await text(await ask(`/late?seconds=${seconds}`)), "late", "a late answer"))(),
  (async () => expect(await text(await ask(`/quiet?seconds=${seconds}`)), "begin\nend\n", "an answer that pauses"))(),
  (async () => {
    await hello();
    await sleep(QUIET);
    await hello();
  })(),
  (async () => {
    // Node's server closes an idle connection after five seconds: each request meets that moment. Over `tcp` the client
    // itself must be spared it.
    for (let at = 0; at < 5 && process.env.PROTOCOL === "http"; at++) {
      await hello();
      await sleep(5000);
    }
  })(),
]);
passed("quiet");

const fresh = new http.Agent();
const size = 32 * MIB;
const echoed = await ask("/echo", { method: "POST", body: pattern(size), through: fresh });
expect(await digest(echoed), await digest(pattern(size)), "echo of 32 MiB, read while it is sent");
const events = await text(await ask("/events?count=200&gap_ms=50", { through: fresh }));
expect(events.match(/data: event/g).length, 200, "server-sent events");
agent.destroy();
passed("long");
