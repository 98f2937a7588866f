//! The backup of what sled may change while it opens a store.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
};

use crate::{
    files,
    outbox::sled::{
        fsync::sync_dir,
        rescue::{
            files::{BACKUP, JOURNAL, beside},
            log_file::{LogFile, Segment, snapshots},
            witness::witness_path,
        },
    },
};

/// A backup of what sled may change while it opens a store.
pub(crate) struct Backup {
    folder: PathBuf,
}

/// The file that marks a backup as complete, with the length of the log.
const WHOLE: &str = "whole";
const UNFINISHED: &str = "unfinished";

impl Backup {
    /// Copies the log, except for the segments at these offsets, which sled only reads. Removes the
    /// copy if it fails.
    pub(crate) fn make(dir: &Path, log: &mut LogFile, old: &BTreeSet<u64>) -> io::Result<Self> {
        let folder = beside(dir, BACKUP);
        if folder.try_exists()? {
            files::remove_folder(&folder)?;
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

    fn fill(&self, dir: &Path, log: &mut LogFile, old: &BTreeSet<u64>) -> io::Result<()> {
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
            // sled removes such files, but never changes them.
            fs::hard_link(&path, &to).or_else(|_| fs::copy(&path, &to).map(drop))?;
        }
        // The backup is durable before sled changes the first byte.
        let mut whole = File::create(folder.join(UNFINISHED))?;
        whole.write_all(log.len.to_string().as_bytes())?;
        whole.sync_all()?;
        drop(whole);
        files::rename(&folder.join(UNFINISHED), &folder.join(WHOLE))?;
        sync_dir(&blobs)?;
        sync_dir(folder)?;
        sync_dir(dir.parent().unwrap_or(Path::new(".")))
    }

    /// Handles a backup that a killed process has left. If it is complete, it is put back, because nothing
    /// was acknowledged while it existed. If the witness differs from the copied one, the store was
    /// replaced since, and the backup is removed.
    pub(crate) fn found(dir: &Path, folder: &Path) -> io::Result<()> {
        let copy = Self { folder: folder.to_owned() };
        let witness = witness_path(dir);
        let copied = folder.join(witness.file_name().unwrap_or_default());
        let same = fs::read(witness).ok() == fs::read(copied).ok();
        if same && folder.join(WHOLE).try_exists()? { copy.put_back(dir) } else { copy.remove() }
    }

    pub(crate) fn put_back(self, dir: &Path) -> io::Result<()> {
        let broken = || io::Error::new(io::ErrorKind::InvalidData, "the copy is broken");
        let len: u64 =
            fs::read_to_string(self.folder.join(WHOLE))?.parse().map_err(|_| broken())?;
        // sled's threads release a store shortly after it was closed.
        files::wait_until_readable(&dir.join("db"))?;
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
        // What is open cannot be removed everywhere, nor can the folder that it is in.
        drop(segments);
        for path in snapshots(dir)? {
            files::remove_file(&path)?;
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

    /// Removes the backup. It is marked incomplete first, so that it cannot undo what is acknowledged from
    /// now on, even if the power fails before it is removed.
    pub(crate) fn remove(self) -> io::Result<()> {
        if self.folder.join(WHOLE).try_exists()? {
            files::remove_file(&self.folder.join(WHOLE))?;
            sync_dir(&self.folder)?;
        }
        files::remove_folder(&self.folder)
    }
}

/// Copies a file into a folder and syncs it.
fn copy_synced(path: &Path, folder: &Path) -> io::Result<()> {
    let mut to = File::create(folder.join(path.file_name().unwrap_or_default()))?;
    to.write_all(&fs::read(path)?)?;
    to.sync_all()
}

/// Removes the files next to a store that no longer exists, so that they are not applied to the next
/// store.
pub(crate) fn forget(dir: &Path) -> io::Result<()> {
    for file in [witness_path(dir), beside(dir, JOURNAL)] {
        if file.try_exists()? {
            files::remove_file(&file)?;
        }
    }
    let folder = beside(dir, BACKUP);
    if folder.try_exists()? { (Backup { folder }).remove() } else { Ok(()) }
}
