//! The `OpenAPI` document: the descriptions of the handlers, what all of them share, and the callback that
//! the service sends.

use serde_json::{Map, Value, json};
use utoipa::openapi::OpenApi;

use super::event_schema;

/// What the tags are about.
const TAGS: [(&str, &str); 5] = [
    ("events", "Job events, for producers."),
    ("callbacks", "Callbacks: the queue, listings, and what an operator does with them."),
    ("destinations", "Destinations: scheme, host and port of receivers."),
    ("health", "Health and metrics, for supervisors and monitoring."),
    ("service", "The running service."),
];

/// The meaning of a status, unless the handler describes it.
const STATUSES: [(&str, &str); 12] = [
    ("200", "Done."),
    ("400", "The request is wrong; the detail says where, and what would be right."),
    ("401", "Missing or wrong token."),
    ("403", "The token may only read."),
    ("404", "There is no such callback."),
    ("408", "The request was not received within api.idle_timeout."),
    ("413", "The body is too large."),
    ("415", "The content type is not supported."),
    ("422", "The body is JSON, but not what is expected."),
    ("500", "Internal error; see the log of the service."),
    ("503", "Not possible now; try again after Retry-After seconds."),
    ("409", "Not possible in the present state."),
];

/// Completes the document of the handlers.
pub(super) fn complete(document: &OpenApi) -> Value {
    // A document of texts and numbers cannot fail to serialize.
    let mut document = serde_json::to_value(document).unwrap_or_default();
    document["info"]["contact"] = json!({"name": env!("CARGO_PKG_NAME")});
    document["servers"] = json!([{"url": "/"}]);
    document["tags"] =
        TAGS.iter().map(|(name, text)| json!({"name": name, "description": text})).collect();
    for (_, path) in members(&mut document["paths"]) {
        for (method, operation) in members(path) {
            complete_operation(method, operation);
        }
    }
    let schemas = &mut document["components"]["schemas"];
    schemas["FilterView"]["anyOf"] = selectors(&schemas["FilterView"]["properties"]);
    schemas["Notice"] = notice();
    event_schema::complete_job_event(&mut schemas["JobEvent"]);
    schemas["JobEventFields"] = event_schema::fields(&schemas["JobEvent"]);
    schemas["CloudEvent"] = event_schema::cloud_event();
    let cloud_event = json!({"$ref": "#/components/schemas/CloudEvent"});
    let content = &mut document["paths"]["/v1/events"]["post"]["requestBody"]["content"];
    content["application/cloudevents+json"]["schema"] = cloud_event;
    content["application/cloudevents-batch+json"]["schema"] = json!({"type": "array", "items": {}, "description": "CloudEvents. What is none is refused in its line."});
    document["webhooks"] = webhooks();
    for (_, webhook) in members(&mut document["webhooks"]) {
        webhook["put"]["security"] = json!([{}]);
    }
    document
}

fn members(value: &mut Value) -> impl Iterator<Item = (&String, &mut Value)> {
    value.as_object_mut().into_iter().flatten()
}

fn complete_operation(method: &str, operation: &mut Value) {
    if operation["description"].is_null() {
        operation["description"] = operation["summary"].clone();
    }
    let is_open = operation.get("security").is_some();
    let has_body = operation.get("requestBody").is_some();
    let mut also = vec!["500", "503"];
    if !is_open {
        also.push("401");
    }
    if method == "post" {
        also.push("403");
    }
    if has_body {
        also.extend(["408", "413", "415", "422"]);
    }
    let responses = &mut operation["responses"];
    for status in also {
        if responses.get(status).is_none() {
            let problem = json!({"$ref": "#/components/schemas/Problem"});
            responses[status] = json!({"content": {"application/json": {"schema": problem}}});
        }
    }
    for (status, response) in members(responses) {
        if response["description"].as_str().unwrap_or_default().is_empty() {
            let known = STATUSES.iter().find(|(known, _)| known == status);
            response["description"] = known.map_or("", |(_, text)| text).into();
        }
        // Errors have a separate media type (RFC 9457).
        let is_error = status.starts_with(['4', '5']);
        if is_error && let Some(content) = response["content"].as_object_mut() {
            let problem = content.remove("application/json");
            content.extend(problem.map(|it| ("application/problem+json".to_owned(), it)));
        }
    }
}

/// A filter selects by at least one thing.
fn selectors(properties: &Value) -> Value {
    let names = properties.as_object().map(Map::keys).into_iter().flatten();
    let one = |name: &String| {
        let value = match name.as_str() {
            "ids" => json!({"type": "array", "items": {}, "minItems": 1}),
            "all" => json!({"const": true}),
            _ => json!({"type": "string"}),
        };
        json!({"required": [name], "properties": {name: value}})
    };
    names.map(one).collect()
}

/// What the service sends.
fn webhooks() -> Value {
    let header = |name: &str, description: &str, required: bool| {
        json!({
            "name": name, "in": "header", "required": required, "description": description,
            "schema": {"type": "string"},
        })
    };
    let responses = json!({
        "2XX": {"description": "Taken. Answer when it is stored."},
        "4XX": {"description": "400, 405, 410 and others of retry.final_statuses: it can never be taken. 429 with \
            Retry-After: later. Any other one: it is sent again."},
        "5XX": {"description": "501 and 505: it can never be taken. Any other one: it is sent again; with \
            Retry-After, not before that."},
    });
    let hook = |id: &str, summary: &str, description: &str, schema: &str| {
        json!({"put": {
            "operationId": id, "summary": summary, "description": description, "tags": ["callbacks"],
            "parameters": [
                header("webhook-id", "The same on every attempt and every replay: drop repeats by it.", true),
                header("webhook-timestamp", "Time of this attempt, in Unix seconds.", true),
                header("webhook-signature", "Standard Webhooks, with signing.secrets: one signature for each secret, \
                    separated by spaces.", false),
                header("callback-attempt", "1, 2, 3 …", true),
                header("traceparent", "W3C Trace Context, if the job's event had a trace.", false),
                header("tracestate", "W3C Trace Context, if the job's event had one.", false),
            ],
            "requestBody": {"required": true, "content": {"application/json": {
                "schema": {"$ref": format!("#/components/schemas/{schema}")},
            }}},
            "responses": responses,
        }})
    };
    json!({
        "callback": hook("receiveCallback", "A job waits for its client, or has ended",
            "Sent to the job's parameter DpfControlCallbackUrl. The callbacks of a job arrive in order; each may arrive \
             more than once.", "Body"),
        "notice": hook("receiveNotice", "Callbacks have failed for good",
            "Sent to notify.url: one for each destination and window.", "Notice"),
    })
}

/// The body of a notice, as `outbox::notice` makes it.
fn notice() -> Value {
    let of = |name: &str| json!({"$ref": format!("#/components/schemas/{name}")});
    let time = json!({"type": "string", "format": "date-time"});
    let count = json!({"type": "integer", "format": "int64", "minimum": 1});
    let properties = json!({
        "type": {"const": "callbacks.failed"},
        "destination": {"type": "string", "description": "Scheme, host and port; empty for invalid URLs."},
        "windowStart": time, "windowEnd": time,
        "failed": count,
        "firstId": of("CallbackId"), "lastId": of("CallbackId"),
        "errorKinds": {
            "type": "object", "propertyNames": of("ErrorKind"), "additionalProperties": count,
            "description": "How many failed for each kind of error.",
        },
        "error": of("Failure"),
    });
    let required: Vec<_> = properties.as_object().map(Map::keys).into_iter().flatten().collect();
    json!({"type": "object", "required": required, "properties": properties,
        "description": "The failures of a destination in a window."})
}
