//! `submit`: submits job events.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::PathBuf,
};

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};

use super::{
    access::{Access, NOT_TAKEN, Purpose},
    output::{Exit, Usage, say},
    results::Results,
};
use crate::{
    api::lines::{Line, Splitter},
    callback::redact_url,
    config::Config,
    event::{Parameters, RawEvent},
};

/// Maximum number of lines sent in one request.
const CHUNK_LINES: usize = 10_000;

/// Approximate size of one request, in bytes.
const CHUNK_BYTES: usize = 8 << 20;

/// Submit one job event, or a file of them
///
/// Works whether or not the service runs. Prints the outcome of each event; the exit code is 1 if one
/// failed or was refused.
///
/// Examples:
///   seal-dpf-urlcallback submit --event job_finished --job-id 4711 --job-id-fs 201602231834182304 \
///     --exit-status OK -s DpfControlCallbackUrl=http://callbackhost:8080/ourjobno/12345
///   seal-dpf-urlcallback submit --file events.ndjson
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Args {
    /// `job_sending` or `job_finished`
    #[arg(long, required_unless_present = "file")]
    event: Option<String>,
    /// DPF's internal id of the job
    #[arg(long)]
    job_id: Option<String>,
    /// Name of the job's directory
    #[arg(long)]
    job_id_fs: Option<String>,
    /// Exit status of the job: `OK` or an error name
    #[arg(long)]
    exit_status: Option<String>,
    /// Description of the error
    #[arg(long)]
    error_reason: Option<String>,
    /// An idempotency key: an event with the key of a stored one is a duplicate
    #[arg(long)]
    event_id: Option<String>,
    /// URL of the job's page
    #[arg(long)]
    dpf_tracker_url: Option<String>,
    /// A job parameter; can be repeated
    #[arg(short = 's', value_name = "NAME=VALUE")]
    parameters: Vec<String>,
    /// File with one event in JSON per line; `-` for standard input
    #[arg(long, conflicts_with_all = ["event", "job_id", "job_id_fs", "exit_status", "error_reason", "event_id", "dpf_tracker_url", "parameters"])]
    file: Option<PathBuf>,
}

pub(super) async fn run(config: &Config, mut args: Args) -> anyhow::Result<Exit> {
    if let Some(file) = args.file.take() {
        return submit_file(config, &file).await;
    }
    let line = event(args)?;
    let access = Access::find(config, "submit", Purpose::Add).await?;
    let (mut tally, mut results) = (Tally::default(), Results::default());
    for line in access.submit(&[line]).await? {
        tally.count(&line.outcome.outcome);
        results.print(shown(&line.outcome));
    }
    results.end()?;
    Ok(tally.exit())
}

fn event(args: Args) -> anyhow::Result<Vec<u8>> {
    let mut parameters = Parameters::default();
    for parameter in &args.parameters {
        let (name, value) = parameter
            .split_once('=')
            .ok_or_else(|| Usage(format!("`-s {}` is not NAME=VALUE", redact_url(parameter))))?;
        parameters.add(name, value);
    }
    let raw = RawEvent {
        event: args.event,
        job_id: args.job_id,
        job_id_fs: args.job_id_fs,
        exit_status: args.exit_status,
        error_reason: args.error_reason,
        parameters,
        event_id: args.event_id,
        dpf_tracker_url: args.dpf_tracker_url,
        job_state: None,
        traceparent: None,
        tracestate: None,
    };
    Ok(serde_json::to_vec(&raw)?)
}

fn shown(outcome: &crate::api::view::OutcomeView) -> String {
    let mut text = outcome.outcome.clone();
    for part in [&outcome.id, &outcome.reason].into_iter().flatten() {
        text.push(' ');
        text.push_str(part);
    }
    text
}

