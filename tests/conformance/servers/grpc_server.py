"""A gRPC service without generated code: messages are texts. What it gets is a line of JSON each."""

import concurrent.futures
import json
import sys

import grpc


def note(context, method, messages):
    metadata = [[key, str(value)] for key, value in context.invocation_metadata()]
    target = dict(metadata).get("case", "")
    authorization = dict(metadata).get("authorization", "")
    print(json.dumps({"method": method, "version": "HTTP/2.0", "target": target, "authorization": authorization,
                      "body": json.dumps(messages)}), flush=True)


def unary(request, context):
    note(context, "unary", [request])
    context.set_trailing_metadata((("seen", "unary"),))
    return "echo " + request


def client_stream(requests, context):
    messages = list(requests)
    note(context, "client-stream", messages)
    return " ".join(messages)


def server_stream(request, context):
    note(context, "server-stream", [request])
    for number in range(3):
        yield f"{request} {number}"


def both_ways(requests, context):
    messages = []
    for message in requests:
        messages.append(message)
        yield "echo " + message
    note(context, "both-ways", messages)


def fail(request, context):
    note(context, "fail", [request])
    context.set_trailing_metadata((("why", "because"),))
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "as asked")


TEXT = dict(request_deserializer=bytes.decode, response_serializer=str.encode)
METHODS = {
    "Unary": grpc.unary_unary_rpc_method_handler(unary, **TEXT),
    "ClientStream": grpc.stream_unary_rpc_method_handler(client_stream, **TEXT),
    "ServerStream": grpc.unary_stream_rpc_method_handler(server_stream, **TEXT),
    "BothWays": grpc.stream_stream_rpc_method_handler(both_ways, **TEXT),
    "Fail": grpc.unary_unary_rpc_method_handler(fail, **TEXT),
}

pem = open("server.pem", "rb").read()
marker = b"-----BEGIN PRIVATE KEY-----"
chain, key = pem.split(marker)
server = grpc.server(concurrent.futures.ThreadPoolExecutor(8))
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("conformance.Echo", METHODS),))
credentials = grpc.ssl_server_credentials([(marker + key, chain)])
server.add_secure_port(f"127.0.0.1:{sys.argv[1]}", credentials)
server.start()
server.wait_for_termination()
