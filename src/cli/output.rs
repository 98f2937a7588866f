//! Output and exit codes of commands.

use std::{io::Write as _, process::ExitCode};

use clap::ValueEnum;

use crate::config::{Config, ConfigError};

/// Format of results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    /// For people
    Table,
    /// One JSON document
    Json,
    /// One JSON document per line
    Ndjson,
}

impl Output {
    /// Whether it is JSON, for a command whose result is not a list.
    pub(super) fn is_json(self, command: &str) -> Result<bool, Usage> {
        match self {
            Self::Table => Ok(false),
            Self::Json => Ok(true),
            Self::Ndjson => Err(Usage(format!("{command} supports the formats table and json"))),
        }
    }
}

/// Exit codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exit {
    Done = 0,
    Failed = 1,
    Usage = 2,
    NotRunning = 3,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// The exit code of an error.
pub(super) fn exit_of(error: &anyhow::Error) -> Exit {
    let usage = error.is::<ConfigError>() || error.is::<Usage>();
    if usage { Exit::Usage } else { Exit::Failed }
}

/// An invalid combination of arguments.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Usage(pub(super) String);

/// Prints one line of a result.
pub(super) fn print(line: impl std::fmt::Display) -> std::io::Result<()> {
    writeln!(std::io::stdout().lock(), "{line}")
}

/// Prints the warnings about the settings.
pub(super) fn say_warnings(config: &Config) {
    config.warnings.iter().for_each(|warning| say(format_args!("warning: {warning}")));
}

/// Prints a line to standard error.
pub(super) fn say(line: impl std::fmt::Display) {
    drop(writeln!(std::io::stderr().lock(), "{line}"));
}
