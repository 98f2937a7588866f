//! Files that only their owner can read.

use std::{
    fs::File,
    io::{self, Write as _},
    path::Path,
};

/// Replaces a file atomically: a reader sees the old text or the new one. Only the owner can read it.
pub(super) fn replace(path: &Path, text: &str) -> io::Result<()> {
    let folder = path.parent().filter(|it| !it.as_os_str().is_empty());
    let mut file =
        tempfile::Builder::new().prefix(".new-").tempfile_in(folder.unwrap_or(Path::new(".")))?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

/// Creates a file that only its owner can read. Fails if it exists.
pub fn create_private(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}
