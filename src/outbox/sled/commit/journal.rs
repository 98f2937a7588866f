//! The journal: a file next to the store with the outcomes that are not committed yet.
//!
//! Outcomes gather for some milliseconds before they are committed. If the process is killed in that time,
//! their attempts would be repeated. So each outcome is first written here, where only a power failure can
//! undo it, because the file is not synced. At the next start, the outcomes in it are committed.
//!
//! The file is a row of entries, `length (4) ‖ crc32 (4) ‖ id and settlement`, and is written again from its
//! beginning after each commit; the remains of older entries have been committed. An entry counts only if its
//! callback is pending and its attempt is the callback's next one, so that none counts twice.

use std::{
    fs::{self, File},
    io::{self, Seek as _, SeekFrom, Write as _},
    path::Path,
};

use crate::{
    callback::CallbackId,
    outbox::{
        Settlement, record,
        sled::{
            commit::command::{Uncommitted, Write},
            rescue::files::{JOURNAL, beside},
        },
    },
};

/// Size after which nothing is written until the next commit, in bytes.
const MAX_BYTES: u64 = 16 * 1024 * 1024;

/// The journal, open for writing.
pub(crate) struct Journal {
    file: Option<File>,
    end: u64,
    buffer: Vec<u8>,
}

impl Journal {
    /// Opens the journal of the store in `dir`, and returns what a killed process has left in it. Without a
    /// journal, a kill only costs more repeats.
    pub(crate) fn open(dir: &Path) -> (Self, Vec<Uncommitted>) {
        let path = beside(dir, JOURNAL);
        let left = fs::read(&path).map(|bytes| entries(&bytes)).unwrap_or_default();
        let mut options = File::options();
        options.write(true).create(true).truncate(false);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(&path).map_err(|error| failed(&error)).ok();
        (Self { file, end: 0, buffer: Vec::new() }, left)
    }

    /// Writes the outcomes among these writes.
    pub(crate) fn note(&mut self, writes: &[Write]) {
        self.buffer.clear();
        for write in writes {
            if let Write::Settle(record, settlement, _) = write
                && settlement.attempt().is_some()
            {
                add_entry(&mut self.buffer, record.id, settlement);
            }
        }
        if self.buffer.is_empty() || self.end > MAX_BYTES {
            return;
        }
        if let Some(file) = &mut self.file {
            match file.write_all(&self.buffer) {
                Ok(()) => self.end += self.buffer.len() as u64,
                Err(error) => failed(&error),
            }
        }
    }

    /// All outcomes that were noted are committed.
    pub(crate) fn begin_again(&mut self) {
        if self.end > 0
            && let Some(file) = &mut self.file
        {
            self.end = 0;
            if let Err(error) = file.seek(SeekFrom::Start(0)) {
                failed(&error);
                self.file = None;
            }
        }
    }

    /// The store is closed, and everything is committed.
    pub(crate) fn close(&mut self) {
        if let Some(Err(error)) = self.file.as_ref().map(|file| file.set_len(0)) {
            failed(&error);
        }
    }
}

fn failed(error: &io::Error) {
    tracing::debug!(error.message = %error, "the journal of outcomes cannot be written");
}

fn add_entry(buffer: &mut Vec<u8>, id: CallbackId, settlement: &Settlement) {
    let Ok(entry) = record::encode(&(id, settlement)) else { return };
    let Ok(length) = u32::try_from(entry.len()) else { return };
    buffer.extend(length.to_be_bytes());
    buffer.extend(crc32fast::hash(&entry).to_be_bytes());
    buffer.extend(entry);
}

/// The entries up to the first one that is not whole.
fn entries(mut bytes: &[u8]) -> Vec<Uncommitted> {
    let mut found = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk()
        && let Some((crc, rest)) = rest.split_first_chunk()
        && let Some((entry, rest)) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)
        && crc32fast::hash(entry) == u32::from_be_bytes(*crc)
        && let Ok(entry) = record::decode(entry)
    {
        found.push(entry);
        bytes = rest;
    }
    found
}
