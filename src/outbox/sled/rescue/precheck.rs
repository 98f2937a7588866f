//! Watches over what sled would lose without a word.
//!
//! When it opens a store, sled passes over messages of its log that are broken, as if they had
//! never been written, and overwrites what it has passed over. For the torn end of a log, that
//! is right: what is there was never acknowledged. For damage it is a loss. So:
//!
//! - The **witness**, a file beside the store, says how many batches were acknowledged, and,
//!   when the store was closed well, which segments its log had. It is written after the sync
//!   of each batch and not synced itself: it may be old after a power cut, never ahead.
//! - Precheck sled opens a store, the part of the log that sled is going to read is looked
//!   through. Where something is broken that is not the log's end, there is a **doubt**: then
//!   all that sled may change is copied first, all rows are compared with each other after the
//!   opening, and where they do not agree, the copy is put back.

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::outbox::{
    Identity, OutboxError,
    error::Result,
    sled::rescue::{
        backup::Backup,
        files::{BACKUP, beside},
        log_file::{LogFile, MessageBody, Messages, Piece, Segment, snapshots},
        witness::{WitnessRecord, segments, witness_path, witness_record},
    },
};

/// A store that is about to be opened.
pub(crate) struct Precheck {
    dir: PathBuf,
    pub(crate) witness_record: Option<WitnessRecord>,
    /// Why all rows have to be compared.
    pub(crate) doubt: Option<String>,
    copy: Option<Backup>,
}

impl Precheck {
    /// Looks through what sled is going to read, and copies it where there is a doubt.
    pub(crate) fn look(dir: &Path) -> Result<Self> {
        // A process that was killed while it opened the store has left what was there before.
        let left = beside(dir, BACKUP);
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
                "the store is compared row by row"
            );
            let old = without(log.segments()?, &tail);
            Some(Backup::make(dir, &mut log, &old)?)
        } else {
            // Where the log ends is where the last write ended, or where damage begins that
            // looks like an end: the last segment is kept until the witness was asked. Without
            // room for that, the store is opened all the same.
            let last = tail.len().saturating_sub(1);
            let old = without(log.segments()?, &tail[last..]);
            Backup::make(dir, &mut log, &old).ok()
        };
        Ok(Self { dir: dir.to_owned(), witness_record, doubt, copy })
    }

    /// Whether the store, now that it is open, is the one that the witness knows, with at
    /// least as many batches.
    pub(crate) fn compare(&self, identity: Identity, batches: u64) -> Result<()> {
        let Some(known) = &self.witness_record else { return Ok(()) };
        let witness = witness_path(&self.dir);
        if known.identity != identity {
            return Err(OutboxError::CorruptPage(format!(
                "it is another one than {} speaks of; if that is as it should be, remove that file",
                witness.display()
            ).into()));
        }
        if batches < known.batches {
            return Err(OutboxError::CorruptPage(format!(
                "the last {} of {} writes are lost, says {}; if an older state was put there on purpose, remove that file",
                known.batches - batches, known.batches, witness.display()
            ).into()));
        }
        Ok(())
    }

    /// The store is as it should be.
    pub(crate) fn done(self) -> io::Result<()> {
        self.copy.map_or(Ok(()), Backup::remove)
    }

    /// The store is not: everything becomes what it was.
    pub(crate) fn put_back(self) -> io::Result<()> {
        self.copy.map_or(Ok(()), |copy| copy.put_back(&self.dir))
    }
}

/// Where the segments are that are none of these.
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

/// What is broken in the log and is not its end.
fn doubt(
    dir: &Path,
    log: &mut LogFile,
    tail: &[Segment],
    witness_record: Option<WitnessRecord>,
) -> io::Result<Option<String>> {
    if witness_record.is_some_and(|known| log.len < known.len) {
        return Ok(Some("its file db is shorter than it was".into()));
    }
    match witness_record.and_then(|known| known.segments) {
        Some(known) if known != segments(dir)?.1 => {
            return Ok(Some("its log has not the segments that it was closed with".into()));
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
                return Ok(Some(format!("its log is broken near byte {} of db", segment.offset)));
            }
        }
        if garbage && at + 1 < tail.len() {
            return Ok(Some(format!("its log is broken after byte {} of db", segment.offset)));
        }
    }
    Ok(None)
}

/// A store that is not there although its witness says that it was.
pub(crate) fn missing(dir: &Path, known: &WitnessRecord) -> OutboxError {
    let reason: Arc<str> = format!(
        "its file db is missing, and {} says that it had {} writes; put it back, or remove that file to begin anew",
        witness_path(dir).display(),
        known.batches
    )
    .into();
    OutboxError::CannotOpen { dir: dir.to_owned(), reason }
}
