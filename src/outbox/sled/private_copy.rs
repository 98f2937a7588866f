//! A private copy of a store. sled writes when it opens a store, so a store that cannot be written has
//! to be copied to be read.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
};

use crate::files;

use super::{
    outbox::SledOutbox,
    rescue::files::{BESIDE, beside},
};

/// Number of bytes that are copied at a time.
const STEP: usize = 1 << 20;

/// A store cannot be copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The store cannot be read.
    #[error("{} cannot be read: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        error: io::Error,
    },
    /// The copy cannot be written.
    #[error("{} cannot be written: {error}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        error: io::Error,
    },
}

impl SledOutbox {
    /// Copies the store in `dir`, with the files next to it, to `to`, which must not exist. The store
    /// must not be open.
    pub fn copy(dir: &Path, to: &Path) -> Result<(), CopyError> {
        // A process that has just ended may hold the log for a moment longer. Other errors are met below.
        drop(files::wait_until_readable(&dir.join("db")));
        for suffix in [""].into_iter().chain(BESIDE) {
            copy(&beside(dir, suffix), &beside(to, suffix))?;
        }
        Ok(())
    }
}

/// Copies a file or folder, if it exists.
fn copy(from: &Path, to: &Path) -> Result<(), CopyError> {
    let read = |error| CopyError::Read { path: from.to_owned(), error };
    let found = match fs::metadata(from) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found.map_err(read)?,
    };
    if found.is_dir() {
        let write = |error| CopyError::Write { path: to.to_owned(), error };
        fs::create_dir(to).map_err(write)?;
        for entry in fs::read_dir(from).map_err(read)? {
            let name = entry.map_err(read)?.file_name();
            copy(&from.join(&name), &to.join(&name))?;
        }
        return Ok(());
    }
    if found.is_file() { copy_file(from, to) } else { Ok(()) }
}

/// Copies the content of a file, not its permissions: the copy of a read-only file has to be writable.
fn copy_file(from: &Path, to: &Path) -> Result<(), CopyError> {
    let read = |error| CopyError::Read { path: from.to_owned(), error };
    let write = |error| CopyError::Write { path: to.to_owned(), error };
    let mut source = File::open(from).map_err(read)?;
    let mut target = File::create_new(to).map_err(write)?;
    let mut buffer = vec![0; STEP];
    loop {
        match source.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(len) => target.write_all(&buffer[..len]).map_err(write)?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(read(error)),
        }
    }
}
