//! The job event, and whether it requests a callback (docs/producing-events.md).
//!
//! Unknown fields are ignored. A known field of the wrong type makes the event malformed. Empty
//! strings are treated as absent.

pub mod cloudevents;
mod parameters;
mod text;

use serde::{Deserialize, Serialize};

pub use self::parameters::{Parameters, URL_PARAMETER};
use self::text::{with_whole_characters, without_text};
use crate::callback::{JobState, SecretUrl, Trace};

/// Maximum length of `jobId`, `jobIdFs`, `exitStatus` and `eventId`, in bytes. The other fields are
/// limited by the size of the event.
pub const MAX_NAME_BYTES: usize = 255;

/// The beginnings of the jobs and idempotency keys of outcome events and notices.
const OWN: [&str; 2] = ["outcome:", "notice:"];

/// The event as parsed from JSON: the types are checked, the rules are not.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = JobEvent)]
pub struct RawEvent {
    /// `job_sending` or `job_finished`; any other event is ignored.
    #[schema(required = true, example = "job_finished")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
    /// DPF's internal id of the job.
    #[schema(required = true, max_length = 255, example = "4711")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_id: Option<String>,
    /// Name of the job's directory.
    #[schema(required = true, max_length = 255, example = "201602231834182304")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_id_fs: Option<String>,
    /// How the job ended; required for `job_finished`, not allowed for `job_sending`.
    #[schema(max_length = 255, example = "OK")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_status: Option<String>,
    /// Why the job ended in an error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_reason: Option<String>,
    /// The job's parameters. `DpfControlCallbackUrl`, in any spelling that DPF accepts, requests a
    /// callback.
    #[schema(value_type = std::collections::HashMap<String, String>)]
    #[serde(default, skip_serializing_if = "Parameters::is_empty")]
    pub parameters: Parameters,
    /// An idempotency key: an event with the key of a stored one is a duplicate.
    #[schema(max_length = 255)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_id: Option<String>,
    /// The page of the job; the default is `tracker.url_template`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dpf_tracker_url: Option<String>,
    /// W3C Trace Context: the trace that the job belongs to. The header `traceparent` does for all events of a
    /// request. An invalid one is ignored.
    #[schema(example = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// W3C Trace Context: what tracing systems have added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracestate: Option<String>,
    /// `SENDING`, `FINISHED` or `ERROR`; optional, and has to agree with the other fields.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_state: Option<String>,
}

/// A job event that requests a callback.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobEvent {
    /// DPF's internal id of the job.
    pub job_id: String,
    /// Name of the job's directory.
    pub job_id_fs: String,
    /// State of the job.
    pub job_state: JobState,
    /// How it ended; `None` while it is sending.
    pub exit_status: Option<String>,
    /// Why it failed; only with [`JobState::Error`].
    pub error_reason: Option<String>,
    /// The event's own tracker page.
    pub tracker_url: Option<String>,
    /// The idempotency key.
    pub event_id: Option<String>,
    /// The callback URL as submitted.
    pub url: SecretUrl,
    /// The trace that it belongs to.
    pub trace: Option<Box<Trace>>,
}

/// The reason why an event does not request a callback.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Ignored {
    /// Another kind of event.
    #[error("only job_sending and job_finished lead to a callback")]
    OtherEvent,
    /// No callback is requested.
    #[error("the job has no parameter DpfControlCallbackUrl")]
    NoUrl,
}

