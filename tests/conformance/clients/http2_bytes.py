"""Sends one request over HTTP/2 as it is told to, right or wrong; a line of JSON says what came of it."""

import json
import socket
import ssl
import sys

import h2.config
import h2.connection
import h2.events

work = json.load(sys.stdin)
LIMIT = 20


def main():
    context = ssl.create_default_context(cafile=work["ca"])
    context.set_alpn_protocols(["h2"])
    plain = socket.create_connection((work["host"], 443), LIMIT)
    stream = context.wrap_socket(plain, server_hostname=work["host"])
    stream.settimeout(LIMIT)
    config = h2.config.H2Configuration(validate_outbound_headers=False, normalize_outbound_headers=False,
                                       validate_inbound_headers=False, header_encoding=None)
    connection = h2.connection.H2Connection(config)
    connection.initiate_connection()
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in work["headers"]]
    connection.send_headers(1, headers, end_stream=work["body"] is None)
    if work["body"] is not None:
        connection.send_data(1, work["body"].encode("latin-1"), end_stream=True)
    stream.sendall(connection.data_to_send())
    while True:
        data = stream.recv(65536)
        if not data:
            return {"ended": "closed"}
        for event in connection.receive_data(data):
            if isinstance(event, h2.events.ResponseReceived):
                return {"ended": "status " + dict(event.headers)[b":status"].decode()}
            if isinstance(event, h2.events.StreamReset):
                return {"ended": f"stream reset {int(event.error_code)}"}
            if isinstance(event, h2.events.ConnectionTerminated):
                return {"ended": f"connection ended {int(event.error_code)}"}
        stream.sendall(connection.data_to_send())


try:
    print(json.dumps(main()))
except TimeoutError:
    print(json.dumps({"waits": True}))
except OSError as error:
    print(json.dumps({"ended": str(error)}))
