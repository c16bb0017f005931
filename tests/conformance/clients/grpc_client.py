"""Calls one method; a line of JSON says what came of it."""

import json
import os
import queue
import sys

work = json.load(sys.stdin)
os.environ["GRPC_DNS_RESOLVER"] = "native"
if work["proxy"]:
    os.environ["grpc_proxy"] = "http://" + work["proxy"]

import grpc

TEXT = dict(request_serializer=str.encode, response_deserializer=bytes.decode)
METADATA = tuple(tuple(pair) for pair in work["metadata"])
LIMIT = 30


def main(channel):
    def method(kind, name):
        return getattr(channel, kind)(f"/conformance.Echo/{name}", **TEXT)

    match work["method"]:
        case "unary":
            answer, call = method("unary_unary", "Unary").with_call(work["message"], metadata=METADATA, timeout=LIMIT)
            return {"answer": answer, "trailers": dict(call.trailing_metadata())}
        case "client stream":
            messages = iter(["a", "b", "c"])
            return {"answer": method("stream_unary", "ClientStream")(messages, metadata=METADATA, timeout=LIMIT)}
        case "server stream":
            answers = method("unary_stream", "ServerStream")("go", metadata=METADATA, timeout=LIMIT)
            return {"answer": list(answers)}
        case "both ways":
            # Each message is sent only when the answer to the one before is there.
            asked = queue.Queue()
            asked.put("0")
            answers = method("stream_stream", "BothWays")(iter(asked.get, None), metadata=METADATA, timeout=LIMIT)
            received = []
            for answer in answers:
                received.append(answer)
                asked.put(str(len(received)) if len(received) < 3 else None)
            return {"answer": received}
        case "fail":
            try:
                method("unary_unary", "Fail")("hello", metadata=METADATA, timeout=LIMIT)
            except grpc.RpcError as error:
                return {"code": error.code().name, "details": error.details(),
                        "trailers": dict(error.trailing_metadata())}


credentials = grpc.ssl_channel_credentials(open(work["ca"], "rb").read())
try:
    with grpc.secure_channel(work["target"], credentials) as channel:
        print(json.dumps(main(channel)))
except grpc.RpcError as error:
    print(json.dumps({"broken": f"{error.code().name}: {error.details()}"}))
