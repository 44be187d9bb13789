// What every program of the suite in Node shares.
import { createHash } from "node:crypto";
import { Readable } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";

export const AT = process.env.AT;
export const [HOST, PORT] = (AT ?? ":0").split(":");
export const APP_PORT = Number(process.env.APP_PORT);
export const QUIET = Number(process.env.QUIET) * 1000; // milliseconds
export const MIB = 1024 * 1024;
export { sleep };

export const passed = (exchange) => console.log(`passed: ${exchange}`);
export const version = (name, number) => console.log(`version: ${name} ${number}`);

export function expect(found, wanted, what) {
  if (found !== wanted) throw new Error(`${what}: expected ${String(wanted).slice(0, 300)}, found ${String(found).slice(0, 300)}`);
}

const BLOCK = Buffer.concat(Array.from({ length: 2048 }, (_, n) => createHash("sha256").update(String(n)).digest()));

export function* pieces(count) {
  for (; count > 0; count -= BLOCK.length) yield BLOCK.subarray(0, Math.min(BLOCK.length, count));
}
export const pattern = (count) => Readable.from(pieces(count), { objectMode: false });

export async function digest(stream) {
  const sum = createHash("sha256");
  for await (const piece of stream) sum.update(piece);
  return sum.digest("hex");
}

export async function text(stream) {
  let whole = "";
  for await (const piece of stream) whole += piece;
  return whole;
}
