"""Echoes every message. What it gets is a line of JSON each."""

import asyncio
import base64
import json
import ssl
import sys

import websockets.asyncio.server


async def serve(connection):
    request = connection.request
    authorization = request.headers.get("authorization", "")
    async for message in connection:
        text = message if isinstance(message, str) else base64.b64encode(message).decode()
        kind = "text" if isinstance(message, str) else "binary"
        print(json.dumps({"method": kind, "version": "WebSocket", "target": request.path,
                          "authorization": authorization, "body": text[:1000]}), flush=True)
        if message == "close":
            await connection.close(4321, "as asked")
            return
        await connection.send(message)


async def main():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain("server.pem")
    context.set_alpn_protocols(["http/1.1"])
    port = int(sys.argv[1])
    async with websockets.asyncio.server.serve(serve, "127.0.0.1", port, ssl=context, max_size=None) as server:
        await server.serve_forever()


asyncio.run(main())
