//! `POST /v1/events`: one event, or a batch as NDJSON; or CloudEvents.
//!
//! A batch is read and stored in pieces; only the outcome of each line is kept until the response.
//! The response starts when the whole batch has been read: most clients write everything before
//! they read, and would deadlock with a server that responds while they write.

use std::{collections::VecDeque, error::Error, pin::Pin};

use axum::{
    Json,
    body::{Body, BodyDataStream},
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use tower_http::timeout::TimeoutError;

use super::{
    lines::{Line, Splitter},
    problem::Problem,
    request::given,
    state::Shared,
    view::{LineView, OutcomeView},
};
use crate::{
    event::{self, Given, Malformed, RawEvent, cloudevents},
    intake::{EventOutcome, Intake, Prepared},
    outbox::{OutboxError, Sequence},
};

/// Maximum number of lines that are stored by one call.
const CHUNK_LINES: usize = 256;

/// Approximate size of the events that are stored with one call, in bytes.
const CHUNK_BYTES: usize = 256 * 1024;

/// Maximum number of concurrent calls for one batch, so that the disk does not wait for the network.
const CHUNKS_UNDER_WAY: usize = 4;

/// Maximum lines of a batch: the outcome of each is kept until the response.
const MAX_LINES: u64 = 1_000_000;

/// Maximum size of a batch that is read as a whole and stored by one call, in bytes.
const MAX_ARRAY_BYTES: usize = 1 << 20;

/// One event.
const JSON: &str = "application/json";
/// One event per line.
const NDJSON: &str = "application/x-ndjson";

/// Submit job events.
///
/// `application/json`: one event. `application/x-ndjson`: a batch with one event per line; the
/// response has a line for each line that is not blank. The response is sent when the accepted
/// events are durable.
///
/// CloudEvents 1.0: `application/cloudevents+json`, `application/json` with `ce-` headers, and
/// `application/cloudevents-batch+json`, whose response has a line for each event.
#[utoipa::path(
    post, operation_id = "submitEvents", path = "/v1/events", tag = "events",
    request_body(content(
        (RawEvent = "application/json"),
        (String = "application/x-ndjson"),
        (Object = "application/cloudevents+json"),
        (Vec<Object> = "application/cloudevents-batch+json"),
    )),
    responses(
        (status = 200, description = "Duplicate or ignored; for a batch, a line with the outcome of each event", content(
            (OutcomeView = "application/json"),
            (String = "application/x-ndjson"),
        )),
        (status = 202, description = "Accepted: durable on disk, and will be delivered", body = OutcomeView),
        (status = 400, description = "Malformed: the body cannot be parsed", body = Problem),
        (status = 401, description = "Missing or wrong token", body = Problem),
        (status = 403, description = "The token may only read", body = Problem),
        (status = 408, description = "The request was not received within api.idle_timeout; for a batch, `lines` has the outcomes so far", body = Problem),
        (status = 413, description = "Body larger than api.max_event_bytes or api.max_batch_bytes", body = Problem),
        (status = 415, description = "Unsupported content type", body = Problem),
        (status = 422, description = "Failed (with the id) or refused", body = Problem),
        (status = 503, description = "No events are accepted now; for a batch, `lines` has the outcomes so far", body = Problem),
    ),
)]
pub(super) async fn post(
    State(shared): State<Shared>,
    request: Request,
) -> Result<Response, Problem> {
    if shared.health.is_draining() {
        return Err(Problem::shutting_down());
    }
    let (parts, body) = request.into_parts();
    let mut body = body.into_data_stream();
    let answer = match media_type(&parts.headers) {
        Some(JSON | cloudevents::STRUCTURED) => one(&shared, &parts.headers, &mut body).await,
        Some(NDJSON) => batch(&shared, &parts.headers, &mut body).await,
        Some(_) => array(&shared, &parts.headers, &mut body).await,
        None => Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported content type; expected application/json (one event), application/x-ndjson (one event per line), application/cloudevents+json or application/cloudevents-batch+json",
        )),
    };
    let refused_unread = |problem: &Problem| {
        parts.headers.contains_key(header::EXPECT) && matches!(problem.status, 413 | 415)
    };
    if answer.as_ref().is_err_and(|problem| !refused_unread(problem)) {
        pass_over(&mut body, shared.settings.max_batch_bytes).await;
    }
    answer
}

/// Reads and discards the rest of the request, up to a limit. If the connection were closed with unread data, the
/// system would reset it, and the client might not get the response. With `Expect: 100-continue` (RFC
/// 9110, 10.1.1), the client has not sent it.
async fn pass_over(body: &mut BodyDataStream, limit: usize) {
    let mut read = 0_usize;
    while read <= limit
        && let Some(Ok(piece)) = body.next().await
    {
        read = read.saturating_add(piece.len());
    }
}

fn media_type(headers: &HeaderMap) -> Option<&'static str> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else {
        // Without `datacontenttype`, the data of a CloudEvent is JSON (CloudEvents 1.0).
        return headers.contains_key(cloudevents::VERSION).then_some(JSON);
    };
    let value = value.to_str().ok()?;
    let essence = value.split(';').next().unwrap_or_default().trim();
    [JSON, NDJSON, cloudevents::STRUCTURED, cloudevents::BATCH]
        .into_iter()
        .find(|known| known.eq_ignore_ascii_case(essence))
}

