//! The event parser: never a panic; what it takes out of an event is what a plain reading of
//! the JSON finds there; a refusal repeats no text of the event; and an event that is written
//! out again means the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use seal_dpf_urlcallback::{
    callback::JobState,
    event::{MAX_NAME_BYTES, Malformed, Parsed, RawEvent, parse},
};
use serde_json::Value;

fuzz_target!(|json: &[u8]| {
    let parsed = parse(json);
    match &parsed {
        Err(error) => {
            // The seeds have this word in every field, and no message has it.
            assert!(!error.to_string().contains("geheim"), "{error}");
            let utf8 = matches!(error, Malformed::Utf8(_));
            assert_eq!(utf8, std::str::from_utf8(json).is_err());
        }
        Ok(Parsed::Ignored(_)) => {}
        Ok(Parsed::Callback(event)) => {
            let text = std::str::from_utf8(json).unwrap().trim_start_matches('\u{feff}');
            let Ok(Value::Object(fields)) = serde_json::from_str(text) else {
                panic!("taken, and no JSON object")
            };
            let field = |name| {
                fields
                    .get(name)
                    .and_then(Value::as_str)
                    .filter(|it| !it.is_empty())
                    .map(str::to_owned)
            };
            assert_eq!(field("jobId").as_ref(), Some(&event.job_id));
            assert_eq!(field("jobIdFs").as_ref(), Some(&event.job_id_fs));
            assert_eq!(field("exitStatus"), event.exit_status);
            assert_eq!(field("eventId"), event.event_id);
            assert_eq!(field("dpfTrackerUrl"), event.tracker_url);
            let state = match (field("event").as_deref(), field("exitStatus").as_deref()) {
                (Some("job_sending"), None) => JobState::Sending,
                (Some("job_finished"), Some("OK")) => JobState::Finished,
                (Some("job_finished"), Some(_)) => JobState::Error,
                other => panic!("{other:?} calls back"),
            };
            assert_eq!(state, event.job_state);
            let reason = field("errorReason").filter(|_| state == JobState::Error);
            assert_eq!(reason, event.error_reason);
            assert!(field("jobState").is_none_or(|said| said == state.as_str()));
            let names = [Some(&event.job_id), Some(&event.job_id_fs), event.event_id.as_ref()];
            for name in names.into_iter().chain([event.exit_status.as_ref()]).flatten() {
                assert!((1..=MAX_NAME_BYTES).contains(&name.len()));
            }
            let parameters = fields["parameters"].as_object().unwrap();
            let mut urls = parameters.iter().filter(|(name, value)| {
                name.replace('_', "").eq_ignore_ascii_case("dpfcontrolcallbackurl")
                    && value.as_str().is_some_and(|url| !url.is_empty())
            });
            assert!(urls.clone().count() > 0);
            assert!(urls.all(|(_, url)| url.as_str() == Some(event.url.reveal())));
        }
    }
    if let Ok(text) = std::str::from_utf8(json)
        && let Ok(raw) = serde_json::from_str::<RawEvent>(text)
        && text.trim_start().starts_with('{')
    {
        assert_eq!(parse(&serde_json::to_vec(&raw).unwrap()), parsed);
    }
});
