// Sends the requests on standard input with one of Node's clients; a line of JSON for each answer.

import { readFileSync } from "node:fs";
import http from "node:http";
import http2 from "node:http2";
import https from "node:https";
import { createRequire } from "node:module";
import tls from "node:tls";

const work = JSON.parse(readFileSync(0, "utf8"));
const ca = readFileSync(work.ca);

function tell(answer) {
  console.log(JSON.stringify(answer));
}

function tunnel(host) {
  return new Promise((resolve, reject) => {
    const [proxyHost, proxyPort] = work.proxy.split(":");
    const asked = http.request({ host: proxyHost, port: proxyPort, method: "CONNECT", path: `${host}:443` });
    asked.on("connect", (answer, socket) =>
      answer.statusCode === 200 ? resolve(socket) : reject(new Error(`the proxy answered ${answer.statusCode}`)));
    asked.on("error", reject);
    asked.end();
  });
}

async function secured(host, alpn) {
  const options = { host, port: 443, servername: host, ca, ALPNProtocols: [alpn] };
  if (work.proxy) options.socket = await tunnel(host);
  return new Promise((resolve, reject) => {
    const socket = tls.connect(options, () => resolve(socket));
    socket.on("error", reject);
  });
}

function collect(stream, done) {
  const parts = [];
  stream.on("data", (part) => parts.push(part));
  stream.on("end", () => done(Buffer.concat(parts).toString()));
}

async function withHttp(ask) {
  const socket = await secured(ask.host, "http/1.1");
  return new Promise((resolve, reject) => {
    const headers = Object.fromEntries(ask.headers);
    if (ask.body !== null) headers["content-length"] = Buffer.byteLength(ask.body);
    const options = { method: ask.method, path: ask.target, headers: { host: ask.host, ...headers },
                      createConnection: () => socket };
    const asked = http.request(options, (got) =>
      collect(got, (body) => { socket.destroy(); resolve({ status: got.statusCode, version: got.httpVersion, body }); }));
    asked.on("error", reject);
    asked.end(ask.body ?? undefined);
  });
}

const sessions = new Map();

async function session(host) {
  const open = sessions.get(host);
  if (open && !open.closed && !open.destroyed) return open;
  const socket = await secured(host, "h2");
  if (socket.alpnProtocol !== "h2") throw new Error(`the protocol is ${socket.alpnProtocol}`);
  const made = http2.connect(`https://${host}`, { createConnection: () => socket });
  made.on("error", () => {});
  sessions.set(host, made);
  return made;
}

async function withHttp2(ask) {
  const client = await session(ask.host);
  return new Promise((resolve, reject) => {
    const headers = { ":method": ask.method, ":path": ask.target, ...Object.fromEntries(ask.headers) };
    const stream = client.request(headers, { endStream: ask.body === null });
    let status;
    stream.on("response", (got) => { status = got[":status"]; });
    stream.on("error", reject);
    stream.on("close", () => reject(new Error(`the stream was closed, code ${stream.rstCode}`)));
    collect(stream, (body) => resolve({ status, version: "2", body }));
    if (ask.body !== null) stream.end(ask.body);
  });
}

async function withFetch(ask) {
  const options = { method: ask.method, headers: ask.headers, body: ask.body ?? undefined };
  let get = fetch;
  if (work.proxy) {
    const undici = createRequire(work.modules + "/")("undici");
    options.dispatcher = new undici.ProxyAgent({ uri: `http://${work.proxy}`, requestTls: { ca } });
    get = undici.fetch;
  }
  const got = await get(ask.url, options);
  return { status: got.status, version: "", body: await got.text() };
}

const send = { fetch: withFetch, http: withHttp, http2: withHttp2 }[process.argv[2]];
for (const ask of work.requests) {
  try {
    const answer = await send(ask);
    tell(answer.status === undefined ? { broken: "no status" } : answer);
  } catch (error) {
    const parts = [];
    for (let cause = error; cause; cause = cause.cause) parts.push(String(cause));
    tell({ broken: parts.join(" | ") });
  }
}
process.exit(0);
