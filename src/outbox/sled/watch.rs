//! Watches over what sled would lose without a word.
//!
//! When it opens a store, sled passes over messages of its log that are broken, as if they had
//! never been written, and overwrites what it has passed over. For the torn end of a log, that
//! is right: what is there was never acknowledged. For damage it is a loss. So:
//!
//! - The **witness**, a file beside the store, says how many batches were acknowledged, and,
//!   when the store was closed well, which segments its log had. It is written after the sync
//!   of each batch and not synced itself: it may be old after a power cut, never ahead.
//! - Before sled opens a store, the part of the log that sled is going to read is looked
//!   through. Where something is broken that is not the log's end, there is a **doubt**: then
//!   all that sled may change is copied first, all rows are compared with each other after the
//!   opening, and where they do not agree, the copy is put back.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use data_encoding::HEXLOWER;

use super::{
    committer::sync_dir,
    log::{Body, Log, Messages, Piece, Segment},
};
use crate::outbox::{Identity, OutboxError};

/// What the witness says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Testimony {
    identity: Identity,
    /// How many batches were acknowledged.
    pub(super) batches: u64,
    /// How long the log was then, in bytes.
    len: u64,
    /// What the segments were known by when the store was closed well.
    segments: Option<u64>,
}

/// The witness's file.
pub(super) struct Witness {
    file: File,
    identity: Identity,
}

const WITNESS: &str = ".witness";
const BEFORE: &str = ".before";

/// What the names of the files and folders beside a store end with.
pub(super) const BESIDE: [&str; 2] = [WITNESS, BEFORE];

pub(super) fn beside(dir: &Path, suffix: &str) -> PathBuf {
    let mut name = dir.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Where the witness of a store is.
pub(super) fn witness_path(dir: &Path) -> PathBuf {
    beside(dir, WITNESS)
}

/// What the witness of the store in `dir` says, where it can be read.
pub(super) fn testimony(dir: &Path) -> Option<Testimony> {
    let text = fs::read_to_string(witness_path(dir)).ok()?;
    let mut parts = text.split_ascii_whitespace();
    let identity = HEXLOWER.decode(parts.next()?.as_bytes()).ok()?;
    let batches = parts.next()?.parse().ok()?;
    let len = parts.next()?.parse().ok()?;
    let segments = match parts.next()? {
        "open" => None,
        known => Some(u64::from_str_radix(known, 16).ok()?),
    };
    Some(Testimony { identity: Identity(identity.try_into().ok()?), batches, len, segments })
}

impl Witness {
    pub(super) fn open(dir: &Path, identity: Identity) -> io::Result<Self> {
        let mut options = File::options();
        options.write(true).create(true).truncate(false);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        Ok(Self { file: options.open(witness_path(dir))?, identity })
    }

    /// So many batches are acknowledged, and the log is so long.
    pub(super) fn note(&mut self, batches: u64, len: u64) {
        self.write(batches, len, "open            ");
    }

    /// The store in `dir` is closed well.
    pub(super) fn close(&mut self, dir: &Path, batches: u64) {
        match segments(dir) {
            Ok((len, known)) => self.write(batches, len, &format!("{known:016x}")),
            Err(error) => tracing::debug!(error.message = %error, "the log cannot be read"),
        }
    }

    fn write(&mut self, batches: u64, len: u64, segments: &str) {
        let identity = HEXLOWER.encode(&self.identity.0);
        // Always as long, so that it is never half an old and half a new one.
        let line = format!("{identity} {batches:020} {len:020} {segments}\n");
        let written =
            self.file.seek(SeekFrom::Start(0)).and_then(|_| self.file.write_all(line.as_bytes()));
        if let Err(error) = written {
            tracing::debug!(error.message = %error, "the store's witness cannot be written");
        }
    }
}

/// How long a log is, and what its segments are known by.
fn segments(dir: &Path) -> io::Result<(u64, u64)> {
    let mut hasher = crc32fast::Hasher::new();
    let mut log = Log::open(dir)?;
    let all = log.segments()?;
    all.iter().for_each(|segment| hasher.update(&segment.lsn.to_be_bytes()));
    Ok((log.len, (u64::from(hasher.finalize()) << 32) | all.len() as u64))
}

/// A store that is about to be opened.
pub(super) struct Before {
    dir: PathBuf,
    pub(super) testimony: Option<Testimony>,
    /// Why all rows have to be compared.
    pub(super) doubt: Option<String>,
    copy: Option<Copy>,
}

impl Before {
    /// Looks through what sled is going to read, and copies it where there is a doubt.
    pub(super) fn look(dir: &Path) -> Result<Self, OutboxError> {
        // A process that was killed while it opened the store has left what was there before.
        let left = beside(dir, BEFORE);
        if left.try_exists()? {
            Copy::found(dir, &left)?;
        }
        let testimony = testimony(dir);
        let mut log = Log::open(dir)?;
        let tail = tail(dir, &mut log)?;
        let doubt = doubt(dir, &mut log, &tail, testimony)?;
        let copy = if let Some(why) = &doubt {
            tracing::warn!(
                event.action = "store-doubted",
                error.message = why,
                "the store is compared row by row"
            );
            let old = without(log.segments()?, &tail);
            Some(Copy::make(dir, &mut log, &old)?)
        } else {
            // Where the log ends is where the last write ended, or where damage begins that
            // looks like an end: the last segment is kept until the witness was asked. Without
            // room for that, the store is opened all the same.
            let last = tail.len().saturating_sub(1);
            let old = without(log.segments()?, &tail[last..]);
            Copy::make(dir, &mut log, &old).ok()
        };
        Ok(Self { dir: dir.to_owned(), testimony, doubt, copy })
    }

    /// Whether the store, now that it is open, is the one that the witness knows, with at
    /// least as many batches.
    pub(super) fn compare(&self, identity: Identity, batches: u64) -> Result<(), OutboxError> {
        let Some(known) = &self.testimony else { return Ok(()) };
        let witness = witness_path(&self.dir);
        if known.identity != identity {
            return Err(OutboxError::Corrupt(format!(
                "it is another one than {} speaks of; if that is as it should be, remove that file",
                witness.display()
            ).into()));
        }
        if batches < known.batches {
            return Err(OutboxError::Corrupt(format!(
                "the last {} of {} writes are lost, says {}; if an older state was put there on purpose, remove that file",
                known.batches - batches, known.batches, witness.display()
            ).into()));
        }
        Ok(())
    }

    /// The store is as it should be.
    pub(super) fn done(self) -> io::Result<()> {
        self.copy.map_or(Ok(()), Copy::remove)
    }

    /// The store is not: everything becomes what it was.
    pub(super) fn put_back(self) -> io::Result<()> {
        self.copy.map_or(Ok(()), |copy| copy.put_back(&self.dir))
    }
}

/// Where the segments are that are none of these.
fn without(all: Vec<Segment>, these: &[Segment]) -> BTreeSet<u64> {
    let others = all.into_iter().filter(|one| !these.iter().any(|it| it.lsn == one.lsn));
    others.map(|segment| segment.offset).collect()
}

/// The segments that sled reads when it opens the store: those since the latest snapshot.
fn tail(dir: &Path, log: &mut Log) -> io::Result<Vec<Segment>> {
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

fn snapshots(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("snap.")) {
            found.push(path);
        }
    }
    Ok(found)
}

