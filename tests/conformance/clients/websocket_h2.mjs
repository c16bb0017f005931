// Opens a WebSocket over HTTP/2 (RFC 8441) and sends one short text message; a line of JSON says what came of it.

import { readFileSync } from "node:fs";
import http2 from "node:http2";

const work = JSON.parse(readFileSync(0, "utf8"));

function tell(answer) {
  console.log(JSON.stringify(answer));
  process.exit(0);
}

setTimeout(() => tell({ broken: "nothing came" }), 20000);
const client = http2.connect(`https://${work.host}`, { ca: readFileSync(work.ca) });
client.on("error", (error) => tell({ broken: String(error) }));
client.on("remoteSettings", (settings) => {
  if (!settings.enableConnectProtocol) tell({ broken: "extended CONNECT is not offered" });
  const stream = client.request({ ":method": "CONNECT", ":protocol": "websocket", ":path": work.target,
                                  ":authority": work.host, "sec-websocket-version": "13",
                                  authorization: work.authorization }, { endStream: false });
  stream.on("error", (error) => tell({ broken: String(error) }));
  stream.on("close", () => tell({ broken: `closed, code ${stream.rstCode}` }));
  stream.on("response", (headers) => {
    if (headers[":status"] !== 200) tell({ broken: `status ${headers[":status"]}` });
    const mask = Buffer.from([1, 2, 3, 4]);
    const text = Buffer.from(work.message);
    const masked = Buffer.from(text.map((byte, at) => byte ^ mask[at % 4]));
    stream.write(Buffer.concat([Buffer.from([0x81, 0x80 | text.length]), mask, masked]));
  });
  let pending = Buffer.alloc(0);
  stream.on("data", (part) => {
    pending = Buffer.concat([pending, part]);
    const length = pending[1] & 0x7f;
    if (pending.length >= 2 + length) tell({ message: pending.subarray(2, 2 + length).toString() });
  });
});
