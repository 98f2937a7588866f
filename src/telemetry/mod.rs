//! The log: one JSON object per line, with the field names of the Elastic Common Schema.
//!
//! A separate thread writes the file, so that delivery does not wait for the log's disk. The file is
//! reopened on SIGHUP, for logrotate, or rotated here. No line is dropped: when the writer is [`BUFFERED_LINES`] lines
//! behind, threads that log wait for it.

mod actions;
mod ecs;
mod file;

use std::{
    fs::File,
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tracing::level_filters::LevelFilter;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{
    Layer as _, Registry, filter::Targets, layer::SubscriberExt as _, reload,
    util::SubscriberInitExt as _,
};

pub(crate) use self::ecs::SEPARATOR;
pub use self::file::Rotation;
use self::{
    ecs::EcsLayer,
    file::{LogFile, append},
};

/// The log file's name.
pub const FILE_NAME: &str = "seal-dpf-urlcallback.log";

/// The default level.
pub const DEFAULT_LEVEL: LevelFilter = LevelFilter::INFO;

/// Maximum number of lines that wait for the writer.
pub const BUFFERED_LINES: usize = 16_384;

/// The log folder that DPF prescribes.
#[cfg(not(windows))]
fn log_folder() -> PathBuf {
    "/opt/seal/log".into()
}

/// The log folder that DPF prescribes. It is created by the first service that uses it.
#[cfg(windows)]
fn log_folder() -> PathBuf {
    let folder = crate::files::shared_folder().join("log");
    if let Err(error) = std::fs::create_dir_all(&folder) {
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
    /// The rotation of a file.
    pub rotation: Rotation,
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
        // This fails only if another log was started in this process.
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
            let file = LogFile::new(path.clone(), file, settings.rotation, Arc::clone(&reopen));
            (Some(path), builder.lossy(false).finish(file))
        }
        // A terminal that is stopped with Ctrl-S must not stop the service.
        None => (None, builder.lossy(true).finish(io::stderr())),
    };
    let (filter, handle) = reload::Layer::new(filter(settings.level));
    let layer = EcsLayer::new(writer).with_filter(filter);
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
