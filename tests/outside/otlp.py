"""Receives OTLP over HTTP, and decodes it by the messages that OpenTelemetry itself publishes.

Says on which port it listens, and then prints each span as a line of JSON. `POST /answer` with a number
makes it answer the next request by that status.
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

ANSWERS = []


def plain(value):
    return getattr(value, value.WhichOneof("value"))


def told(resource, scope, span):
    return {
        "resource": {it.key: plain(it.value) for it in resource.attributes},
        "scope": scope.name,
        "trace": span.trace_id.hex(),
        "span": span.span_id.hex(),
        "parent": span.parent_span_id.hex(),
        "state": span.trace_state,
        "name": span.name,
        "kind": Span.SpanKind.Name(span.kind),
        "began": span.start_time_unix_nano,
        "ended": span.end_time_unix_nano,
        "status": Status.StatusCode.Name(span.status.code),
        "attributes": {it.key: plain(it.value) for it in span.attributes},
    }


class Collector(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.path == "/answer":
            ANSWERS.append(int(body))
            self.answer(200, b"")
            return
        if self.path != "/v1/traces" or self.headers["content-type"] != "application/x-protobuf":
            self.answer(404, b"")
            return
        if ANSWERS:
            self.answer(ANSWERS.pop(0), b"")
            return
        request = ExportTraceServiceRequest.FromString(body)
        # What is not in the messages as they are published would be kept apart as unknown.
        assert request.SerializeToString() == body, "not as its authors would write it"
        for of_resource in request.resource_spans:
            for of_scope in of_resource.scope_spans:
                for span in of_scope.spans:
                    line = told(of_resource.resource, of_scope.scope, span)
                    line["header"] = self.headers["x-collector-key"]
                    print(json.dumps(line), flush=True)
        self.answer(200, ExportTraceServiceResponse().SerializeToString())

    def answer(self, status, body):
        self.send_response(status)
        self.send_header("content-type", "application/x-protobuf")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = HTTPServer(("127.0.0.1", 0), Collector)
print(server.server_address[1], flush=True)
try:
    server.serve_forever()
except KeyboardInterrupt:
    sys.exit(0)