fn too_large(what: &str, limit: usize, key: &str) -> Problem {
    let detail = format!("{what} is longer than {limit} bytes ({key})");
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
}

/// Rejects a body by its Content-Length, before it is read.
fn check_length(headers: &HeaderMap, limit: usize) -> bool {
    let announced =
        headers.get(header::CONTENT_LENGTH).and_then(|it| it.to_str().ok()?.parse().ok());
    announced.is_none_or(|length: u64| length <= limit as u64)
}

fn broken_body(error: &axum::Error) -> Problem {
    let mut cause: Option<&(dyn Error + 'static)> = error.source();
    while let Some(inner) = cause {
        if inner.is::<TimeoutError>() {
            let detail = "the request was not received within api.idle_timeout";
            return Problem::new(StatusCode::REQUEST_TIMEOUT, detail);
        }
        cause = inner.source();
    }
    Problem::bad_request(format!("the request body is incomplete: {error}"))
}

/// Reads a body of at most `limit` bytes.
async fn read(
    headers: &HeaderMap,
    body: &mut BodyDataStream,
    limit: usize,
    too_large: impl Fn() -> Problem,
) -> Result<Vec<u8>, Problem> {
    if !check_length(headers, limit) {
        return Err(too_large());
    }
    let mut json = Vec::new();
    while let Some(piece) = body.next().await {
        let piece = piece.map_err(|error| broken_body(&error))?;
        if json.len() + piece.len() > limit {
            return Err(too_large());
        }
        json.extend_from_slice(&piece);
    }
    Ok(json)
}

async fn one(
    shared: &Shared,
    headers: &HeaderMap,
    body: &mut BodyDataStream,
) -> Result<Response, Problem> {
    let limit = shared.settings.max_event_bytes;
    let too_large = || too_large("the event", limit, "api.max_event_bytes");
    let json = read(headers, body, limit, too_large).await?;
    let header = |name: &str| Some(headers.get(name)?.to_str().ok()?.to_owned());
    let parsed = if media_type(headers) == Some(cloudevents::STRUCTURED) {
        cloudevents::structured(&json, given(headers))
    } else if headers.contains_key(cloudevents::VERSION) {
        cloudevents::binary(header, &json, given(headers))
    } else {
        event::parse_with(&json, given(headers))
    };
    let prepared = shared.intake.prepare_parsed(parsed);
    let outcomes = shared.intake.take(vec![prepared], Sequence::default()).await?;
    outcomes
        .first()
        .map(answer)
        .ok_or_else(|| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the event has no outcome"))
}

/// A batch of CloudEvents, which is one JSON text and is read as a whole.
async fn array(
    shared: &Shared,
    headers: &HeaderMap,
    body: &mut BodyDataStream,
) -> Result<Response, Problem> {
    let limit = shared.settings.max_batch_bytes.min(MAX_ARRAY_BYTES);
    let too_large = || {
        let detail = format!("the batch is longer than {limit} bytes; NDJSON can be longer");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
    };
    let json = read(headers, body, limit, too_large).await?;
    let events =
        cloudevents::batch(&json).map_err(|error| Problem::bad_request(error.to_string()))?;
    let longest = shared.settings.max_event_bytes;
    let prepare = |event: &str| {
        if event.len() > longest {
            return Intake::refuse(Malformed::TooLong(longest));
        }
        let parsed = cloudevents::structured(event.as_bytes(), given(headers));
        shared.intake.prepare_parsed(parsed)
    };
    let prepared = events.iter().map(|event| prepare(event.get())).collect();
    let outcomes = shared.intake.take(prepared, Sequence::default()).await?;
    let done = (1..).zip(outcomes).collect();
    Ok(Batch { done, ..Batch::new(shared, Given::default()) }.into_response())
}

fn answer(outcome: &EventOutcome) -> Response {
    let view = OutcomeView::from(outcome);
    let status = match outcome {
        EventOutcome::Accepted(_) => StatusCode::ACCEPTED,
        EventOutcome::Duplicate(_) | EventOutcome::Ignored(_) => StatusCode::OK,
        EventOutcome::Failed(..) => StatusCode::UNPROCESSABLE_ENTITY,
        EventOutcome::Refused(why) if why.is_syntax() => StatusCode::BAD_REQUEST,
        EventOutcome::Refused(_) => StatusCode::UNPROCESSABLE_ENTITY,
    };
    if status.is_success() {
        return (status, Json(view)).into_response();
    }
    Problem {
        outcome: Some(view.outcome),
        id: view.id,
        ..Problem::new(status, view.reason.unwrap_or_default())
    }
    .into_response()
}

async fn batch(
    shared: &Shared,
    headers: &HeaderMap,
    body: &mut BodyDataStream,
) -> Result<Response, Problem> {
    if !check_length(headers, shared.settings.max_batch_bytes) {
        return Err(batch_too_large(shared));
    }
    let mut batch = Batch::new(shared, given(headers));
    match batch.run(body).await {
        Ok(()) => Ok(batch.into_response()),
        Err(problem) => {
            // The earlier lines stay accepted, and the producer must receive their outcomes.
            while batch.collect_one().await.is_ok_and(|more| more) {}
            Err(Problem { lines: lines(batch.done).collect(), ..problem })
        }
    }
}

fn batch_too_large(shared: &Shared) -> Problem {
    too_large("the batch", shared.settings.max_batch_bytes, "api.max_batch_bytes")
}

type Stored = Pin<Box<dyn Future<Output = Result<Vec<EventOutcome>, OutboxError>> + Send>>;

/// A batch that is being received.
struct Batch<'a> {
    shared: &'a Shared,
    given: Given,
    line: u64,
    numbers: Vec<u32>,
    chunk: Vec<Prepared>,
    chunk_bytes: usize,
    under_way: VecDeque<(Vec<u32>, Stored)>,
    sequence: Sequence,
    done: Vec<(u32, EventOutcome)>,
}

impl<'a> Batch<'a> {
    fn new(shared: &'a Shared, given: Given) -> Self {
        Self {
            shared,
            given,
            line: 0,
            numbers: Vec::new(),
            chunk: Vec::new(),
            chunk_bytes: 0,
            under_way: VecDeque::new(),
            sequence: Sequence::default(),
            done: Vec::new(),
        }
    }

    async fn run(&mut self, body: &mut BodyDataStream) -> Result<(), Problem> {
        let mut splitter = Splitter::new(self.shared.settings.max_event_bytes);
        let mut read = 0_usize;
        while let Some(piece) = body.next().await {
            let piece: Bytes = piece.map_err(|error| broken_body(&error))?;
            read += piece.len();
            if read > self.shared.settings.max_batch_bytes {
                return Err(batch_too_large(self.shared));
            }
            splitter.feed(&piece);
            self.take(&mut splitter).await?;
        }
        splitter.finish();
        self.take(&mut splitter).await?;
        self.store();
        while self.collect_one().await? {}
        Ok(())
    }

    async fn take(&mut self, splitter: &mut Splitter) -> Result<(), Problem> {
        for line in splitter {
            self.line += 1;
            if self.line > MAX_LINES {
                let detail = format!("the batch has more than {MAX_LINES} lines");
                return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail));
            }
            let prepared = match line {
                Line::Whole(json) if json.iter().all(u8::is_ascii_whitespace) => continue,
                Line::Whole(json) => {
                    self.chunk_bytes += json.len();
                    self.shared.intake.prepare(&json, self.given.clone())
                }
                Line::TooLong => {
                    let limit = self.shared.settings.max_event_bytes;
                    Intake::refuse(Malformed::TooLong(limit))
                }
            };
            self.numbers.push(u32::try_from(self.line).unwrap_or(u32::MAX));
            self.chunk.push(prepared);
            if self.chunk.len() >= CHUNK_LINES || self.chunk_bytes >= CHUNK_BYTES {
                if self.shared.health.is_draining() {
                    return Err(Problem::shutting_down());
                }
                self.store();
                while self.under_way.len() >= CHUNKS_UNDER_WAY {
                    self.collect_one().await?;
                }
            }
        }
        Ok(())
    }

    /// Passes the collected lines to the outbox.
    fn store(&mut self) {
        let chunk = std::mem::take(&mut self.chunk);
        self.chunk_bytes = 0;
        if !chunk.is_empty() {
            let stored = Box::pin(self.shared.intake.take(chunk, self.sequence.clone()));
            self.under_way.push_back((std::mem::take(&mut self.numbers), stored));
        }
    }

    /// Waits for the oldest call in progress; `false` if there is none. If it was refused, the later calls are
    /// dropped, because nothing after it is stored.
    async fn collect_one(&mut self) -> Result<bool, Problem> {
        let Some((numbers, stored)) = self.under_way.pop_front() else { return Ok(false) };
        match stored.await {
            Ok(outcomes) => self.done.extend(numbers.into_iter().zip(outcomes)),
            Err(error) => {
                self.under_way.clear();
                return Err(error.into());
            }
        }
        Ok(true)
    }

    fn into_response(self) -> Response {
        let mut lines = lines(self.done);
        let pieces = std::iter::from_fn(move || {
            let mut piece = Vec::new();
            for line in lines.by_ref().take(CHUNK_LINES) {
                serde_json::to_writer(&mut piece, &line).ok()?;
                piece.push(b'\n');
            }
            (!piece.is_empty()).then_some(Ok::<_, std::convert::Infallible>(piece))
        });
        let kind = HeaderValue::from_static("application/x-ndjson");
        ([(header::CONTENT_TYPE, kind)], Body::from_stream(stream::iter(pieces))).into_response()
    }
}

fn lines(done: Vec<(u32, EventOutcome)>) -> impl Iterator<Item = LineView> {
    done.into_iter()
        .map(|(line, outcome)| LineView { line: line.into(), outcome: OutcomeView::from(&outcome) })
}
