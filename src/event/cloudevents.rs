//! CloudEvents 1.0: an envelope around the job event, in JSON (structured mode) or in headers (binary mode).
//!
//! The envelope's `id` is the `eventId` of an event without one. Its `type`, or the part after the last full
//! stop, is the `event` of one that names none. Its `traceparent` and `tracestate` (the extension for tracing)
//! are those of an event without its own.

use data_encoding::BASE64;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    Given, Malformed, Parsed, parse_with,
    text::{with_whole_characters, without_text},
};
use crate::callback::Trace;

/// The media type of an event in structured mode.
pub const STRUCTURED: &str = "application/cloudevents+json";
/// The media type of a batch.
pub const BATCH: &str = "application/cloudevents-batch+json";
/// Names of headers in binary mode begin with this.
pub const PREFIX: &str = "ce-";
/// The header that every event in binary mode has.
pub const VERSION: &str = "ce-specversion";

#[derive(Deserialize)]
struct Envelope {
    specversion: Option<String>,
    id: Option<String>,
    r#type: Option<String>,
    traceparent: Option<String>,
    tracestate: Option<String>,
    data: Option<Box<RawValue>>,
    data_base64: Option<String>,
}

/// Whether a JSON text without a media type is an envelope.
pub fn is_envelope(json: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Version {
        specversion: Option<serde::de::IgnoredAny>,
    }
    serde_json::from_slice(json).is_ok_and(|it: Version| it.specversion.is_some())
}

