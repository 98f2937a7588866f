//! The fields of the log: those of the Elastic Common Schema, and our own from `packaging/elastic/`.

use std::{collections::HashMap, net::IpAddr, sync::LazyLock};

use serde_json::Value;

/// Maximum number of lines of one action that are checked; the others have the same fields.
const LINES: u32 = 50;

/// The type of a field.
pub(crate) struct Kind {
    stored_as: String,
    is_array: bool,
    allowed: Vec<String>,
}

/// Every field that a line may have.
pub(crate) static FIELDS: LazyLock<HashMap<String, Kind>> = LazyLock::new(|| {
    let ecs: Value = serde_json::from_str(include_str!("../log/ecs.json")).unwrap();
    let template: Value =
        serde_json::from_str(include_str!("../../../packaging/elastic/component-template.json"))
            .unwrap();
    let mut fields: HashMap<_, _> = ecs["fields"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, field)| {
            let allowed = match &field["allowed"] {
                Value::Array(names) => names.iter().map(|it| it.as_str().unwrap().into()).collect(),
                Value::Object(names) => names.keys().cloned().collect(),
                _ => Vec::new(),
            };
            let stored_as = field["type"].as_str().unwrap().to_owned();
            (name.clone(), Kind { stored_as, is_array: field["array"] == true, allowed })
        })
        .collect();
    for (group, own) in template["template"]["mappings"]["properties"].as_object().unwrap() {
        for (name, field) in own["properties"].as_object().unwrap() {
            let stored_as = field["type"].as_str().unwrap().to_owned();
            let is_array = field["meta"]["list"] == "true";
            let kind = Kind { stored_as, is_array, allowed: Vec::new() };
            let before = fields.insert(format!("{group}.{name}"), kind);
            assert!(before.is_none(), "{group}.{name} is a field of ECS");
        }
    }
    fields
});

/// Checks the lines of a log: each is JSON whose fields have names, types and values that Elasticsearch
/// accepts.
pub(crate) fn check(log: &str) {
    let mut seen: HashMap<&str, u32> = HashMap::new();
    for line in log.lines() {
        let action = line.split_once("\"event.action\":\"").map_or("", |(_, rest)| rest);
        let action = action.split('"').next().unwrap_or_default();
        let seen = seen.entry(action).or_default();
        *seen += 1;
        // A process that is killed may leave half a line.
        if *seen > LINES || !line.ends_with('}') {
            continue;
        }
        if let Ok(line) = serde_json::from_str::<Value>(line) {
            check_line(&line);
        }
    }
}

fn check_line(line: &Value) {
    let object = line.as_object().unwrap();
    for (name, value) in object {
        // Fields of other crates.
        if name.starts_with("labels.") {
            assert!(value.is_string(), "{name} is not a string: {line}");
            continue;
        }
        let kind = FIELDS.get(name).unwrap_or_else(|| panic!("unknown field {name}: {line}"));
        let values = match value.as_array() {
            Some(values) if kind.is_array => values.iter().collect(),
            None if !kind.is_array => vec![value],
            _ => panic!("{name} is an array, or has to be one: {line}"),
        };
        for value in values {
            assert!(fits(&kind.stored_as, value), "{name} is not a {}: {line}", kind.stored_as);
            let known = |text| kind.allowed.iter().any(|it| it == text);
            assert!(
                kind.allowed.is_empty() || value.as_str().is_some_and(known),
                "{name} has a value that ECS does not allow: {line}"
            );
        }
    }
    for name in ["@timestamp", "log.level", "message", "ecs.version", "event.dataset"] {
        assert!(object.contains_key(name), "no {name}: {line}");
    }
    for name in ["event.kind", "event.category", "event.type"] {
        assert_eq!(
            object.contains_key(name),
            object.contains_key("event.action"),
            "{name} belongs to an action: {line}"
        );
    }
}

/// Whether Elasticsearch accepts a value for a field of this type.
fn fits(kind: &str, value: &Value) -> bool {
    match kind {
        "keyword" | "match_only_text" | "wildcard" => value.is_string(),
        "long" => value.is_i64() || value.as_u64().is_some_and(|it| i64::try_from(it).is_ok()),
        "date" => value.as_str().is_some_and(is_time),
        "ip" => value.as_str().is_some_and(|it| it.parse::<IpAddr>().is_ok()),
        other => panic!("type {other} is not known here"),
    }
}

/// Whether it is a time as in RFC 3339, in UTC.
fn is_time(text: &str) -> bool {
    text.ends_with('Z') && humantime::parse_rfc3339(text).is_ok()
}
