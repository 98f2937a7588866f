//! The schemas of a job event and of a CloudEvent around one: the rules of [`crate::event`] as JSON Schema.

use serde_json::{Value, json};

/// A required name.
fn name() -> Value {
    json!({"allOf": [{"$ref": "#/components/schemas/Name"}, {"minLength": 1}]})
}

/// What may be missing; an empty text counts as missing.
fn missing() -> Value {
    json!({"enum": ["", null]})
}

fn name_or_missing() -> Value {
    json!({"anyOf": [missing(), not_own()]})
}

/// A name that is not one of the service's own.
fn not_own() -> Value {
    json!({"allOf": [name(), {"not": {"pattern": "^(outcome|notice):"}}]})
}

/// The kinds of events, each with the pattern of its name and its required fields.
fn kinds() -> Vec<(Value, Value)> {
    let job = |exit_status: Value, state: &str, required: &[&str]| {
        let required = [&["jobId", "jobIdFs"], required].concat();
        json!({
            "required": required,
            "properties": {
                "jobId": not_own(), "jobIdFs": name(), "eventId": name_or_missing(),
                "exitStatus": exit_status, "jobState": {"enum": [state, "", null]},
            },
        })
    };
    let error = json!({"allOf": [name(), {"not": {"const": "OK"}}]});
    let pattern = |text: &str| json!({"pattern": format!("(^|\\.){text}$")});
    vec![
        (pattern("job_sending"), job(missing(), "SENDING", &[])),
        (pattern("job_finished"), job(json!({"const": "OK"}), "FINISHED", &["exitStatus"])),
        (pattern("job_finished"), job(error, "ERROR", &["exitStatus"])),
        // Any other one is ignored, whatever it has.
        (json!({"not": pattern("job_(sending|finished)")}), json!({})),
    ]
}

/// Puts the rules into the schema of the fields.
pub(super) fn complete_job_event(schema: &mut Value) {
    let fields = &mut schema["properties"];
    for name in ["event", "jobId", "jobIdFs", "exitStatus", "eventId"] {
        // Which of them are required depends on the event.
        fields[name]["type"] = json!(["string", "null"]);
        if let Some(field) = fields[name].as_object_mut() {
            field.remove("maxLength");
        }
    }
    fields["parameters"]["type"] = json!(["object", "null"]);
    fields["parameters"]["additionalProperties"] = json!(true);
    schema["required"] = json!(["event"]);
    let whole = ["job_sending", "job_finished"];
    let named = |name: &str| json!({"const": name});
    let events = [
        named(whole[0]),
        named(whole[1]),
        named(whole[1]),
        json!({"type": "string", "minLength": 1, "not": {"enum": whole}}),
    ];
    let rules = kinds().into_iter().zip(events).map(|((_, mut rule), event)| {
        rule["properties"]["event"] = event;
        rule
    });
    schema["anyOf"] = rules.collect();
}

/// The schema of a CloudEvent. The `type` alone may name the event.
pub(super) fn cloud_event() -> Value {
    let of_data = json!({"properties": {"data": {"$ref": "#/components/schemas/JobEvent"}}});
    let of_type = kinds().into_iter().map(|(kind, mut rule)| {
        rule["properties"]["event"] = missing();
        json!({"properties": {"type": kind, "data": {"allOf": [
            {"$ref": "#/components/schemas/JobEventFields"}, rule,
        ]}}})
    });
    json!({
        "type": "object",
        "description": "A CloudEvent 1.0 (structured mode) with a job event as its data, or as base64 in data_base64.",
        "required": ["specversion", "id", "type", "data"],
        "properties": {
            "specversion": {"type": "string", "pattern": "^1\\."},
            "id": {
                "type": "string", "minLength": 1,
                "description": "The eventId of an event without one, then of at most 255 bytes.",
            },
            "source": {"description": "Not used."},
            "type": {
                "type": "string", "minLength": 1, "description": "The event of one that names none, or its last part: \
                    com.example.job_finished.",
            },
            "traceparent": {"type": ["string", "null"]},
            "tracestate": {"type": ["string", "null"]},
            "data": {"type": "object"},
        },
        "anyOf": std::iter::once(of_data).chain(of_type).collect::<Vec<_>>(),
    })
}

/// The fields of a job event without its rules.
pub(super) fn fields(job_event: &Value) -> Value {
    let mut fields = job_event.clone();
    if let Some(schema) = fields.as_object_mut() {
        schema.remove("anyOf");
        schema.remove("required");
    }
    fields["description"] = json!("The fields of a job event.");
    fields
}
