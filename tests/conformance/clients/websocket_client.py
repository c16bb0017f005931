"""Does one thing over a WebSocket; a line of JSON says what came of it."""

import json
import ssl
import sys

import websockets.sync.client

work = json.load(sys.stdin)
context = ssl.create_default_context(cafile=work["ca"])
proxy = "http://" + work["proxy"] if work["proxy"] else None


def main():
    received = []
    with websockets.sync.client.connect(work["url"], ssl=context, proxy=proxy, open_timeout=30, max_size=None,
                                        compression=work["compression"],
                                        additional_headers=work["headers"]) as connection:
        connection.ping().wait(30)
        for message in work["messages"]:
            data = bytes.fromhex(message["hex"]) if "hex" in message else message["text"]
            try:
                connection.send(data)
                got = connection.recv(30)
            except websockets.exceptions.ConnectionClosed as closed:
                code = closed.rcvd.code if closed.rcvd else None
                return {"received": received, "closed": code}
            received.append({"hex": got.hex()} if isinstance(got, bytes) else {"text": got})
        return {"received": received, "extensions": [extension.name for extension in connection.protocol.extensions]}


try:
    print(json.dumps(main()))
except Exception as error:
    print(json.dumps({"broken": f"{type(error).__name__}: {error}"}))
