// Tells what llhttp, Node's parser, reads: an HTTP server that keeps whole requests until it is asked for them.
import http from "node:http";
import net from "node:net";

let seen = [];

const server = http.createServer({ maxHeaderSize: 65536 }, (request, response) => {
  const body = [];
  request.on("data", (data) => body.push(data));
  request.on("end", () => {
    const { method, url, rawHeaders } = request;
    seen.push({ method, url, headers: rawHeaders, body: Buffer.concat(body).toString("latin1") });
    response.end("ok");
  });
  request.on("error", () => {});
});
server.on("clientError", (_, socket) => socket.end("HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n"));
server.on("connect", (_, socket) => socket.end("HTTP/1.1 501 Not Implemented\r\nconnection: close\r\n\r\n"));
server.keepAliveTimeout = 60_000;

// Whoever connects here is told what was seen since the last time.
const teller = net.createServer((socket) => {
  socket.end(JSON.stringify(seen));
  seen = [];
});

server.listen(0, "127.0.0.1", () => {
  teller.listen(0, "127.0.0.1", () => {
    console.log(`listening on 127.0.0.1:${server.address().port} telling on 127.0.0.1:${teller.address().port}`);
  });
});
