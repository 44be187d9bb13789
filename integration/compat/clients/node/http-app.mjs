// Node's HTTP/1.1 server with ws or, with the argument `http2`, its HTTP/2 server without TLS.
import http from "node:http";
import http2 from "node:http2";
import { WebSocketServer } from "ws";
import { APP_PORT, MIB, digest, pattern, sleep } from "./compat.mjs";

async function serve(request, response) {
  const url = new URL(request.url, "http://app");
  const number = (key) => Number(url.searchParams.get(key));
  switch (url.pathname) {
    case "/hello":
      return response.end("hello");
    case "/echo":
      return request.pipe(response);
    case "/digest":
      return response.end(await digest(request));
    case "/bytes":
      return pattern(number("count")).pipe(response);
    case "/late":
      await sleep(number("seconds") * 1000);
      return response.end("late");
    case "/quiet":
      response.write("begin\n");
      await sleep(number("seconds") * 1000);
      return response.end("end\n");
    case "/events":
      response.writeHead(200, { "content-type": "text/event-stream" });
      for (let at = 0; at < number("count"); at++) {
        response.write(`id: ${at}\ndata: event ${at}\n\n`);
        await sleep(number("gap_ms"));
      }
      return response.end();
    default:
      response.writeHead(404);
      return response.end("no such path");
  }
}

if (process.argv[2] === "http2") {
  http2.createServer(serve).listen(APP_PORT, "127.0.0.1");
} else {
  const server = http.createServer(serve).listen(APP_PORT, "127.0.0.1");
  new WebSocketServer({ server, maxPayload: 16 * MIB }).on("connection", (socket) => {
    socket.on("message", (message, binary) => socket.send(message, { binary }));
    socket.on("ping", () => {});
  });
}
