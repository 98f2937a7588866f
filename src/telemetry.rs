//! The log: one JSON object per line, with the field names of the Elastic Common Schema.
//!
//! A separate thread writes the file, so that delivery does not wait for the log's disk. The file is
//! reopened on SIGHUP, for logrotate. No line is dropped: when the writer is [`BUFFERED_LINES`] lines
//! behind, threads that log wait for it.

use std::{
    fmt,
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde::{Serialize, Serializer};
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
    level_filters::LevelFilter,
};
use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{
    Layer, Registry, filter::Targets, layer::Context, layer::SubscriberExt as _, reload,
    util::SubscriberInitExt as _,
};

use crate::clock::{Clock as _, SystemClock};

/// The log file's name.
pub const FILE_NAME: &str = "seal-dpf-urlcallback.log";

/// The default level.
pub const DEFAULT_LEVEL: LevelFilter = LevelFilter::INFO;

/// Maximum number of lines that wait for the writer.
pub const BUFFERED_LINES: usize = 16_384;

/// Pause of the writer when no line waits.
const GATHER_PAUSE: Duration = Duration::from_millis(2);

/// Maximum number of bytes that are written to the file at once.
const BUFFERED_BYTES: usize = 65_536;

/// The log folder that DPF prescribes.
#[cfg(not(windows))]
fn log_folder() -> PathBuf {
    "/opt/seal/log".into()
}

/// The log folder that DPF prescribes. The first service that uses it makes it.
#[cfg(windows)]
fn log_folder() -> PathBuf {
    let folder = crate::files::shared_folder().join("log");
    if let Err(error) = fs::create_dir_all(&folder) {
        // The log file will be in the data directory.
        tracing::debug!(error.message = %error, "the log folder cannot be created");
    }
    folder
}

/// The settings of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Lines of this level and above are written.
    pub level: LevelFilter,
    /// The target.
    pub target: Target,
}

/// The target of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The log folder of DPF if it can be written, otherwise this file.
    Default {
        /// The file to fall back to.
        fallback: PathBuf,
    },
    /// This file.
    File(PathBuf),
    /// Standard error.
    StandardError,
}

/// Parses a level, in upper or lower case; the names that other DPF services use are also accepted.
pub fn parse_level(text: &str) -> Option<LevelFilter> {
    Some(match text.to_ascii_lowercase().as_str() {
        "off" => LevelFilter::OFF,
        "error" | "fatal" => LevelFilter::ERROR,
        "warn" | "warning" => LevelFilter::WARN,
        "info" => LevelFilter::INFO,
        "debug" => LevelFilter::DEBUG,
        "trace" => LevelFilter::TRACE,
        _ => return None,
    })
}

/// The log file cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("the log file {} cannot be opened: {error} (log.file)", path.display())]
pub struct LogError {
    path: PathBuf,
    error: io::Error,
}

/// The running log. Dropping it writes the buffered lines.
pub struct Log {
    /// The file, if the target is a file.
    pub path: Option<PathBuf>,
    reopen: Arc<AtomicBool>,
    filter: reload::Handle<Targets, Registry>,
    _writer: WorkerGuard,
}

impl Log {
    /// Reopens the file before the next line is written.
    pub fn reopen(&self) {
        self.reopen.store(true, Ordering::SeqCst);
    }

    /// Logs lines of this level and above from now on.
    pub fn set_level(&self, level: LevelFilter) {
        // An error means that another log was started in the process.
        drop(self.filter.reload(filter(level)));
    }
}

/// Starts the log for the whole process.
pub fn start(settings: &Settings) -> Result<Log, LogError> {
    let reopen = Arc::new(AtomicBool::new(false));
    let builder = NonBlockingBuilder::default()
        .buffered_lines_limit(BUFFERED_LINES)
        .thread_name("log-writer");
    let (path, (writer, guard)) = match open(&settings.target)? {
        Some((path, file)) => {
            let file = BufWriter::with_capacity(BUFFERED_BYTES, file);
            let file = Reopening { path: path.clone(), file, requested: Arc::clone(&reopen) };
            (Some(path), builder.lossy(false).finish(file))
        }
        // A terminal that is stopped with Ctrl-S must not stop the service.
        None => (None, builder.lossy(true).finish(io::stderr())),
    };
    let (filter, handle) = reload::Layer::new(filter(settings.level));
    let layer = EcsLayer { writer }.with_filter(filter);
    if tracing_subscriber::registry().with(layer).try_init().is_err() {
        tracing::debug!("the log was started before");
    }
    Ok(Log { path, reopen, filter: handle, _writer: guard })
}

/// Only warnings and errors of other crates are logged; their other lines may contain secrets.
fn filter(level: LevelFilter) -> Targets {
    let others = level.min(LevelFilter::WARN);
    Targets::new().with_default(others).with_target(env!("CARGO_CRATE_NAME"), level)
}

