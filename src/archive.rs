//! Exports as NDJSON, for backups and to recover from a damaged store.
//!
//! ```text
//! {"export":"seal-dpf-urlcallback","version":1,"identity":"5dde2f…"}   the key of the ids
//! {"id":"…","url":"…","body":{…},"state":"pending",…,"attempts":[…]}   a callback
//! {"end":true,"callbacks":1}                                           the export is complete
//! ```
//!
//! Callbacks are in no particular order, and a callback can occur more than once: the version with more
//! attempts is used. URLs include their passwords.

use std::io::{self, BufRead, Write};

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize, de::IgnoredAny};

use crate::{
    callback::{Body, Destination, SecretUrl, Trace},
    clock::Timestamp,
    outbox::{
        Attempt, Entry, ExportCursor, Failure, Identity, Outbox, OutboxError, Readiness, Record,
        State, StateName,
    },
};

const NAME: &str = "seal-dpf-urlcallback";
const VERSION: u32 = 1;

/// An export or import failed.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The store.
    #[error(transparent)]
    Outbox(#[from] OutboxError),
    /// The file.
    #[error("the export cannot be read or written: {0}")]
    Io(#[from] io::Error),
    /// A line is malformed.
    #[error("line {line} of the export is malformed: {reason}")]
    Line {
        /// The line number, from 1.
        line: u64,
        /// The reason.
        reason: String,
    },
    /// A later version wrote it.
    #[error(
        "the export has version {0}, and this program supports {VERSION}: use the version that wrote it, or a later one"
    )]
    Newer(u32),
    /// Its last line is missing.
    #[error(
        "the export is truncated after {0} callbacks: its last line is missing; use --partial to import it as far as it goes"
    )]
    CutOff(u64),
}

#[derive(Debug, Serialize, Deserialize)]
struct Head {
    export: String,
    version: u32,
    identity: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct End {
    end: bool,
    callbacks: u64,
}

/// A callback as a line of an export.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchiveLine {
    id: String,
    event_id: Option<String>,
    url: SecretUrl,
    destination: String,
    body: Body,
    created_at: Timestamp,
    state: StateName,
    /// When it ended.
    finished_at: Option<Timestamp>,
    /// The earliest time at which a pending callback is due.
    due_at: Option<Timestamp>,
    attempt_count: u32,
    budget_attempts: u32,
    budget_since: Timestamp,
    replays: u32,
    last_error: Option<Failure>,
    attempts: Vec<Attempt>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    trace: Option<Trace>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    uncertain: bool,
}

impl From<Entry> for ArchiveLine {
    fn from(entry: Entry) -> Self {
        let Entry { record, attempts, uncertain } = entry;
        let due_at = match record.state {
            State::Pending(Readiness::Scheduled(at) | Readiness::Blocked(at)) => Some(at),
            _ => None,
        };
        Self {
            id: record.id.to_string(),
            state: record.state_name(),
            finished_at: record.ended_at(),
            due_at,
            event_id: record.event_id,
            url: record.url,
            destination: record.destination.to_string(),
            body: record.body,
            created_at: record.created_at,
            attempt_count: record.attempt_count,
            budget_attempts: record.budget_attempts,
            budget_since: record.budget_since,
            replays: record.replays,
            last_error: record.last_error,
            attempts,
            trace: record.trace,
            uncertain,
        }
    }
}

/// The destination selects credentials, so it is derived from the URL. Only an outcome event has its own as well,
/// because a producer may give a URL that looks like one.
fn destination(line: &ArchiveLine) -> Destination {
    let url = line.url.reveal();
    Destination::parse(url)
        .filter(|it| it.is_own() && it.as_str() == line.destination)
        .unwrap_or_else(|| Destination::of_callback(url))
}

impl TryFrom<ArchiveLine> for Entry {
    type Error = String;

    fn try_from(line: ArchiveLine) -> Result<Self, String> {
        let state = match (line.state, line.finished_at, line.due_at) {
            (StateName::Pending, None, None) => State::Pending(Readiness::Fresh),
            (StateName::Pending, None, Some(at)) => State::Pending(Readiness::Scheduled(at)),
            (StateName::Delivered, Some(at), None) => State::Delivered(at),
            (StateName::Failed, Some(at), None) => State::Failed(at),
            _ => return Err("state, finishedAt and dueAt do not agree".into()),
        };
        let last_attempt = line.attempts.last().cloned();
        if last_attempt.as_ref().map_or(0, |it| it.number) != line.attempt_count {
            return Err("attempts and attemptCount do not agree".into());
        }
        let destination = destination(&line);
        Ok(Self {
            record: Record {
                id: line.id.parse().map_err(|error| format!("{error}"))?,
                event_id: line.event_id,
                body: line.body,
                destination,
                url: line.url,
                created_at: line.created_at,
                state,
                attempt_count: line.attempt_count,
                budget_attempts: line.budget_attempts,
                budget_since: line.budget_since,
                replays: line.replays,
                last_error: line.last_error,
                last_attempt,
                trace: line.trace,
            },
            attempts: line.attempts,
            uncertain: line.uncertain,
        })
    }
}

/// Writes an export.
pub struct Writer<W> {
    out: W,
    callbacks: u64,
}

impl<W: Write> Writer<W> {
    /// Begins an export.
    pub fn begin(mut out: W, identity: Option<Identity>) -> Result<Self, ArchiveError> {
        let identity = identity.map(|Identity(salt)| HEXLOWER.encode(&salt));
        put(&mut out, &Head { export: NAME.into(), version: VERSION, identity })?;
        Ok(Self { out, callbacks: 0 })
    }

