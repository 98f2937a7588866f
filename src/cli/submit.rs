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
    let mut input = BufReader::with_capacity(1 << 16, input);
    let (mut tally, mut results) = (Tally::default(), Results::default());
    let mut before = 0;
    loop {
        let (lines, bytes) = chunk(&mut input, config.api.max_event_bytes)
            .with_context(|| format!("cannot read {}", file.display()))?;
        if lines.is_empty() {
            break;
        }
        let answered = access.submit(&lines).await.with_context(|| {
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
        before += lines.len() as u64;
        progress.inc(bytes);
    }
    progress.finish_and_clear();
    say(&tally);
    results.end()?;
    Ok(tally.exit())
}

/// Reads the next lines of the input. A line above the limit is truncated slightly above it, so that it
/// is refused without being held in memory.
fn chunk(input: &mut impl BufRead, limit: usize) -> io::Result<(Vec<Vec<u8>>, u64)> {
    let mut lines = Vec::new();
    let mut bytes = 0;
    let mut held = 0;
    while lines.len() < CHUNK_LINES && held < CHUNK_BYTES {
        let mut line = Vec::new();
        let most = limit as u64 + 2;
        let mut read = input.by_ref().take(most).read_until(b'\n', &mut line)? as u64;
        if read == 0 {
            break;
        }
        if line.last() == Some(&b'\n') {
            line.pop();
        } else if read == most {
            read += skip_line(input)?;
        }
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        bytes += read;
        held += line.len();
        lines.push(line);
    }
    Ok((lines, bytes))
}

fn skip_line(input: &mut impl BufRead) -> io::Result<u64> {
    let mut skipped = 0;
    loop {
        let buffer = input.fill_buf()?;
        if buffer.is_empty() {
            return Ok(skipped);
        }
        let end = buffer.iter().position(|byte| *byte == b'\n').map(|at| at + 1);
        let used = end.unwrap_or(buffer.len());
        input.consume(used);
        skipped += used as u64;
        if end.is_some() {
            return Ok(skipped);
        }
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
    fn a_line_that_is_too_long_is_truncated() {
        let text = format!("ab\r\n{}\ncd\n\nef", "x".repeat(100));
        let (lines, bytes) = chunk(&mut text.as_bytes(), 3).unwrap();
        assert_eq!(lines, ["ab", "xxxxx", "cd", "", "ef"].map(Vec::from));
        assert_eq!(bytes, text.len() as u64);
    }
}
