// ws: messages small and large, with compression, pings, quiet sockets.
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { WebSocket } from "ws";
import { AT, MIB, QUIET, expect, passed, sleep, version } from "./compat.mjs";

version("ws", JSON.parse(readFileSync(new URL("node_modules/ws/package.json", import.meta.url))).version);

async function open() {
  const socket = new WebSocket(`ws://${AT}/messages`, { perMessageDeflate: true, maxPayload: 16 * MIB });
  await once(socket, "open");
  return socket;
}
async function echo(socket, message) {
  const answer = once(socket, "message");
  socket.send(message);
  const [data] = await answer;
  expect(Buffer.compare(data, Buffer.from(message)), 0, "echo of a message");
}
async function close(socket) {
  const closed = once(socket, "close");
  socket.close(1000, "done");
  expect((await closed)[0], 1000, "the code of the end");
}

const sockets = await Promise.all(Array.from({ length: 20 }, open));
for (const socket of sockets) for (let at = 0; at < 50; at++) await echo(socket, `message ${at}`);
await Promise.all(sockets.map(close));
passed("short");

const quiet = await open();
await echo(quiet, "before");
await sleep(QUIET);
const pong = once(quiet, "pong");
quiet.ping("are you there");
await pong;
await echo(quiet, "after");
await close(quiet);
passed("quiet");

const large = await open();
for (let at = 0; at < 8; at++) await echo(large, Buffer.alloc(8 * MIB, at));
for (let at = 0; at < 5000; at++) await echo(large, `message ${at}`);
await close(large);
passed("long");
