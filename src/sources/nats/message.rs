//! From a message to an event.

use async_nats::{HeaderMap, jetstream::Message};

use super::{settings::Settings, subjects};
use crate::callback::Trace;
use crate::event::{self, Given, Malformed, Parsed, cloudevents};

/// The header by which the server recognizes duplicates.
const MESSAGE_ID: &str = "Nats-Msg-Id";

/// The event of a message. `stream` identifies the stream: its messages are numbered from 1 again if it is
/// deleted and created.
pub(super) fn parse(
    message: &Message,
    stream: &str,
    settings: &Settings,
) -> Result<Parsed, Malformed> {
    let payload = &message.payload;
    if payload.len() > settings.max_event_bytes {
        return Err(Malformed::TooLong(settings.max_event_bytes));
    }
    let header = |name: &str| message.headers.as_ref().and_then(|it| header(it, name));
    let sequence = message.info().map(|info| info.stream_sequence);
    let id = header(MESSAGE_ID)
        .filter(|id| !id.is_empty() && id.len() <= event::MAX_NAME_BYTES)
        .or_else(|| Some(format!("{}-{stream}", sequence.ok()?)));
    let named = subjects::value_of(&settings.events, &message.subject);
    let trace = header("traceparent");
    let trace = trace.and_then(|it| Trace::parse(&it, header("tracestate").as_deref()));
    let given = Given { event: named.map(str::to_owned), event_id: id, trace };
    let kind = header("content-type").unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case(cloudevents::STRUCTURED) {
        return cloudevents::structured(payload, given);
    }
    if header("ce-specversion").is_some() {
        return cloudevents::binary(header, payload, given);
    }
    if cloudevents::is_envelope(payload) {
        return cloudevents::structured(payload, given);
    }
    event::parse_with(payload, given)
}

/// The value of a header, whatever the case of its name.
fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    let mut all = headers.iter();
    let found = all.find(|(known, _)| {
        let known: &str = (*known).as_ref();
        known.eq_ignore_ascii_case(name)
    });
    found.and_then(|(_, values)| values.first()).map(|value| value.as_str().to_owned())
}
