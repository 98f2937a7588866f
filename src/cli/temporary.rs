//! Temporary files and folders of a command. Only their owner may read them, so they are removed at the
//! end, even if a signal ends the command.
//!
//! `tempfile::TempDir` is not used, because it does not remove anything on a signal.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{LazyLock, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context as _;
use data_encoding::HEXLOWER;

use super::output::say;
use crate::files::{self, create_private};

/// The files and folders that exist now; read by the signal thread.
static TEMPORARY: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// The variable of the environment that names the system's temporary folder.
pub(super) const TMPDIR: &str = if cfg!(windows) { "TMP" } else { "TMPDIR" };

/// How long a command may take to end after a signal.
const GRACE: Duration = Duration::from_millis(500);

/// A temporary file or folder, which is removed on drop.
#[derive(Debug)]
pub(super) struct Temporary(PathBuf);

impl Temporary {
    /// Creates a private folder in the system's temporary folder.
    pub(super) fn folder() -> anyhow::Result<Self> {
        let mut bits = [0; 8];
        ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bits)
            .map_err(|_| anyhow::anyhow!("the system has no random bytes"))?;
        let name = format!("{}-{}", env!("CARGO_PKG_NAME"), HEXLOWER.encode(&bits));
        let folder = std::env::temp_dir().join(name);
        let create = || files::create_private_folder(&folder);
        let context = || format!("cannot create {} ({TMPDIR})", folder.display());
        Self::make(&folder, create).with_context(context).map(|((), temporary)| temporary)
    }

    /// Creates a private file.
    pub(super) fn file(path: &Path) -> io::Result<(fs::File, Self)> {
        Self::make(path, || create_private(path))
    }

    /// Creates the file or folder while the list is locked, so that the signal thread does not miss it.
    fn make<T>(path: &Path, make: impl FnOnce() -> io::Result<T>) -> io::Result<(T, Self)> {
        static LISTENING: LazyLock<Result<(), String>> =
            LazyLock::new(|| listen().map_err(|error| error.to_string()));
        LISTENING.clone().map_err(io::Error::other)?;
        let mut existing = TEMPORARY.lock().unwrap_or_else(PoisonError::into_inner);
        let new = make()?;
        existing.push(path.to_owned());
        Ok((new, Self(path.to_owned())))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        remove(&self.0);
        TEMPORARY.lock().unwrap_or_else(PoisonError::into_inner).retain(|it| *it != self.0);
    }
}

/// Retries for half a second, because threads of the store may still write there after the store was closed.
fn remove(path: &Path) {
    let once = || match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path).is_ok(),
        Ok(_) => fs::remove_file(path).is_ok(),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    };
    for _ in 0..50 {
        if once() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    say(format_args!("cannot remove {}; remove it manually", path.display()));
}

/// Starts the signal thread. It is a separate thread, because the others may be blocked in a write.
fn listen() -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let signal = {
        let _entered = runtime.enter();
        end_signal()?
    };
    let remove_all = || {
        let existing = TEMPORARY.lock().unwrap_or_else(PoisonError::into_inner).clone();
        existing.iter().for_each(|path| remove(path));
    };
    let heard = move || {
        runtime.block_on(signal);
        remove_all();
        // Give a command that handles the signal itself (to restore the terminal, for example) time to
        // end first.
        std::thread::sleep(GRACE);
        remove_all();
        say("interrupted; temporary files were removed");
        std::process::exit(1);
    };
    std::thread::Builder::new().name("signals".into()).spawn(heard).map(drop)
}

/// Waits for SIGINT, SIGTERM or SIGHUP.
#[cfg(unix)]
fn end_signal() -> io::Result<impl Future<Output = ()> + Send + 'static> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hang_up.recv() => {}
        }
    })
}

/// Waits for Ctrl-C, Ctrl-Break, or the end of the console, the user's session or the system.
#[cfg(windows)]
fn end_signal() -> io::Result<impl Future<Output = ()> + Send + 'static> {
    use tokio::signal::windows::{ctrl_break, ctrl_c, ctrl_close, ctrl_logoff, ctrl_shutdown};
    let (mut c, mut pause, mut close) = (ctrl_c()?, ctrl_break()?, ctrl_close()?);
    let (mut log_off, mut shutdown) = (ctrl_logoff()?, ctrl_shutdown()?);
    Ok(async move {
        tokio::select! {
            _ = c.recv() => {}
            _ = pause.recv() => {}
            _ = close.recv() => {}
            _ = log_off.recv() => {}
            _ = shutdown.recv() => {}
        }
    })
}
