//! `man`: the manual pages.

use std::{io::Write as _, path::PathBuf};

use anyhow::Context as _;
use clap::Command;
use clap_mangen::Man;

use super::output::{Exit, Usage};

/// Print a manual page, or write all of them into a folder
///
/// Examples:
///   seal-dpf-urlcallback man inspect-queue | man -l -
///   seal-dpf-urlcallback man --out-dir /usr/local/share/man/man1
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Args {
    /// The command to print the page of [default: the program]
    command: Option<String>,
    /// Write the pages of the program and of every command into this folder
    #[arg(long, conflicts_with = "command", value_name = "FOLDER")]
    out_dir: Option<PathBuf>,
}

pub(super) fn run(args: &Args, program: Command) -> anyhow::Result<Exit> {
    // `help` needs no page; every page describes `--help`.
    let mut program = program.disable_help_subcommand(true);
    program.build();
    let of = |name: &str| program.find_subcommand(name).cloned();
    if let Some(folder) = &args.out_dir {
        let commands = program.get_subcommands().cloned().chain([program.clone()]);
        for command in commands {
            let file = folder.join(page(command.clone()).get_filename());
            std::fs::write(&file, roff(command)?)
                .with_context(|| format!("cannot write {}", file.display()))?;
        }
        return Ok(Exit::Done);
    }
    let command = match &args.command {
        None => program.clone(),
        Some(name) => of(name).ok_or_else(|| Usage(format!("there is no command `{name}`")))?,
    };
    std::io::stdout().write_all(&roff(command)?)?;
    Ok(Exit::Done)
}

fn page(command: clap::Command) -> Man {
    Man::new(command).source(concat!(env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION")))
}

fn roff(command: clap::Command) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    page(command).render(&mut text)?;
    Ok(text)
}
