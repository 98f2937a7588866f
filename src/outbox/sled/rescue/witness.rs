//! The witness: a file next to the store that contains the number of acknowledged batches and, after a
//! clean close, the segments of the log. It is written after the sync of each batch and is not synced
//! itself: after a power failure it may be out of date, but never ahead.

use std::{
    fs::{self, File},
    io::{self, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
};

use data_encoding::HEXLOWER;

use crate::{
    files,
    outbox::{
        Identity,
        sled::rescue::{
            files::{WITNESS, beside},
            log_file::LogFile,
        },
    },
};

/// The content of the witness.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WitnessRecord {
    pub(crate) identity: Identity,
    /// Number of acknowledged batches.
    pub(crate) batches: u64,
    /// Length of the log at that time, in bytes.
    pub(crate) len: u64,
    /// Fingerprint of the segments at a clean close.
    pub(crate) segments: Option<u64>,
}

/// The witness, open for writing.
pub(crate) struct Witness {
    file: File,
    identity: Identity,
}

/// The path of a store's witness.
pub(crate) fn witness_path(dir: &Path) -> PathBuf {
    beside(dir, WITNESS)
}

/// Reads the witness of the store in `dir`; `None` if it cannot be read.
pub(crate) fn witness_record(dir: &Path) -> Option<WitnessRecord> {
    let text = fs::read_to_string(witness_path(dir)).ok()?;
    let mut parts = text.split_ascii_whitespace();
    let identity = HEXLOWER.decode(parts.next()?.as_bytes()).ok()?;
    let batches = parts.next()?.parse().ok()?;
    let len = parts.next()?.parse().ok()?;
    let segments = match parts.next()? {
        "open" => None,
        known => Some(u64::from_str_radix(known, 16).ok()?),
    };
    Some(WitnessRecord { identity: Identity(identity.try_into().ok()?), batches, len, segments })
}

impl Witness {
    pub(crate) fn open(dir: &Path, identity: Identity) -> io::Result<Self> {
        let mut options = File::options();
        options.write(true).create(true).truncate(false);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        Ok(Self { file: options.open(witness_path(dir))?, identity })
    }

    /// Records the number of acknowledged batches and the length of the log.
    pub(crate) fn note(&mut self, batches: u64, len: u64) {
        self.write(batches, len, "open            ");
    }

    /// Records a clean close of the store in `dir`. On Windows, the log cannot be read before sled has
    /// released it; then the witness is returned, to be closed after that.
    pub(crate) fn close(mut self, dir: &Path, batches: u64) -> Option<Unclosed> {
        match self.try_to_close(dir, batches) {
            Ok(()) => None,
            Err(error) => {
                tracing::debug!(error.message = %error, "the log cannot be read yet");
                Some(Unclosed { witness: self, dir: dir.to_owned(), batches })
            }
        }
    }

    fn try_to_close(&mut self, dir: &Path, batches: u64) -> io::Result<()> {
        let (len, known) = segments(dir)?;
        self.write(batches, len, &format!("{known:016x}"));
        Ok(())
    }

    fn write(&mut self, batches: u64, len: u64, segments: &str) {
        let identity = HEXLOWER.encode(&self.identity.0);
        // Always the same length, so that no part of an old line remains.
        let line = format!("{identity} {batches:020} {len:020} {segments}\n");
        let written =
            self.file.seek(SeekFrom::Start(0)).and_then(|_| self.file.write_all(line.as_bytes()));
        if let Err(error) = written {
            tracing::debug!(error.message = %error, "the store's witness cannot be written");
        }
    }
}

/// A witness that is closed when this is dropped, which has to be after sled was closed.
pub(crate) struct Unclosed {
    witness: Witness,
    dir: PathBuf,
    batches: u64,
}

impl Drop for Unclosed {
    fn drop(&mut self) {
        let closed = files::wait_until_readable(&self.dir.join("db"))
            .and_then(|()| self.witness.try_to_close(&self.dir, self.batches));
        if let Err(error) = closed {
            tracing::debug!(error.message = %error, "the log cannot be read");
        }
    }
}

/// The length of a log, and the fingerprint of its segments.
pub(crate) fn segments(dir: &Path) -> io::Result<(u64, u64)> {
    let mut hasher = crc32fast::Hasher::new();
    let mut log = LogFile::open(dir)?;
    let all = log.segments()?;
    all.iter().for_each(|segment| hasher.update(&segment.lsn.to_be_bytes()));
    Ok((log.len, (u64::from(hasher.finalize()) << 32) | all.len() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_witness_that_could_not_be_closed_is_closed_after_the_store() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("outbox");
        let identity = Identity([7; 16]);
        let mut witness = Witness::open(&dir, identity).unwrap();
        witness.note(3, 10);
        // The log cannot be read yet.
        let unclosed = witness.close(&dir, 4).unwrap();
        assert_eq!(witness_record(&dir).unwrap().segments, None);
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("db"), [0; 100]).unwrap();
        let known = segments(&dir).unwrap();
        drop(unclosed);
        let record = witness_record(&dir).unwrap();
        assert_eq!((record.batches, record.len, record.segments), (4, 100, Some(known.1)));
    }
}
