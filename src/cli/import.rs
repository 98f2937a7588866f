//! `import`: reads an export into a new store.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, bail};
use indicatif::ProgressBar;

use super::{
    output::{Exit, say},
    results::Results,
};
use crate::{archive::ArchiveReader, clock::SystemClock, config::Config, datadir::DataDir};

/// Number of callbacks stored by one call.
const STEP: usize = 500;

/// Import an export into a new store
///
/// The service must not be running, and the data directory must not have a store with callbacks. Ids,
/// attempts and the order within each job are kept; pending callbacks are delivered when the service
/// starts. The new store takes effect only after the whole export has been imported.
///
/// Example: seal-dpf-urlcallback import --file callbacks.ndjson
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Output of `export`; `-` for standard input
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
    /// Import the complete part of a truncated export
    #[arg(long)]
    partial: bool,
}

pub(super) async fn run(config: &Config, args: Args) -> anyhow::Result<Exit> {
    let lock = DataDir::open(&config.data_dir, "import")?;
    let dir = lock.outbox();
    make_room(config, &dir).await?;
    let input: Box<dyn Read> = if args.file.as_os_str() == "-" {
        Box::new(io::stdin())
    } else {
        let open = || format!("cannot read {}", args.file.display());
        Box::new(File::open(&args.file).with_context(open)?)
    };
    let reader = ArchiveReader::begin(BufReader::new(input))?;
    if reader.identity.is_none() {
        say("the store's id key was lost, so the callbacks get new ids");
    }
    let new = dir.with_extension("import");
    remove(config, &new)?;
    let taken = take(config, &new, reader, args.partial).await;
    if taken.is_err() {
        remove(config, &new)?;
    }
    let taken = taken?;
    config
        .outbox
        .rename(&new, &dir)
        .with_context(|| format!("{} cannot be put in place", new.display()))?;
    let mut results = Results::default();
    results.print(format_args!("imported {taken}"));
    results.end()?;
    Ok(Exit::Done)
}

/// Removes the store if it is empty; otherwise fails.
async fn make_room(config: &Config, dir: &Path) -> anyhow::Result<()> {
    if !dir.try_exists()? {
        // The store was moved away, so its witness file is obsolete.
        return remove(config, dir);
    }
    let way_out = || {
        format!(
            "{} is in the way: move it and {} away",
            dir.display(),
            config.outbox.file_beside(dir).display()
        )
    };
    let opened = config.outbox.open(dir, Arc::new(SystemClock)).with_context(way_out)?;
    let store = opened.outbox;
    let queue = store.summary(store.clock().now()).await?;
    store.close();
    drop(store);
    let stored = queue.pending + queue.delivered + queue.failed;
    if stored > 0 {
        bail!("{}: it holds {stored} callbacks", way_out());
    }
    remove(config, dir)
}

async fn take(
    config: &Config,
    new: &Path,
    mut reader: ArchiveReader<impl BufRead>,
    partial: bool,
) -> anyhow::Result<u64> {
    let store = config.outbox.create(new, reader.identity, Arc::new(SystemClock))?;
    let progress = ProgressBar::new_spinner();
    let mut read = 0_u64;
    loop {
        let mut entries = Vec::with_capacity(STEP);
        while entries.len() < STEP
            && let Some(entry) = reader.next_entry()?
        {
            entries.push(entry);
        }
        if entries.is_empty() {
            break;
        }
        read += entries.len() as u64;
        progress.set_position(read);
        store.import(entries).await?;
    }
    progress.finish_and_clear();
    if !partial {
        reader.check_end()?;
    }
    let queue = store.summary(store.clock().now()).await?;
    store.close();
    Ok(queue.pending + queue.delivered + queue.failed)
}

/// Removes a store, or the remains of one.
fn remove(config: &Config, dir: &Path) -> anyhow::Result<()> {
    config.outbox.remove(dir).with_context(|| format!("cannot remove {}", dir.display()))
}
