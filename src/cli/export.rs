//! `export`: exports the store as NDJSON.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::PathBuf,
};

use anyhow::Context as _;
use indicatif::ProgressBar;

use super::{
    access::{Access, Purpose, Store},
    output::{Exit, say},
    temporary::Temporary,
};
use crate::{
    archive::{ArchiveError, Writer},
    config::Config,
    datadir::DataDir,
    files,
    outbox::{OutboxError, store::Salvage},
};

/// Export the store as NDJSON, for a backup or to recover from a damaged store
///
/// Works whether or not the service runs. From a damaged store, it reads what can still be read,
/// changes nothing, and reports how much was unreadable. `import` reads the file into a new store.
/// The file contains callback URLs with their passwords; only its owner can read it.
///
/// Example: seal-dpf-urlcallback export --file callbacks.ndjson
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Output file, which must not exist yet [default: standard output]
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

pub(super) async fn run(config: &Config, args: Args) -> anyhow::Result<Exit> {
    let access = match Access::find(config, "export", Purpose::Look).await {
        Ok(access) => access,
        Err(error) => match error.downcast::<OutboxError>() {
            Ok(error @ (OutboxError::Damaged { .. } | OutboxError::UnreadableRow { .. })) => {
                let (out, file) = output(&args)?;
                let lock = DataDir::open_to_look(&config.data_dir, "export")?;
                let exit = rescue(config, &lock, &error, out)?;
                file.put_in_place()?;
                return Ok(exit);
            }
            Ok(error) => return Err(error.into()),
            Err(error) => return Err(error),
        },
    };
    let (out, place) = output(&args)?;
    let written = match access {
        Access::Service(service) => {
            let (mut file, callbacks) = service.export().await?;
            let mut out = out;
            io::copy(&mut file, &mut out).context("the export cannot be copied")?;
            out.flush()?;
            callbacks
        }
        Access::Store(store) => match from_store(config, *store, out).await? {
            Ok(written) => written,
            Err(exit) => {
                place.put_in_place()?;
                return Ok(exit);
            }
        },
    };
    place.put_in_place()?;
    say(format_args!("{written} callbacks"));
    Ok(Exit::Done)
}

/// The output file, under another name until it is complete.
#[derive(Debug, Default)]
struct OutputFile(Option<(Temporary, PathBuf)>);

impl OutputFile {
    fn put_in_place(self) -> anyhow::Result<()> {
        let Some((unfinished, path)) = self.0 else { return Ok(()) };
        let from = unfinished.path();
        let place = || {
            File::options().write(true).open(from)?.sync_all()?;
            // Do not overwrite a file created since. A hard link fails if the target exists; file systems
            // without hard links fall back to a rename.
            match std::fs::hard_link(from, &path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(error),
                Err(_) if path.try_exists()? => Err(io::ErrorKind::AlreadyExists.into()),
                Err(_) => files::rename(from, &path),
                linked => linked,
            }
        };
        place().with_context(|| format!("cannot write {} (--file)", path.display()))
    }
}

fn output(args: &Args) -> anyhow::Result<(Box<dyn Write>, OutputFile)> {
    let Some(path) = args.file.as_ref().filter(|path| path.as_os_str() != "-") else {
        return Ok((Box::new(BufWriter::new(io::stdout())), OutputFile::default()));
    };
    let context = || format!("cannot write {} (--file)", path.display());
    if path.symlink_metadata().is_ok() {
        return Err(io::Error::from(io::ErrorKind::AlreadyExists)).with_context(context);
    }
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(format!(".{}.tmp", std::process::id()));
    let (file, unfinished) = Temporary::file(unfinished.as_ref()).with_context(context)?;
    Ok((Box::new(BufWriter::new(file)), OutputFile(Some((unfinished, path.clone())))))
}

async fn from_store(
    config: &Config,
    store: Store,
    out: Box<dyn Write>,
) -> anyhow::Result<Result<u64, Exit>> {
    let outbox = store.outbox();
    let progress = ProgressBar::new_spinner();
    let mut writer = Writer::begin(out, Some(outbox.identity()))?;
    let added = writer
        .add_all(&**outbox, async |more| {
            progress.inc(more);
            Ok(())
        })
        .await;
    progress.finish_and_clear();
    match added {
        Ok(()) => Ok(Ok(writer.end()?)),
        // Opening a store reads only a small part of it, so damage may not be found until now. The
        // callbacks that can be read without the engine are appended; if there are two versions of a
        // callback, an import uses the later one.
        Err(ArchiveError::Outbox(error)) => {
            let lock = store.close();
            say(format_args!("{error}; reading what is left from its log"));
            let salvage = config.outbox.salvage(&lock.outbox())?;
            salvaged(salvage, writer).map(Err)
        }
        Err(error) => Err(error.into()),
    }
}

/// Reads the readable part of a store that cannot be opened.
fn rescue(
    config: &Config,
    lock: &DataDir,
    error: &OutboxError,
    out: Box<dyn Write>,
) -> anyhow::Result<Exit> {
    say(format_args!("{error}"));
    let salvage = config
        .outbox
        .salvage(&lock.outbox())
        .with_context(|| format!("cannot read {}", lock.outbox().display()))?;
    if salvage.identity.is_none() {
        say("the store's id key was lost, so an import assigns new ids");
    }
    let writer = Writer::begin(out, salvage.identity)?;
    salvaged(salvage, writer)
}

fn salvaged(salvage: Salvage, mut writer: Writer<Box<dyn Write>>) -> anyhow::Result<Exit> {
    let broken = salvage.broken;
    let (mut unreadable, mut uncertain) = (0, 0);
    for entry in salvage.entries() {
        match entry {
            Some(entry) => {
                uncertain += u64::from(entry.uncertain);
                writer.add(entry)?;
            }
            None => unreadable += 1,
        }
    }
    let written = writer.end()?;
    say(format_args!(
        "{written} callbacks; {uncertain} of them uncertain (a later version may have been lost; import stores them as failed); \
                 {unreadable} more cannot be read, and the log is damaged in {broken} places"
    ));
    Ok(Exit::Done)
}
