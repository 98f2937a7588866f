//! Changes of files and folders that another handle may still have open.
//!
//! Windows refuses to rename or remove a folder while anything in it is open, or a file that is open without
//! sharing, and a lock on a file prevents every other handle from reading it. Threads of the store, a process that
//! has just ended, and virus scanners keep files open for a moment longer. So these functions retry for a
//! while. On other systems, each operation is done once.

#[cfg(windows)]
mod windows;

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    path::Path,
    time::{Duration, Instant},
};

#[cfg(windows)]
pub use windows::{close_to_others, shared_folder, take_over};

/// How long to try, and the interval between two attempts.
const PATIENCE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(10);

/// Renames a file or folder.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    patiently(|| fs::rename(from, to))
}

/// Removes a folder with everything in it.
pub fn remove_folder(path: &Path) -> io::Result<()> {
    patiently(|| fs::remove_dir_all(path))
}

/// Removes a file.
pub fn remove_file(path: &Path) -> io::Result<()> {
    patiently(|| fs::remove_file(path))
}

/// Replaces a file atomically: a reader sees the old text or the new one. Only the owner can read it; on
/// Windows, everyone with rights on the folder can.
pub fn replace(path: &Path, text: &str) -> io::Result<()> {
    replace_after(path, text, |_| Ok(()))
}

/// The same for a file that only its owner can read, whatever the rights on its folder.
pub fn replace_secret(path: &Path, text: &str) -> io::Result<()> {
    #[cfg(windows)]
    return replace_after(path, text, close_to_others);
    #[cfg(not(windows))]
    replace(path, text)
}

/// `prepare` gets the new file before there is anything in it.
fn replace_after(
    path: &Path,
    text: &str,
    prepare: impl FnOnce(&Path) -> io::Result<()>,
) -> io::Result<()> {
    let folder = path.parent().filter(|it| !it.as_os_str().is_empty());
    let mut file = tempfile::Builder::new()
        .prefix(".new-")
        .make_in(folder.unwrap_or(Path::new(".")), create_private)?;
    prepare(file.path())?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    // Close it, so that this handle is not in the way of those that open the new file.
    let mut from = file.into_temp_path();
    rename(&from, path)?;
    from.disable_cleanup(true);
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

/// Creates a folder that only its owner can enter. Fails if it exists.
#[cfg(unix)]
pub fn create_private_folder(path: &Path) -> io::Result<()> {
    private_folders().create(path)
}

/// Creates a folder that only its owner can enter, and those above it that do not exist. It may exist.
#[cfg(unix)]
pub fn create_private_folders(path: &Path) -> io::Result<()> {
    private_folders().recursive(true).create(path)
}

#[cfg(unix)]
fn private_folders() -> fs::DirBuilder {
    let mut builder = fs::DirBuilder::new();
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder
}

/// Creates a folder that only its owner, SYSTEM and the administrators can enter. Fails if it exists.
#[cfg(windows)]
pub fn create_private_folder(path: &Path) -> io::Result<()> {
    fs::create_dir(path)?;
    close_to_others(path)
}

/// Creates a folder that only its owner, SYSTEM and the administrators can enter, and those above it that do
/// not exist. It may exist. The folder of SEAL Systems itself keeps its rights, because it also contains
/// other services' folders.
#[cfg(windows)]
pub fn create_private_folders(path: &Path) -> io::Result<()> {
    let shared = shared_folder();
    if path.starts_with(&shared) {
        fs::create_dir_all(&shared)?;
    }
    let missing = |it: &&Path| !it.as_os_str().is_empty() && !it.exists();
    let topmost = path.ancestors().take_while(missing).last();
    fs::create_dir_all(path)?;
    // The folders below inherit its rights.
    topmost.map_or(Ok(()), close_to_others)
}

/// Waits until no handle has locked the content of a file. Returns the error if it cannot be read.
pub fn wait_until_readable(path: &Path) -> io::Result<()> {
    patiently(|| File::open(path)?.read(&mut [0]).map(drop))
}

/// Whether an error is caused by another handle, of this process or another one.
pub fn is_held(error: &io::Error) -> bool {
    // ERROR_ACCESS_DENIED, ERROR_SHARING_VIOLATION, ERROR_LOCK_VIOLATION, ERROR_DIR_NOT_EMPTY and
    // ERROR_USER_MAPPED_FILE. Files that are being deleted deny access.
    cfg!(windows) && matches!(error.raw_os_error(), Some(5 | 32 | 33 | 145 | 1224))
}

/// Retries while the error is caused by another handle.
fn patiently<T>(once: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    until(Instant::now() + PATIENCE, is_held, once)
}

fn until<T>(
    give_up: Instant,
    passes: impl Fn(&io::Error) -> bool,
    mut once: impl FnMut() -> io::Result<T>,
) -> io::Result<T> {
    loop {
        match once() {
            Err(error) if passes(&error) && Instant::now() < give_up => std::thread::sleep(PAUSE),
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(_: &io::Error) -> bool {
        true
    }

    #[test]
    fn an_operation_is_retried_while_another_handle_is_open() {
        let mut left = 3;
        let done = until(Instant::now() + PATIENCE, held, || {
            left -= 1;
            if left == 0 { Ok("done") } else { Err(io::Error::from_raw_os_error(32)) }
        });
        assert_eq!(done.unwrap(), "done");
    }

    #[test]
    fn retries_end_with_the_error() {
        let mut attempts = 0;
        let give_up = Instant::now() + 3 * PAUSE;
        let error = until(give_up, held, || {
            attempts += 1;
            Err::<(), _>(io::Error::from_raw_os_error(32))
        })
        .unwrap_err();
        assert_eq!(error.raw_os_error(), Some(32));
        assert!(attempts > 1 && Instant::now() >= give_up, "{attempts}");
    }

    #[test]
    fn other_errors_are_not_retried() {
        let mut attempts = 0;
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("missing");
        let error = until(Instant::now() + PATIENCE, is_held, || {
            attempts += 1;
            fs::rename(&missing, folder.path().join("other"))
        })
        .unwrap_err();
        assert_eq!((error.kind(), attempts), (io::ErrorKind::NotFound, 1));
    }

    #[test]
    fn replacing_a_file_leaves_no_temporary_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "old").unwrap();
        replace(&path, "new").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        // A folder is in the way.
        replace(folder.path(), "new").unwrap_err();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
