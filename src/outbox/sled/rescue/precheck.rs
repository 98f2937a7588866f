//! The check of a store before sled opens it (see the [module](super)).

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    files,
    outbox::{
        Identity, OutboxError,
        error::Result,
        sled::rescue::{
            backup::Backup,
            files::{BACKUP, beside},
            log_file::{LogFile, MessageBody, Messages, Piece, Segment, snapshots},
            witness::{WitnessRecord, segments, witness_path, witness_record},
        },
    },
};

/// The result of the check.
pub(crate) struct Precheck {
    dir: PathBuf,
    pub(crate) witness_record: Option<WitnessRecord>,
    /// Why all rows have to be verified after opening.
    pub(crate) doubt: Option<String>,
    copy: Option<Backup>,
}

impl Precheck {
    /// Reads the part of the log that sled will read, and makes a backup of what sled may change.
    pub(crate) fn look(dir: &Path) -> Result<Self> {
        // A process that was killed while it opened the store has left its backup.
        let left = beside(dir, BACKUP);
        // A process that has just ended may hold the log for a moment longer.
        files::wait_until_readable(&dir.join("db"))?;
        if left.try_exists()? {
            Backup::found(dir, &left)?;
        }
        let witness_record = witness_record(dir);
        let mut log = LogFile::open(dir)?;
        let tail = tail(dir, &mut log)?;
        let doubt = doubt(dir, &mut log, &tail, witness_record)?;
        let copy = if let Some(why) = &doubt {
            tracing::warn!(
                event.action = "store-doubted",
                error.message = why,
                "the log may be damaged; verifying all rows of the store"
            );
            let old = without(log.segments()?, &tail);
            Some(Backup::make(dir, &mut log, &old)?)
        } else {
            // Damage in the last segment can look like the end of the log, so that segment is kept until the
            // witness has been compared. If there is no space for it, the store is opened anyway.
            let last = tail.len().saturating_sub(1);
            let old = without(log.segments()?, &tail[last..]);
            Backup::make(dir, &mut log, &old).ok()
        };
        Ok(Self { dir: dir.to_owned(), witness_record, doubt, copy })
    }

    /// Checks that the open store is the one of the witness, with at least as many batches.
    pub(crate) fn compare(&self, identity: Identity, batches: u64) -> Result<()> {
        let Some(known) = &self.witness_record else { return Ok(()) };
        let witness = witness_path(&self.dir);
        if known.identity != identity {
            return Err(OutboxError::CorruptPage(
                format!(
                    "it does not belong to {}; if it was replaced on purpose, remove that file",
                    witness.display()
                )
                .into(),
            ));
        }
        if batches < known.batches {
            return Err(OutboxError::CorruptPage(format!(
                "the last {} of {} writes are lost, according to {}; if an older state was restored on purpose, remove that file",
                known.batches - batches, known.batches, witness.display()
            ).into()));
        }
        Ok(())
    }

    /// The store is sound: removes the backup.
    pub(crate) fn done(self) -> io::Result<()> {
        self.copy.map_or(Ok(()), Backup::remove)
    }

    /// The store is not sound: puts the backup back.
    pub(crate) fn put_back(self) -> io::Result<()> {
        self.copy.map_or(Ok(()), |copy| copy.put_back(&self.dir))
    }
}

/// The offsets of all segments except these.
fn without(all: Vec<Segment>, these: &[Segment]) -> BTreeSet<u64> {
    let others = all.into_iter().filter(|one| !these.iter().any(|it| it.lsn == one.lsn));
    others.map(|segment| segment.offset).collect()
}

/// The segments that sled reads when it opens the store: those since the latest snapshot.
fn tail(dir: &Path, log: &mut LogFile) -> io::Result<Vec<Segment>> {
    let from = snapshots(dir)?
        .iter()
        .filter_map(|path| {
            let name = path.file_name()?.to_str()?;
            u64::from_str_radix(name.strip_prefix("snap.")?, 16).ok()
        })
        .max()
        .unwrap_or(0);
    let from = from / log.segment_size as u64 * log.segment_size as u64;
    let mut segments = log.segments()?;
    segments.retain(|segment| segment.lsn >= from);
    Ok(segments)
}

/// Damage in the log, apart from its end.
fn doubt(
    dir: &Path,
    log: &mut LogFile,
    tail: &[Segment],
    witness_record: Option<WitnessRecord>,
) -> io::Result<Option<String>> {
    if witness_record.is_some_and(|known| log.len < known.len) {
        return Ok(Some("its file db was truncated".into()));
    }
    match witness_record.and_then(|known| known.segments) {
        Some(known) if known != segments(dir)?.1 => {
            return Ok(Some("its log does not have the segments that it was closed with".into()));
        }
        Some(_) => {}
        None => {
            let whole = log.segments()?.len() as u64;
            if whole < log.len / log.segment_size as u64 {
                return Ok(Some("its log has segments without a header".into()));
            }
        }
    }
    for (at, segment) in tail.iter().enumerate() {
        let bytes = log.read_segment(*segment)?;
        let mut garbage = false;
        for piece in Messages::new(&bytes, *segment, log.segment_size) {
            let broken = match piece {
                Piece::Garbage => {
                    garbage = true;
                    false
                }
                Piece::Message(message) => {
                    let lost = matches!(message.body, MessageBody::Blob(_))
                        && log.read_body(message.body).is_err();
                    garbage || lost
                }
            };
            if broken {
                return Ok(Some(format!("its log is damaged near byte {} of db", segment.offset)));
            }
        }
        if garbage && at + 1 < tail.len() {
            return Ok(Some(format!("its log is damaged after byte {} of db", segment.offset)));
        }
    }
    Ok(None)
}

/// The error for a store that is missing although its witness exists.
pub(crate) fn missing(dir: &Path, known: &WitnessRecord) -> OutboxError {
    let reason: Arc<str> = format!(
        "its file db is missing, and according to {} it had {} writes; restore it, or remove that file to start with an empty store",
        witness_path(dir).display(),
        known.batches
    )
    .into();
    OutboxError::CannotOpen { dir: dir.to_owned(), reason }
}
