# Reads job events, one JSON object a line, and prints each as CloudEvents of the public package, in structured
# and in binary mode: a line with the headers and the body, as text.
import json
import sys

from cloudevents.core.bindings.http import to_binary_event, to_structured_event
from cloudevents.core.v1.event import CloudEvent

for number, line in enumerate(sys.stdin):
    data = json.loads(line)
    kind = "com.sealsystems.dpf." + data.pop("event")
    for mode, write in (("structured", to_structured_event), ("binary", to_binary_event)):
        for content in ({}, {"datacontenttype": "application/json"}):
            attributes = {
                "id": f"{mode} {number} {len(content)} ü%",
                "source": "/dpf",
                "type": kind,
                "subject": "jobs/1",
            }
            message = write(CloudEvent(attributes | content, data))
            print(json.dumps({"headers": dict(message.headers), "body": message.body.decode()}))
