// WebSocket over HTTP/2 (RFC 8441): echoes small text messages. What it gets is a line of JSON each.

import { readFileSync } from "node:fs";
import http2 from "node:http2";

const pem = readFileSync("server.pem");
const server = http2.createSecureServer({ key: pem, cert: pem, settings: { enableConnectProtocol: true } });
server.on("stream", (stream, headers) => {
  stream.on("error", () => {});
  if (headers[":method"] !== "CONNECT" || headers[":protocol"] !== "websocket") {
    stream.respond({ ":status": 400 }, { endStream: true });
    return;
  }
  stream.respond({ ":status": 200 });
  let pending = Buffer.alloc(0);
  stream.on("data", (part) => {
    pending = Buffer.concat([pending, part]);
    // Opcode and length, four bytes of mask, the payload (RFC 6455 section 5.2).
    while (pending.length >= 6 && pending.length >= 6 + (pending[1] & 0x7f)) {
      const length = pending[1] & 0x7f;
      const mask = pending.subarray(2, 6);
      const text = Buffer.from(pending.subarray(6, 6 + length)).map((byte, at) => byte ^ mask[at % 4]);
      pending = pending.subarray(6 + length);
      console.log(JSON.stringify({ method: "text", version: "HTTP/2.0", target: headers[":path"],
                                   authorization: headers.authorization ?? "", body: text.toString() }));
      stream.write(Buffer.concat([Buffer.from([0x81, length]), text]));
    }
  });
});
server.listen(Number(process.argv[2]), "127.0.0.1");