    /// Adds a callback.
    pub fn add(&mut self, entry: Entry) -> Result<(), ArchiveError> {
        self.callbacks += 1;
        put(&mut self.out, &ArchiveLine::from(entry))
    }

    /// Adds all stored callbacks. `progress` is called with the number of further callbacks, and can
    /// stop the export.
    pub async fn add_all(
        &mut self,
        outbox: &dyn Outbox,
        mut progress: impl AsyncFnMut(u64) -> Result<(), OutboxError>,
    ) -> Result<(), ArchiveError> {
        let mut cursor = ExportCursor::default();
        loop {
            let step = outbox.export(cursor).await?;
            progress(step.entries.len() as u64).await?;
            step.entries.into_iter().try_for_each(|entry| self.add(entry))?;
            match step.next {
                Some(next) => cursor = next,
                None => return Ok(()),
            }
        }
    }

    /// Ends the export and returns the number of its callbacks.
    pub fn end(mut self) -> Result<u64, ArchiveError> {
        put(&mut self.out, &End { end: true, callbacks: self.callbacks })?;
        self.out.flush()?;
        Ok(self.callbacks)
    }
}

fn put(out: &mut impl Write, line: &impl Serialize) -> Result<(), ArchiveError> {
    serde_json::to_writer(&mut *out, line).map_err(io::Error::from)?;
    Ok(out.write_all(b"\n")?)
}

/// Reads an export.
pub struct ArchiveReader<R> {
    input: R,
    line: u64,
    callbacks: u64,
    ended: bool,
    /// The key of the ids; `None` if it was lost.
    pub identity: Option<Identity>,
}

impl<R: BufRead> ArchiveReader<R> {
    /// Reads the first line.
    pub fn begin(input: R) -> Result<Self, ArchiveError> {
        let mut reader = Self { input, line: 0, callbacks: 0, ended: false, identity: None };
        let text = reader.text()?.unwrap_or_default();
        let head: Head = reader.parse(&text)?;
        if head.export != NAME {
            return Err(reader.wrong(format!("it is an export of {:?}", head.export)));
        }
        if head.version > VERSION {
            return Err(ArchiveError::Newer(head.version));
        }
        let identity = head.identity.map(|text| {
            let salt = HEXLOWER.decode(text.as_bytes()).ok().and_then(|it| it.try_into().ok());
            salt.map(Identity).ok_or_else(|| reader.wrong("the identity is 32 hex digits"))
        });
        reader.identity = identity.transpose()?;
        Ok(reader)
    }

    /// The next callback; `None` at the end.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, ArchiveError> {
        let Some(text) = self.text()? else { return Ok(None) };
        if let Ok(End { end: true, callbacks }) = serde_json::from_str(&text) {
            self.ended = callbacks == self.callbacks;
            return Ok(None);
        }
        let line: ArchiveLine = self.parse(&text)?;
        self.callbacks += 1;
        Entry::try_from(line).map(Some).map_err(|reason| self.wrong(reason))
    }

    /// To be called after the last callback: an error if the export is truncated.
    pub fn check_end(&self) -> Result<(), ArchiveError> {
        if self.ended { Ok(()) } else { Err(ArchiveError::CutOff(self.callbacks)) }
    }

    fn text(&mut self) -> Result<Option<String>, ArchiveError> {
        let mut text = Vec::new();
        self.line += 1;
        self.input.read_until(b'\n', &mut text)?;
        // A truncated line is ignored.
        let cut = !text.ends_with(b"\n") && serde_json::from_slice::<IgnoredAny>(&text).is_err();
        let text = (!cut).then(|| String::from_utf8(text)).transpose();
        text.map_err(|_| self.wrong("it is not UTF-8"))
    }

    fn parse<T: serde::de::DeserializeOwned>(&self, text: &str) -> Result<T, ArchiveError> {
        // The message of serde may quote text of the line, including a password.
        serde_json::from_str(text).map_err(|error| {
            self.wrong(format!("not what an export has there, near column {}", error.column()))
        })
    }

    fn wrong(&self, reason: impl Into<String>) -> ArchiveError {
        ArchiveError::Line { line: self.line, reason: reason.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_imported_destination_is_taken_from_the_url() {
        for (url, stated, taken) in [
            ("http://stranger/x", "https://trusted:443", "http://stranger:80"),
            ("http://stranger/x", "nats://outcomes", "http://stranger:80"),
            ("nats://outcomes/1", "nats://outcomes", "nats://outcomes"),
            // As a producer gave it.
            ("nats://outcomes/1", "", ""),
            ("nats://outcomes/1", "nats://others", ""),
        ] {
            let export = [
                r#"{"export":"seal-dpf-urlcallback","version":1,"identity":null}"#,
                r#"{"id":"06h1dmjtok0014t83r185jkkq4","eventId":null,"url":"URL",
                    "destination":"STATED","body":{"jobId":"1","jobIdFs":"2",
                    "jobState":"SENDING","exitStatus":null,"errorReason":null,"dpfTrackerUrl":null},
                    "createdAt":"2026-01-01T00:00:00Z","state":"pending","finishedAt":null,"dueAt":null,
                    "attemptCount":0,"budgetAttempts":0,"budgetSince":"2026-01-01T00:00:00Z","replays":0,
                    "lastError":null,"attempts":[]}"#,
            ];
            let lines = export.map(|line| line.replace('\n', " ")).join("\n") + "\n";
            let lines = lines.replace("URL", url).replace("STATED", stated);
            let mut reader = ArchiveReader::begin(lines.as_bytes()).unwrap();
            let entry = reader.next_entry().unwrap().unwrap();
            assert_eq!(entry.record.destination.as_str(), taken, "{url} {stated}");
        }
    }
}
