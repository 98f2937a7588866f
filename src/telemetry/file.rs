//! The log file. It is reopened on request, and rotated by size.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Read as _, Seek as _, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use super::ecs::own_line;
use crate::files;

/// Pause of the writer while no line waits.
const GATHER_PAUSE: Duration = Duration::from_millis(2);

/// Maximum number of bytes that are written to the file at once.
const BUFFERED_BYTES: usize = 65_536;

/// Pause after a rotation that failed.
const ROTATION_PAUSE: Duration = Duration::from_secs(10);

/// When the file is rotated. The previous file is `<name>.1`, the one before that `<name>.2`, and so on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rotation {
    /// Maximum size of the file, unless a single line is longer. 0: no limit.
    pub max_bytes: u64,
    /// How many files are kept besides the current one.
    pub keep: u64,
}

impl Default for Rotation {
    fn default() -> Self {
        // Elsewhere, logrotate or the container platform does it.
        Self { max_bytes: if cfg!(windows) { 104_857_600 } else { 0 }, keep: 10 }
    }
}

/// Opens a file to append to it. If its last line was truncated by a full disk or a power failure, a line end
/// is added.
pub(super) fn append(path: &Path) -> io::Result<File> {
    let mut file = fs::OpenOptions::new().create(true).append(true).open(path)?;
    if !ends_with_line(path).unwrap_or(true) {
        file.write_all(b"\n")?;
    }
    Ok(file)
}

fn ends_with_line(path: &Path) -> io::Result<bool> {
    let mut file = File::open(path)?;
    if file.metadata()?.len() == 0 {
        return Ok(true);
    }
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

/// The file. If it cannot be reopened or rotated, the old one stays in use, so that no line is lost. The
/// writer's thread flushes it when no line waits.
pub(super) struct LogFile {
    path: PathBuf,
    file: BufWriter<File>,
    requested: Arc<AtomicBool>,
    rotation: Rotation,
    bytes: u64,
    not_before: Option<Instant>,
}

impl LogFile {
    pub(super) fn new(
        path: PathBuf,
        file: File,
        rotation: Rotation,
        requested: Arc<AtomicBool>,
    ) -> Self {
        let bytes = length(&file);
        let file = BufWriter::with_capacity(BUFFERED_BYTES, file);
        Self { path, file, requested, rotation, bytes, not_before: None }
    }

    /// Continues with the file that has the name now.
    fn reopen(&mut self) -> io::Result<()> {
        let file = append(&self.path)?;
        // Lines that were buffered before belong in the old file.
        self.file.flush()?;
        self.bytes = length(&file);
        self.file = BufWriter::with_capacity(BUFFERED_BYTES, file);
        Ok(())
    }

    fn rotate_before(&mut self, line: usize) {
        let Rotation { max_bytes, keep } = self.rotation;
        let fits = self.bytes.saturating_add(line as u64) <= max_bytes;
        if max_bytes == 0 || self.bytes == 0 || fits {
            return;
        }
        if self.not_before.is_some_and(|at| Instant::now() < at) {
            return;
        }
        // On Windows, a file cannot be renamed while another program has it open without sharing.
        let before = self.file.get_ref().metadata();
        let rotated = rotate(&self.path, keep).and_then(|()| self.reopen());
        if let (Ok(()), Ok(before)) = (&rotated, before) {
            // The administrator chooses who may read the log. Keep the default if the mode cannot be set.
            drop(self.file.get_ref().set_permissions(before.permissions()));
        }
        if let Err(error) = &rotated
            && self.not_before.is_none()
        {
            let line = own_line("log-not-rotated", "cannot rotate the log file; it grows", error);
            self.bytes += line.len() as u64;
            drop(self.file.write_all(&line));
        }
        self.not_before = rotated.is_err().then(|| Instant::now() + ROTATION_PAUSE);
    }
}

impl Write for LogFile {
    /// The writer's thread passes complete lines, so no line is split between two files.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.requested.swap(false, Ordering::SeqCst) {
            // On an error, the old file stays in use.
            drop(self.reopen());
        }
        self.rotate_before(line.len());
        let written = self.file.write(line)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()?;
        // A writer that waits for the next line would have to be woken up by the thread that logs.
        std::thread::sleep(GATHER_PAUSE);
        Ok(())
    }
}

fn length(file: &File) -> u64 {
    file.metadata().map_or(0, |metadata| metadata.len())
}

/// Gives each file the name of the next older one, and removes those that are no longer kept.
fn rotate(path: &Path, keep: u64) -> io::Result<()> {
    // Follow a symbolic link, which may lead to a separate disk for the log.
    let path = match fs::canonicalize(path) {
        // The file was renamed or removed by others. It is created again.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found?,
    };
    let older = |number: u64| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{number}"));
        PathBuf::from(name)
    };
    let mut surplus = keep.saturating_add(1);
    while fs::remove_file(older(surplus)).is_ok() {
        surplus = surplus.saturating_add(1);
    }
    // A name is free if an earlier rotation was interrupted; the files before it keep their names.
    let free = (1..=keep).find(|number| !older(*number).exists()).unwrap_or(keep);
    for number in (1..free).rev() {
        files::rename(&older(number), &older(number + 1))?;
    }
    files::rename(&path, &older(1))
}