async fn submit_file(config: &Config, file: &PathBuf) -> anyhow::Result<Exit> {
    let standard_input = file.as_os_str() == "-";
    let (input, length): (Box<dyn Read>, _) = if standard_input {
        (Box::new(io::stdin()), None)
    } else {
        let open = || format!("cannot read {}", file.display());
        let opened = File::open(file).with_context(open)?;
        let length = opened.metadata().with_context(open)?.len();
        (Box::new(opened), Some(length))
    };
    let access = Access::find(config, "submit", Purpose::Add).await?;
    let progress = progress(length);
    let mut lines =
        Lines::new(BufReader::with_capacity(1 << 16, input), config.api.max_event_bytes);
    let (mut tally, mut results) = (Tally::default(), Results::default());
    let mut before = 0;
    loop {
        let (chunk, bytes) =
            lines.chunk().with_context(|| format!("cannot read {}", file.display()))?;
        if chunk.is_empty() {
            break;
        }
        let answered = access.submit(&chunk).await.with_context(|| {
            format!("stopped before line {}; all lines before it were submitted", before + 1)
        })?;
        for answer in answered {
            let line = before + answer.line;
            if answer.outcome.outcome == NOT_TAKEN {
                progress.finish_and_clear();
                let why = answer.outcome.reason.unwrap_or_default();
                anyhow::bail!(
                    "stopped before line {line}, all lines before it were submitted: {why}; submit the rest later (tail -n +{line} FILE | … submit --file -)"
                );
            }
            tally.count(&answer.outcome.outcome);
            results.print(format_args!("{line} {}", shown(&answer.outcome)));
        }
        before += chunk.len() as u64;
        progress.inc(bytes);
    }
    progress.finish_and_clear();
    say(&tally);
    results.end()?;
    Ok(tally.exit())
}

/// The lines of the input, in chunks.
struct Lines<R> {
    input: R,
    splitter: Splitter,
    limit: usize,
    at_end: bool,
}

impl<R: BufRead> Lines<R> {
    /// Lines of at most `limit` bytes. A longer line is replaced by one just above the limit, which is refused in
    /// its place without being held in memory.
    fn new(input: R, limit: usize) -> Self {
        Self { input, splitter: Splitter::new(limit), limit, at_end: false }
    }

    /// The next lines, and the number of bytes that were read for them; no lines at the end.
    fn chunk(&mut self) -> io::Result<(Vec<Vec<u8>>, u64)> {
        let mut lines = Vec::new();
        let mut bytes = 0;
        let mut held = 0;
        while lines.len() < CHUNK_LINES && held < CHUNK_BYTES {
            match self.splitter.next() {
                Some(line) => {
                    let line = match line {
                        Line::Whole(line) => line,
                        Line::TooLong => vec![b'x'; self.limit + 1],
                    };
                    held += line.len();
                    lines.push(line);
                }
                None if self.at_end => break,
                None => bytes += self.read()?,
            }
        }
        Ok((lines, bytes))
    }

    fn read(&mut self) -> io::Result<u64> {
        let buffer = self.input.fill_buf()?;
        let length = buffer.len();
        self.splitter.feed(buffer);
        self.input.consume(length);
        if length == 0 {
            self.at_end = true;
            self.splitter.finish();
        }
        Ok(length as u64)
    }
}

/// A progress bar, shown only on a terminal.
fn progress(length: Option<u64>) -> ProgressBar {
    match length {
        Some(length) => ProgressBar::new(length).with_style(
            ProgressStyle::with_template("{wide_bar} {bytes} of {total_bytes}, {eta} left")
                .unwrap_or_else(|_| ProgressStyle::default_bar()),
        ),
        None => ProgressBar::new_spinner(),
    }
}

/// Number of events by outcome.
#[derive(Default)]
struct Tally(BTreeMap<String, u64>);

impl Tally {
    fn count(&mut self, outcome: &str) {
        *self.0.entry(outcome.to_owned()).or_default() += 1;
    }

    fn exit(&self) -> Exit {
        let bad = ["failed", "refused"].iter().any(|outcome| self.0.contains_key(*outcome));
        if bad { Exit::Failed } else { Exit::Done }
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} events", self.0.values().sum::<u64>())?;
        self.0.iter().try_for_each(|(outcome, n)| write!(f, ", {n} {outcome}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_too_long_is_replaced() {
        let text = format!("ab\r\n{}\ncd\n\nef", "y".repeat(100));
        let mut lines = Lines::new(text.as_bytes(), 3);
        let (chunk, bytes) = lines.chunk().unwrap();
        assert_eq!(chunk, ["ab", "xxxx", "cd", "", "ef"].map(Vec::from));
        assert_eq!(bytes, text.len() as u64);
        assert_eq!(lines.chunk().unwrap(), (Vec::new(), 0));
    }
}
