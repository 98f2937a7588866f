//! What a command prints, and how it ends.

use std::{io::Write as _, process::ExitCode};

use clap::ValueEnum;

use crate::config::Config;

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    /// For people
    Table,
    /// One JSON document
    Json,
    /// One JSON document a line
    Ndjson,
}

/// How a command ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exit {
    Done,
    Failed,
    Usage,
    NotRunning,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Done => Self::SUCCESS,
            Exit::Failed => Self::from(1),
            Exit::Usage => Self::from(2),
            Exit::NotRunning => Self::from(3),
        }
    }
}

/// The arguments do not fit together.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Usage(pub(super) String);

/// Prints one line of a result.
pub(super) fn print(line: impl std::fmt::Display) -> std::io::Result<()> {
    writeln!(std::io::stdout().lock(), "{line}")
}

/// Says what in the settings is most likely a mistake.
pub(super) fn say_warnings(config: &Config) {
    config.warnings.iter().for_each(|warning| say(format_args!("warning: {warning}")));
}

/// Says something that is no result.
pub(super) fn say(line: impl std::fmt::Display) {
    drop(writeln!(std::io::stderr().lock(), "{line}"));
}