/// What is broken in the log and is not its end.
fn doubt(
    dir: &Path,
    log: &mut Log,
    tail: &[Segment],
    testimony: Option<Testimony>,
) -> io::Result<Option<String>> {
    if testimony.is_some_and(|known| log.len < known.len) {
        return Ok(Some("its file db is shorter than it was".into()));
    }
    match testimony.and_then(|known| known.segments) {
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
                    let lost = matches!(message.body, Body::Blob(_))
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

/// What sled may change while it opens a store.
struct Copy {
    folder: PathBuf,
}

/// The file that says that a copy is whole, and how long the log was.
const WHOLE: &str = "whole";
const UNFINISHED: &str = "unfinished";

impl Copy {
    /// Copies all of the log but the segments at these offsets, which sled only reads. Where it
    /// cannot, it leaves nothing behind.
    fn make(dir: &Path, log: &mut Log, old: &BTreeSet<u64>) -> io::Result<Self> {
        let folder = beside(dir, BEFORE);
        if folder.try_exists()? {
            fs::remove_dir_all(&folder)?;
        }
        let copy = Self { folder };
        match copy.fill(dir, log, old) {
            Ok(()) => Ok(copy),
            Err(error) => {
                drop(copy.remove());
                Err(error)
            }
        }
    }

    fn fill(&self, dir: &Path, log: &mut Log, old: &BTreeSet<u64>) -> io::Result<()> {
        let folder = &self.folder;
        fs::create_dir(folder)?;
        let mut segments = File::create(folder.join("segments"))?;
        let offsets = (0..log.len).step_by(log.segment_size);
        for offset in offsets.filter(|offset| !old.contains(offset)) {
            let bytes = log.read_segment(Segment { offset, lsn: 0 })?;
            segments.write_all(&offset.to_be_bytes())?;
            segments.write_all(&(bytes.len() as u64).to_be_bytes())?;
            segments.write_all(&bytes)?;
        }
        segments.sync_all()?;
        for path in snapshots(dir)? {
            copy_synced(&path, folder)?;
        }
        if let Ok(witness) = File::options().write(true).open(witness_path(dir)) {
            witness.sync_all()?;
            copy_synced(&witness_path(dir), folder)?;
        }
        let blobs = folder.join("blobs");
        fs::create_dir(&blobs)?;
        for entry in fs::read_dir(dir.join("blobs")).into_iter().flatten() {
            let path = entry?.path();
            let to = blobs.join(path.file_name().unwrap_or_default());
            // sled removes such files and never changes one.
            fs::hard_link(&path, &to).or_else(|_| fs::copy(&path, &to).map(drop))?;
        }
        // All of it is on the disk before sled changes the first byte.
        let mut whole = File::create(folder.join(UNFINISHED))?;
        whole.write_all(log.len.to_string().as_bytes())?;
        whole.sync_all()?;
        fs::rename(folder.join(UNFINISHED), folder.join(WHOLE))?;
        sync_dir(&blobs)?;
        sync_dir(folder)?;
        sync_dir(dir.parent().unwrap_or(Path::new(".")))
    }

    /// One that a process has left: put back where it is whole, since nothing was acknowledged
    /// while it was there. Where the witness is another one, somebody has put another store in
    /// its place since, or an older state of it.
    fn found(dir: &Path, folder: &Path) -> io::Result<()> {
        let copy = Self { folder: folder.to_owned() };
        let witness = witness_path(dir);
        let copied = folder.join(witness.file_name().unwrap_or_default());
        let same = fs::read(witness).ok() == fs::read(copied).ok();
        if same && folder.join(WHOLE).try_exists()? { copy.put_back(dir) } else { copy.remove() }
    }

    fn put_back(self, dir: &Path) -> io::Result<()> {
        let broken = || io::Error::new(io::ErrorKind::InvalidData, "the copy is broken");
        let len: u64 =
            fs::read_to_string(self.folder.join(WHOLE))?.parse().map_err(|_| broken())?;
        let mut db = File::options().write(true).open(dir.join("db"))?;
        let mut segments = io::BufReader::new(File::open(self.folder.join("segments"))?);
        let mut header = [0; 16];
        while segments.read_exact(&mut header).is_ok() {
            let (offset, size) = header.split_at(8);
            let number = |bytes: &[u8]| bytes.try_into().map(u64::from_be_bytes);
            let (Ok(offset), Ok(size)) = (number(offset), number(size)) else {
                return Err(broken());
            };
            db.seek(SeekFrom::Start(offset))?;
            io::copy(&mut segments.by_ref().take(size), &mut db)?;
        }
        db.set_len(len)?;
        db.sync_all()?;
        for path in snapshots(dir)? {
            fs::remove_file(path)?;
        }
        for path in snapshots(&self.folder)? {
            copy_synced(&path, dir)?;
        }
        for entry in fs::read_dir(self.folder.join("blobs"))? {
            let path = entry?.path();
            let to = dir.join("blobs").join(path.file_name().unwrap_or_default());
            if !to.try_exists()? {
                copy_synced(&path, &dir.join("blobs"))?;
            }
        }
        if dir.join("blobs").try_exists()? {
            sync_dir(&dir.join("blobs"))?;
        }
        sync_dir(dir)?;
        self.remove()
    }

    /// From here on the copy is none: what is acknowledged from now on must not be undone by it,
    /// also where the power is cut before the rest of it is gone.
    fn remove(self) -> io::Result<()> {
        if self.folder.join(WHOLE).try_exists()? {
            fs::remove_file(self.folder.join(WHOLE))?;
            sync_dir(&self.folder)?;
        }
        fs::remove_dir_all(&self.folder)
    }
}

/// Copies a file into a folder and has it on the disk.
fn copy_synced(path: &Path, folder: &Path) -> io::Result<()> {
    let mut to = File::create(folder.join(path.file_name().unwrap_or_default()))?;
    to.write_all(&fs::read(path)?)?;
    to.sync_all()
}

/// Removes what is beside a store: what it says of a store that is gone would be taken for
/// something about the next one.
pub(super) fn forget(dir: &Path) -> io::Result<()> {
    let witness = witness_path(dir);
    if witness.try_exists()? {
        fs::remove_file(witness)?;
    }
    let folder = beside(dir, BEFORE);
    if folder.try_exists()? { (Copy { folder }).remove() } else { Ok(()) }
}

/// A store that is not there although its witness says that it was.
pub(super) fn missing(dir: &Path, known: &Testimony) -> OutboxError {
    let reason: Arc<str> = format!(
        "its file db is missing, and {} says that it had {} writes; put it back, or remove that file to begin anew",
        witness_path(dir).display(),
        known.batches
    )
    .into();
    OutboxError::Open { dir: dir.to_owned(), reason }
}
