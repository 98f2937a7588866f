//! `completions`: completion scripts for shells.

use std::io::Write as _;

use clap::Command;
use clap_complete::Shell;

use super::output::Exit;

/// Print a completion script for a shell
///
/// Examples:
///   seal-dpf-urlcallback completions bash > /etc/bash_completion.d/seal-dpf-urlcallback
///   seal-dpf-urlcallback completions zsh > /usr/share/zsh/site-functions/_seal-dpf-urlcallback
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Args {
    /// The shell
    shell: Shell,
}

pub(super) fn run(args: &Args, mut program: Command) -> anyhow::Result<Exit> {
    let name = program.get_name().to_owned();
    // The generator panics if it cannot write, so it writes to memory.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut program, name, &mut script);
    std::io::stdout().write_all(&script)?;
    Ok(Exit::Done)
}