/// Why an event is malformed. The message names the field and what is expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Not a JSON object with fields of the right types.
    #[error("not a job event in JSON: {0}")]
    Json(String),
    /// The bytes are not UTF-8.
    #[error("not UTF-8: the first invalid byte is byte {0}")]
    Utf8(usize),
    /// The event is longer than `api.max_event_bytes`.
    #[error("longer than {0} bytes (api.max_event_bytes)")]
    TooLong(usize),
    /// Not a CloudEvent.
    #[error("not a CloudEvent: {0}")]
    CloudEvent(&'static str),
    /// A required field is missing or empty.
    #[error("`{0}` is missing or empty")]
    Missing(&'static str),
    /// A field is longer than [`MAX_NAME_BYTES`].
    #[error("`{0}` is longer than 255 bytes")]
    FieldTooLong(&'static str),
    /// A name begins like those of outcome events and notices, which are jobs and idempotency keys as well.
    #[error("`{0}` begins with \"outcome:\" or \"notice:\", as names of the service's own do")]
    Reserved(&'static str),
    /// A job that is sending has not ended.
    #[error("`exitStatus` is not allowed for job_sending: the job has not ended")]
    ExitStatusWhileSending,
    /// `jobState` contradicts the event.
    #[error("`jobState` disagrees: this event means {0}")]
    JobState(&'static str),
    /// The callback URL is given twice, with different values.
    #[error("`DpfControlCallbackUrl` is given twice, with different values")]
    TwoUrls,
}

impl Malformed {
    /// Whether the event cannot be parsed (400), as opposed to one that violates a rule (422).
    pub fn is_syntax(&self) -> bool {
        matches!(self, Self::Json(_) | Self::Utf8(_))
    }
}

/// The request of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parsed {
    /// A callback.
    Callback(JobEvent),
    /// Nothing.
    Ignored(Ignored),
}

/// What is known about an event from outside its JSON, which takes precedence.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Given {
    /// The kind of event.
    pub event: Option<String>,
    /// The idempotency key.
    pub event_id: Option<String>,
    /// The trace.
    pub trace: Option<Trace>,
}

/// Parses one event from JSON.
pub fn parse(json: &[u8]) -> Result<Parsed, Malformed> {
    parse_with(json, Given::default())
}

/// The same with additional information from elsewhere.
pub fn parse_with(json: &[u8], beside: Given) -> Result<Parsed, Malformed> {
    let text = std::str::from_utf8(json).map_err(|e| Malformed::Utf8(e.valid_up_to() + 1))?;
    // Editors on Windows write a byte order mark before the first line; it is ignored (RFC 8259, 8.1).
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let text = &*with_whole_characters(text);
    // serde would also accept an array, with the fields in order.
    if !text.trim_start().starts_with('{') {
        return Err(Malformed::Json("an event is a JSON object, in braces".into()));
    }
    let mut raw: RawEvent =
        serde_json::from_str(text).map_err(|e| Malformed::Json(without_text(&e.to_string())))?;
    raw.event = given(raw.event).or(beside.event);
    raw.event_id = given(raw.event_id).or(beside.event_id);
    let mut parsed = check(raw)?;
    if let Parsed::Callback(event) = &mut parsed {
        event.trace = event.trace.take().or(beside.trace.map(Box::new));
    }
    Ok(parsed)
}

/// Applies the rules to an event with the right types.
pub fn check(raw: RawEvent) -> Result<Parsed, Malformed> {
    let event = given(raw.event).ok_or(Malformed::Missing("event"))?;
    let sending = match event.as_str() {
        "job_sending" => true,
        "job_finished" => false,
        _ => return Ok(Parsed::Ignored(Ignored::OtherEvent)),
    };
    let job_id = name("jobId", raw.job_id)?.ok_or(Malformed::Missing("jobId"))?;
    let job_id_fs = name("jobIdFs", raw.job_id_fs)?.ok_or(Malformed::Missing("jobIdFs"))?;
    let event_id = name("eventId", raw.event_id)?;
    for (field, name) in [("jobId", Some(&job_id)), ("eventId", event_id.as_ref())] {
        if name.is_some_and(|name| OWN.iter().any(|own| name.starts_with(own))) {
            return Err(Malformed::Reserved(field));
        }
    }
    let exit_status = name("exitStatus", raw.exit_status)?;
    let job_state = match (sending, exit_status.as_deref()) {
        (true, None) => JobState::Sending,
        (true, Some(_)) => return Err(Malformed::ExitStatusWhileSending),
        (false, None) => return Err(Malformed::Missing("exitStatus")),
        (false, Some("OK")) => JobState::Finished,
        (false, Some(_)) => JobState::Error,
    };
    if given(raw.job_state).is_some_and(|said| said != job_state.as_str()) {
        return Err(Malformed::JobState(job_state.as_str()));
    }
    let mut urls = raw.parameters.urls.into_iter();
    let Some(url) = urls.next() else {
        return Ok(Parsed::Ignored(Ignored::NoUrl));
    };
    if urls.any(|other| other != url) {
        return Err(Malformed::TwoUrls);
    }
    Ok(Parsed::Callback(JobEvent {
        job_id,
        job_id_fs,
        job_state,
        exit_status,
        error_reason: given(raw.error_reason).filter(|_| job_state == JobState::Error),
        tracker_url: given(raw.dpf_tracker_url),
        event_id,
        url,
        trace: raw
            .traceparent
            .and_then(|it| Trace::parse(&it, raw.tracestate.as_deref()))
            .map(Box::new),
    }))
}

fn given(field: Option<String>) -> Option<String> {
    field.filter(|text| !text.is_empty())
}

fn name(field: &'static str, value: Option<String>) -> Result<Option<String>, Malformed> {
    match given(value) {
        Some(text) if text.len() > MAX_NAME_BYTES => Err(Malformed::FieldTooLong(field)),
        other => Ok(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: &str = "http://callbackhost:8080/ourjobmanager/ourjobno/12345";

    fn event(extra: &str) -> String {
        format!(r#"{{"event":"job_finished","jobId":"1","jobIdFs":"2","exitStatus":"OK"{extra}}}"#)
    }

    #[test]
    fn parameter_names_are_compared_in_smart_notation() {
        for spelling in [
            "DpfControlCallbackUrl",
            "DPF_CONTROL_CALLBACK_URL",
            "dpfcontrolcallbackurl",
            "_Dpf_controlCallbackURL_",
        ] {
            let json = event(&format!(r#","parameters":{{"X":1,"{spelling}":"{URL}"}}"#));
            let Ok(Parsed::Callback(event)) = parse(json.as_bytes()) else { panic!("{spelling}") };
            assert_eq!(event.url.reveal(), URL);
        }
        let json = event(r#","parameters":{"DpfControlCallbackUrls":"x"}"#);
        assert_eq!(parse(json.as_bytes()), Ok(Parsed::Ignored(Ignored::NoUrl)));
    }

    #[test]
    fn an_event_without_a_callback_url_or_with_an_empty_one_is_ignored() {
        for extra in [
            "",
            r#","parameters":{}"#,
            r#","parameters":null"#,
            r#","parameters":{"DpfControlCallbackUrl":""}"#,
            r#","parameters":{"DpfControlCallbackUrl":null}"#,
        ] {
            assert_eq!(
                parse(event(extra).as_bytes()),
                Ok(Parsed::Ignored(Ignored::NoUrl)),
                "{extra}"
            );
        }
        assert_eq!(
            parse("\u{feff}{\"event\":\"job_added\"}".as_bytes()),
            Ok(Parsed::Ignored(Ignored::OtherEvent)),
            "a byte order mark is passed over"
        );
        assert_eq!(parse(br#"{"event":"job_added"}"#), Ok(Parsed::Ignored(Ignored::OtherEvent)));
    }

    #[test]
    fn malformed_events_are_refused_with_the_field_named() {
        let long = "x".repeat(256);
        for (json, says) in [
            ("", "not a job event"),
            ("[]", "not a job event"),
            ("{}", "`event`"),
            (r#"{"event":7}"#, "not a job event"),
            (r#"{"event":"job_finished","jobIdFs":"2","exitStatus":"OK"}"#, "`jobId`"),
            (r#"{"event":"job_finished","jobId":"","jobIdFs":"2","exitStatus":"OK"}"#, "`jobId`"),
            (
                r#"{"event":"job_finished","jobId":1,"jobIdFs":"2","exitStatus":"OK"}"#,
                "integer `1`",
            ),
            (r#"{"event":"job_finished","jobId":"1","exitStatus":"OK"}"#, "`jobIdFs`"),
            (r#"{"event":"job_finished","jobId":"1","jobIdFs":"2"}"#, "`exitStatus`"),
            (
                r#"{"event":"job_sending","jobId":"1","jobIdFs":"2","exitStatus":"OK"}"#,
                "`exitStatus`",
            ),
            (&event(r#","jobState":"ERROR""#), "FINISHED"),
            (&event(r#","jobId":"1""#), "duplicate field"),
            (&event(r#","parameters":[]"#), "job parameters"),
            (&event(r#","parameters":{"DpfControlCallbackUrl":5}"#), "string"),
            (
                &event(
                    r#","parameters":{"DpfControlCallbackUrl":"http://a","dpfcontrolcallbackurl":"http://b"}"#,
                ),
                "twice",
            ),
            (&event(&format!(r#","eventId":"{long}""#)), "`eventId`"),
            (&event(r#","eventId":"notice:1:2""#), "`eventId` begins with"),
            (
                r#"{"event":"job_finished","jobId":"outcome:1","jobIdFs":"2","exitStatus":"OK"}"#,
                "`jobId` begins with",
            ),
        ] {
            let error = parse(json.as_bytes()).expect_err(json).to_string();
            assert!(error.contains(says), "{json}: {error}");
        }
        assert_eq!(parse(b"{\"event\":\"\xff\"}"), Err(Malformed::Utf8(11)));
    }

    #[test]
    fn a_lone_surrogate_is_replaced() {
        for (json, text) in [
            (r"cut \ud83d", "cut \u{fffd}"),
            (r"\uDE00 cut", "\u{fffd} cut"),
            (r"\ud83d\ud83d\ude00\ude00", "\u{fffd}\u{1f600}\u{fffd}"),
            (r"\ud83d\u0041", "\u{fffd}A"),
            (r"\\ud83d \\\ud83d", "\\ud83d \\\u{fffd}"),
            (r"\ud83d\ude00", "\u{1f600}"),
            (r"\n\ud83d\n", "\n\u{fffd}\n"),
        ] {
            let json = format!(
                r#"{{"event":"job_finished","jobId":"1","jobIdFs":"2","exitStatus":"E",
                "errorReason":"{json}","nobody":["{json}",{{"{json}":1}}],
                "parameters":{{"DpfControlCallbackUrl":"{URL}","X":"{json}","{json}":"Y"}}}}"#
            );
            let Ok(Parsed::Callback(event)) = parse(json.as_bytes()) else {
                panic!("{:?}", parse(json.as_bytes()))
            };
            assert_eq!(event.error_reason.as_deref(), Some(text));
        }
        for broken in
            [r#"{"event":"\ud83"#, r#"{"event":"\ud8"}"#, r#"{"event":"\ud83d\"#, "{\"\\ud\u{e9}"]
        {
            assert!(matches!(parse(broken.as_bytes()), Err(Malformed::Json(_))), "{broken}");
        }
    }

    #[test]
    fn a_text_of_the_wrong_type_is_not_quoted() {
        for json in [
            event(r#","parameters":"http://u:geheim@h/""#),
            event(r#","parameters":["http://u:\"geheim\", expected@h/"]"#),
            r#"{"event":{"a":"geheim"}}"#.into(),
            r#""http://u:geheim@h/""#.into(),
        ] {
            let error = parse(json.as_bytes()).expect_err(&json).to_string();
            assert!(!error.contains("geheim"), "{json}: {error}");
        }
        let error = parse(event(r#","parameters":"x""#).as_bytes()).unwrap_err().to_string();
        assert!(error.contains("string, expected an object of job parameters"), "{error}");
    }

    #[test]
    fn an_error_reason_requires_an_error() {
        let json = event(&format!(
            r#","errorReason":"no","parameters":{{"DpfControlCallbackUrl":"{URL}"}}"#
        ));
        let Ok(Parsed::Callback(event)) = parse(json.as_bytes()) else { panic!() };
        assert_eq!((event.job_state, event.error_reason), (JobState::Finished, None));
    }
}
