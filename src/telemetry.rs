//! The log (seed, "Error Analysis"): JSON, one object a line, with the field names of the
//! Elastic Common Schema, since the seed sends its readers to the Elastic Stack.
//!
//! A thread of its own writes the file, so that no callback waits for the log's disk; it is
//! opened again after SIGHUP, so that an outside logrotate works. No line is dropped for the
//! file: when the writer is more than [`BUFFERED_LINES`] behind, the others wait for it.

use std::{
    fmt::{self, Write as _},
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use serde_json::{Map, Value};
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
    level_filters::LevelFilter,
};
use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{
    Layer, filter::Targets, layer::Context, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

use crate::clock::{Clock as _, SystemClock};

/// The log file's name.
pub const FILE_NAME: &str = "seal-dpf-urlcallback.log";

/// The level without a setting.
pub const DEFAULT_LEVEL: LevelFilter = LevelFilter::INFO;

/// How many lines wait for the writer at most.
pub const BUFFERED_LINES: usize = 16_384;

/// The folder that the seed names.
const SEED_FOLDER: &str =
    if cfg!(windows) { r"C:\ProgramData\SEAL Systems\log" } else { "/opt/seal/log" };

/// The settings of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// What is written: this level and those above.
    pub level: LevelFilter,
    /// Where to.
    pub target: Target,
}

/// Where the log goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The seed's folder where it can be written, else here.
    Default {
        /// The file to fall back to.
        fallback: PathBuf,
    },
    /// This file.
    File(PathBuf),
    /// Standard error.
    StandardError,
}

/// Reads a level, in any case; also the names that other services of DPF use.
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

/// The running log. When it is dropped, what is buffered is written.
pub struct Log {
    /// The file, where it is one.
    pub path: Option<PathBuf>,
    reopen: Arc<AtomicBool>,
    _writer: WorkerGuard,
}

impl Log {
    /// Opens the file again before the next line.
    pub fn reopen(&self) {
        self.reopen.store(true, Ordering::SeqCst);
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
            let file = Reopening { path: path.clone(), file, requested: Arc::clone(&reopen) };
            (Some(path), builder.lossy(false).finish(file))
        }
        // A terminal that is stopped with Ctrl-S must not stop the service.
        None => (None, builder.lossy(true).finish(io::stderr())),
    };
    // What other crates log is wanted when it is a warning; below that it may hold anything.
    let others = settings.level.min(LevelFilter::WARN);
    let filter =
        Targets::new().with_default(others).with_target(env!("CARGO_CRATE_NAME"), settings.level);
    let layer = EcsLayer { writer }.with_filter(filter);
    if tracing_subscriber::registry().with(layer).try_init().is_err() {
        tracing::debug!("the log was started before");
    }
    Ok(Log { path, reopen, _writer: guard })
}

fn open(target: &Target) -> Result<Option<(PathBuf, File)>, LogError> {
    let path = match target {
        Target::StandardError => return Ok(None),
        Target::File(path) => path.clone(),
        Target::Default { fallback } => {
            let path = Path::new(SEED_FOLDER).join(FILE_NAME);
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

/// A file that is opened again on request; where that fails, the old one goes on.
struct Reopening {
    path: PathBuf,
    file: File,
    requested: Arc<AtomicBool>,
}

impl Write for Reopening {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.requested.swap(false, Ordering::SeqCst)
            && let Ok(file) = append(&self.path)
        {
            self.file = file;
        }
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Writes each event as one line of ECS JSON.
struct EcsLayer {
    writer: NonBlocking,
}

impl<S: Subscriber> Layer<S> for EcsLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields(Map::new());
        event.record(&mut fields);
        let line = line(event.metadata(), fields.0);
        // The writer's thread is gone only when the process ends.
        drop(self.writer.clone().write_all(&line));
    }
}

fn line(metadata: &tracing::Metadata<'_>, mut fields: Map<String, Value>) -> Vec<u8> {
    let message = fields.remove("message").unwrap_or_else(|| Value::String(String::new()));
    let mut line = String::with_capacity(512);
    let level = metadata.level().as_str().to_ascii_lowercase();
    // The first four in the order in which ECS wants them to be read.
    let header = write!(
        line,
        r#"{{"@timestamp":"{}","log.level":"{level}","message":{message},"ecs.version":"8.11.0","service.name":"seal-dpf-urlcallback","service.version":"{}","process.pid":{}"#,
        SystemClock.now(),
        env!("CARGO_PKG_VERSION"),
        std::process::id(),
    );
    debug_assert!(header.is_ok(), "a String takes everything");
    if !fields.contains_key("event.action") {
        fields.insert("log.logger".into(), metadata.target().into());
    }
    for (name, value) in fields {
        line.push(',');
        line.push_str(&Value::String(name).to_string());
        line.push(':');
        line.push_str(&value.to_string());
    }
    line.push_str("}\n");
    line.into_bytes()
}

/// The fields of one event.
struct Fields(Map<String, Value>);

impl Fields {
    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.insert(field.name().to_owned(), value.into());
    }
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
        self.put(field, format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_read_in_any_case_and_by_the_names_of_other_services() {
        assert_eq!(parse_level("INFO"), Some(LevelFilter::INFO));
        assert_eq!(parse_level("warning"), Some(LevelFilter::WARN));
        assert_eq!(parse_level("loud"), None);
    }
}
