//! The command line (docs/operating.md). One file for each subcommand; [`access`] finds the running
//! service or opens the store.
//!
//! Results go to standard output, everything else to standard error. Exit codes: 0 success, 1 failure,
//! 2 wrong usage or settings, 3 not running.

#![expect(clippy::doc_markdown, reason = "the comments on arguments are the text of --help")]

mod access;
mod action;
mod cancel;
mod check_config;
mod completions;
mod export;
mod import;
mod inspect_queue;
mod man;
mod output;
mod pause;
mod receive;
mod reload;
mod replay_failed;
mod results;
mod retry_now;
mod runtime;
mod screen;
mod selectors;
mod serve;
#[cfg(windows)]
mod service;
mod status;
mod submit;
mod table;
mod temporary;
mod text;
mod timeline;
mod ui;

use std::{io::Write as _, path::PathBuf, process::ExitCode};

use clap::{CommandFactory as _, Parser, Subcommand};

use self::{
    output::{Exit, exit_of},
    runtime::runtime,
};
use crate::config::Config;

/// Durable HTTP callbacks for DPF jobs.
///
/// Accepts job events and sends a callback when a job waits for its client or has ended. Start with
/// `serve`, and try it with `receive` and `submit`.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
struct Cli {
    /// Settings file [default: ./config.toml if it exists]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the service
    ///
    /// Accepts job events on its API and delivers callbacks until SIGTERM or Ctrl-C. A second signal
    /// ends it immediately. SIGHUP reopens the log file and reads the settings again, as `reload` does.
    ///
    /// Example: seal-dpf-urlcallback serve
    Serve,
    Submit(submit::Args),
    InspectQueue(inspect_queue::Args),
    ReplayFailed(replay_failed::Args),
    Cancel(cancel::Args),
    RetryNow(retry_now::Args),
    Pause(pause::PauseArgs),
    Resume(pause::ResumeArgs),
    Export(export::Args),
    Import(import::Args),
    Status(status::Args),
    Reload(reload::Args),
    Ui(ui::Args),
    CheckConfig(check_config::Args),
    Receive(receive::Args),
    Completions(completions::Args),
    Man(man::Args),
    #[cfg(windows)]
    Service(service::Args),
}

impl Command {
    /// Whether the command only reads; then a closed standard output is not an error. (`export` is not
    /// one of them: an export that is cut off is useless.)
    const fn is_read_only(&self) -> bool {
        match self {
            Self::InspectQueue(_)
            | Self::Status(_)
            | Self::Ui(_)
            | Self::CheckConfig(_)
            | Self::Receive(_)
            | Self::Completions(_)
            | Self::Man(_) => true,
            Self::Serve
            | Self::Submit(_)
            | Self::ReplayFailed(_)
            | Self::Cancel(_)
            | Self::RetryNow(_)
            | Self::Pause(_)
            | Self::Resume(_)
            | Self::Export(_)
            | Self::Reload(_)
            | Self::Import(_) => false,
            #[cfg(windows)]
            Self::Service(_) => false,
        }
    }
}

/// Runs the program.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let read_only = cli.command.is_read_only();
    let result = run(cli);
    match result {
        Ok(exit) => exit.into(),
        Err(error) if read_only && is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // Standard error may be closed.
            drop(writeln!(std::io::stderr(), "error: {error:#}"));
            exit_of(&error).into()
        }
    }
}

/// Whether the reader of standard output has closed it.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| {
        error.kind() == std::io::ErrorKind::BrokenPipe || is_unconnected(error)
    })
}

/// ERROR_PIPE_NOT_CONNECTED, another name that Windows has for it.
fn is_unconnected(error: &std::io::Error) -> bool {
    cfg!(windows) && error.raw_os_error() == Some(233)
}

fn run(cli: Cli) -> anyhow::Result<Exit> {
    let config = || Config::load(cli.config.as_deref());
    match cli.command {
        Command::Receive(args) => runtime(false)?.block_on(receive::run(&args)),
        #[cfg(windows)]
        Command::Service(args) => service::run(&args, cli.config),
        Command::Completions(args) => completions::run(&args, Cli::command()),
        Command::Man(args) => man::run(&args, Cli::command()),
        Command::Serve => {
            let again = || Config::load_again(cli.config.as_deref());
            serve::run(config()?, &again)
        }
        Command::CheckConfig(args) => {
            let config = config()?;
            check_config::run(&config, &args)?;
            runtime(false)?.block_on(check_config::nats(&config, &args))
        }
        Command::Submit(args) => runtime(false)?.block_on(submit::run(&config()?, args)),
        Command::InspectQueue(args) => {
            runtime(false)?.block_on(inspect_queue::run(&config()?, args))
        }
        Command::ReplayFailed(args) => {
            runtime(false)?.block_on(replay_failed::run(&config()?, args))
        }
        Command::Cancel(args) => runtime(false)?.block_on(cancel::run(&config()?, args)),
        Command::RetryNow(args) => runtime(false)?.block_on(retry_now::run(&config()?, args)),
        Command::Pause(args) => runtime(false)?.block_on(pause::pause(&config()?, args)),
        Command::Resume(args) => runtime(false)?.block_on(pause::resume(&config()?, args)),
        Command::Export(args) => runtime(false)?.block_on(export::run(&config()?, args)),
        Command::Import(args) => runtime(false)?.block_on(import::run(&config()?, args)),
        Command::Status(args) => runtime(false)?.block_on(status::run(&config()?, &args)),
        Command::Reload(args) => runtime(false)?.block_on(reload::run(&config()?, &args)),
        Command::Ui(args) => runtime(false)?.block_on(ui::run(&config()?, &args)),
    }
}