fn open(target: &Target) -> Result<Option<(PathBuf, File)>, LogError> {
    let path = match target {
        Target::StandardError => return Ok(None),
        Target::File(path) => path.clone(),
        Target::Default { fallback } => {
            let path = log_folder().join(FILE_NAME);
            if let Ok(file) = append(&path) {
                return Ok(Some((path, file)));
            }
            fallback.clone()
        }
    };
    match append(&path) {
        Ok(file) => Ok(Some((path, file))),
        Err(error) => Err(LogError { path, error }),
    }
}

fn append(path: &Path) -> io::Result<File> {
    fs::OpenOptions::new().create(true).append(true).open(path)
}

/// A file that is reopened on request; if that fails, the old file is still used. The writer's thread
/// flushes it when no line waits.
struct Reopening {
    path: PathBuf,
    file: BufWriter<File>,
    requested: Arc<AtomicBool>,
}

impl Write for Reopening {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.requested.swap(false, Ordering::SeqCst)
            && let Ok(file) = append(&self.path)
        {
            // Lines that were buffered before the request belong in the old file.
            self.file.flush()?;
            self.file = BufWriter::with_capacity(BUFFERED_BYTES, file);
        }
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()?;
        // The thread that logs has to wake up a writer that waits for the next line.
        std::thread::sleep(GATHER_PAUSE);
        Ok(())
    }
}

/// Writes each event as one line of JSON with ECS field names.
struct EcsLayer {
    writer: NonBlocking,
}

impl<S: Subscriber> Layer<S> for EcsLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields::new();
        event.record(&mut fields);
        let line = line(event.metadata(), &fields);
        // The writer's thread ends only when the process ends.
        drop(self.writer.clone().write_all(&line));
    }
}

fn line(metadata: &tracing::Metadata<'_>, fields: &Fields) -> Vec<u8> {
    let mut line = Vec::with_capacity(256 + fields.json.len());
    // The first four fields in the order that ECS recommends.
    let header = write!(
        line,
        r#"{{"@timestamp":"{}","log.level":"{}","message":"#,
        SystemClock.now(),
        match *metadata.level() {
            tracing::Level::ERROR => "error",
            tracing::Level::WARN => "warn",
            tracing::Level::INFO => "info",
            tracing::Level::DEBUG => "debug",
            tracing::Level::TRACE => "trace",
        },
    );
    line.extend_from_slice(if fields.message.is_empty() { b"\"\"" } else { &fields.message });
    let service = write!(
        line,
        r#","ecs.version":"8.11.0","service.name":"seal-dpf-urlcallback","service.version":"{}","process.pid":{}"#,
        env!("CARGO_PKG_VERSION"),
        std::process::id(),
    );
    debug_assert!(header.is_ok() && service.is_ok(), "writing to a Vec does not fail");
    if !fields.has_action {
        put(&mut line, "log.logger", metadata.target());
    }
    line.extend_from_slice(&fields.json);
    line.extend_from_slice(b"}\n");
    line
}

/// The fields of one event as JSON, each preceded by a comma; the message separately, because it is
/// written first.
struct Fields {
    message: Vec<u8>,
    json: Vec<u8>,
    has_action: bool,
}

impl Fields {
    fn new() -> Self {
        // Room for all fields of a callback's line, so that the buffer seldom grows.
        Self { message: Vec::new(), json: Vec::with_capacity(1024), has_action: false }
    }

    fn put(&mut self, field: &Field, value: impl Serialize) {
        match field.name() {
            "message" => put_value(&mut self.message, value),
            name => {
                self.has_action |= name == "event.action";
                put(&mut self.json, name, value);
            }
        }
    }
}

fn put(json: &mut Vec<u8>, name: &str, value: impl Serialize) {
    // Names are literals in the code, and none needs to be escaped.
    json.extend_from_slice(b",\"");
    json.extend_from_slice(name.as_bytes());
    json.extend_from_slice(b"\":");
    put_value(json, value);
}

fn put_value(json: &mut Vec<u8>, value: impl Serialize) {
    let written = serde_json::to_writer(json, &value);
    debug_assert!(written.is_ok(), "writing to a Vec does not fail, and these values are all JSON");
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, Shown(value));
    }
}

/// The `Debug` output of a value, as a string.
struct Shown<'a>(&'a dyn fmt::Debug);

impl Serialize for Shown<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:?}", self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_parsed_in_any_case_and_by_other_names() {
        assert_eq!(parse_level("INFO"), Some(LevelFilter::INFO));
        assert_eq!(parse_level("warning"), Some(LevelFilter::WARN));
        assert_eq!(parse_level("loud"), None);
    }
}
