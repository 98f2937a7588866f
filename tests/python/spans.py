# Reads the headers of requests, a JSON object on each line, and prints what OpenTelemetry's receiver makes of each.
import json
import sys

from opentelemetry.trace import get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

for line in sys.stdin:
    context = TraceContextTextMapPropagator().extract(json.loads(line))
    span = get_current_span(context).get_span_context()
    found = {
        "valid": span.is_valid,
        "trace": format(span.trace_id, "032x"),
        "span": format(span.span_id, "016x"),
        "sampled": span.trace_flags.sampled,
        "state": span.trace_state.to_header(),
    }
    print(json.dumps(found))