/// Parses an event in structured mode. `given` has what is known from elsewhere.
pub fn structured(json: &[u8], given: Given) -> Result<Parsed, Malformed> {
    let text = std::str::from_utf8(json).map_err(|e| Malformed::Utf8(e.valid_up_to() + 1))?;
    // serde would also accept an array, with the attributes in order.
    if !text.trim_start().starts_with('{') {
        return Err(Malformed::CloudEvent("it is a JSON object, in braces"));
    }
    let envelope: Envelope = serde_json::from_str(&with_whole_characters(text))
        .map_err(|e| Malformed::Json(without_text(&e.to_string())))?;
    let mut given = checked(envelope.specversion, envelope.id, envelope.r#type, given)?;
    let trace = envelope.traceparent.as_deref();
    let trace = trace.and_then(|it| Trace::parse(it, envelope.tracestate.as_deref()));
    given.trace = trace.or(given.trace);
    match (envelope.data, envelope.data_base64) {
        (Some(data), None) => parse_with(data.get().as_bytes(), given),
        (None, Some(text)) => {
            let data = BASE64.decode(text.as_bytes());
            parse_with(
                &data.map_err(|_| Malformed::CloudEvent("`data_base64` is not base64"))?,
                given,
            )
        }
        (None, None) => Err(Malformed::CloudEvent("`data` is missing")),
        (Some(_), Some(_)) => Err(Malformed::CloudEvent("`data` and `data_base64` are both given")),
    }
}

/// Parses an event in binary mode: `header` gives the value of a header.
pub fn binary(
    header: impl Fn(&str) -> Option<String>,
    data: &[u8],
    given: Given,
) -> Result<Parsed, Malformed> {
    let attribute = |name: &str| {
        let value = header(&format!("{PREFIX}{name}"))?;
        Some(percent_encoding::percent_decode_str(&value).decode_utf8_lossy().into_owned())
    };
    let mut given = checked(attribute("specversion"), attribute("id"), attribute("type"), given)?;
    let trace = attribute("traceparent");
    let trace = trace.and_then(|it| Trace::parse(&it, attribute("tracestate").as_deref()));
    given.trace = trace.or(given.trace);
    parse_with(data, given)
}

/// The events of a batch.
pub fn batch(json: &[u8]) -> Result<Vec<Box<RawValue>>, Malformed> {
    serde_json::from_slice(json).map_err(|e| Malformed::Json(without_text(&e.to_string())))
}

fn checked(
    version: Option<String>,
    id: Option<String>,
    kind: Option<String>,
    given: Given,
) -> Result<Given, Malformed> {
    let version = version.ok_or(Malformed::CloudEvent("`specversion` is missing"))?;
    if !version.starts_with("1.") {
        return Err(Malformed::CloudEvent("`specversion` has to be 1.0"));
    }
    let filled = |text: Option<String>| text.filter(|text| !text.is_empty());
    let id = filled(id).ok_or(Malformed::CloudEvent("`id` is missing or empty"))?;
    let kind = filled(kind).ok_or(Malformed::CloudEvent("`type` is missing or empty"))?;
    let event = kind.rsplit('.').next().map(str::to_owned);
    Ok(Given { event_id: Some(id), event: given.event.or(event), trace: given.trace })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::JobEvent;

    const DATA: &str = r#"{"jobId":"1","jobIdFs":"2","exitStatus":"OK","parameters":{"DpfControlCallbackUrl":"http://h/"}}"#;

    fn callback(parsed: Result<Parsed, Malformed>) -> JobEvent {
        match parsed {
            Ok(Parsed::Callback(event)) => event,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_array_is_no_event() {
        let array = r#"["1.0","e1","job_finished",null,null,{},null]"#;
        let error = structured(array.as_bytes(), Given::default()).unwrap_err();
        assert!(error.to_string().contains("braces"), "{error}");
    }

    #[test]
    fn both_modes_give_the_event_with_the_id_of_the_envelope() {
        let head =
            r#""specversion":"1.0","id":"e1","source":"/dpf","type":"com.example.job_finished""#;
        let json = format!(r#"{{{head},"data":{DATA}}}"#);
        assert!(is_envelope(json.as_bytes()) && !is_envelope(DATA.as_bytes()));
        let coded = format!(r#"{{{head},"data_base64":"{}"}}"#, BASE64.encode(DATA.as_bytes()));
        let header = |name: &str| {
            let value = match name {
                "ce-specversion" => "1.0",
                "ce-id" => "e%31",
                "ce-type" => "job_finished",
                _ => return None,
            };
            Some(value.to_owned())
        };
        for parsed in [
            structured(json.as_bytes(), Given::default()),
            structured(coded.as_bytes(), Given::default()),
            binary(header, DATA.as_bytes(), Given::default()),
        ] {
            let event = callback(parsed);
            assert_eq!((event.event_id.as_deref(), event.job_id.as_str()), (Some("e1"), "1"));
        }
    }

    #[test]
    fn the_event_takes_precedence_over_its_envelope() {
        let data = DATA.replacen('{', r#"{"eventId":"own","event":"job_finished","#, 1);
        let json = format!(
            r#"{{"specversion":"1.0","id":"e1","source":"s","type":"job_sending","data":{data}}}"#
        );
        let event = callback(structured(json.as_bytes(), Given::default()));
        assert_eq!(event.event_id.as_deref(), Some("own"));
        assert_eq!(event.exit_status.as_deref(), Some("OK"));
    }

    #[test]
    fn an_incomplete_envelope_is_refused_with_the_attribute_named() {
        for (json, says) in [
            (r#"{"id":"1","type":"t","data":{}}"#, "specversion"),
            (r#"{"specversion":"0.3","id":"1","type":"t","data":{}}"#, "specversion"),
            (r#"{"specversion":"1.0","type":"t","data":{}}"#, "`id`"),
            (r#"{"specversion":"1.0","id":"","type":"t","data":{}}"#, "`id`"),
            (r#"{"specversion":"1.0","id":"1","data":{}}"#, "`type`"),
            (r#"{"specversion":"1.0","id":"1","type":"t"}"#, "`data`"),
            (r#"{"specversion":"1.0","id":"1","type":"t","data_base64":"?"}"#, "base64"),
            (r#"{"specversion":"1.0","id":"1","type":"t","data":{},"data_base64":""}"#, "both"),
            (r#"{"specversion":"1.0","id":"1","type":"t","data":"text"}"#, "JSON object"),
        ] {
            let error = structured(json.as_bytes(), Given::default()).expect_err(json).to_string();
            assert!(error.contains(says), "{json}: {error}");
        }
    }
}
