"""Takes spans by OTLP/HTTP and tells them as JSON at /spans; run by a service's own Python, which has the protocol."""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (  # ty: ignore[import-not-found]
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

spans: list[dict[str, Any]] = []


def attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}


class Collector(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        request = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["Content-Length"])))
        for resource in request.resource_spans:
            about = attributes(resource.resource.attributes)
            for span in (span for scope in resource.scope_spans for span in scope.spans):
                spans.append(
                    {
                        "name": span.name,
                        "kind": {2: "server", 4: "producer", 5: "consumer"}.get(span.kind, "other"),
                        "trace": span.trace_id.hex(),
                        "id": span.span_id.hex(),
                        "parent": span.parent_span_id.hex(),
                        "links": [(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
                        "attributes": attributes(span.attributes),
                        "failed": span.status.code == 2,
                        "events": {event.name: attributes(event.attributes) for event in span.events},
                        "start": span.start_time_unix_nano / 1e9,
                        "end": span.end_time_unix_nano / 1e9,
                        "service": about["service.name"],
                        "pid": about["process.pid"],
                    }
                )
        self._answer(ExportTraceServiceResponse().SerializeToString(), "application/x-protobuf")

    def do_GET(self) -> None:
        self._answer(json.dumps(spans).encode(), "application/json")

    def _answer(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Collector).serve_forever()
