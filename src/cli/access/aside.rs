//! A folder for what a command puts aside for itself and nobody may find afterwards: it is private,
//! and removed at the end, also where a signal brings it.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{LazyLock, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context as _;
use data_encoding::HEXLOWER;

/// The folders that are there, for who hears the signal.
static FOLDERS: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// How long a command may take to end in its own way once a signal has come.
const GRACE: Duration = Duration::from_millis(500);

/// A private folder, until this is dropped.
pub(super) struct Aside(PathBuf);

impl Aside {
    /// Makes one where temporary files are.
    pub(super) fn new() -> anyhow::Result<Self> {
        static LISTENING: LazyLock<io::Result<()>> = LazyLock::new(listen);
        if let Err(error) = &*LISTENING {
            anyhow::bail!("the system's signals cannot be heard: {error}");
        }
        let mut bits = [0; 8];
        ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bits)
            .map_err(|_| anyhow::anyhow!("the system has no random bytes"))?;
        let name = format!("{}-{}", env!("CARGO_PKG_NAME"), HEXLOWER.encode(&bits));
        let folder = std::env::temp_dir().join(name);
        let mut folders = FOLDERS.lock().unwrap_or_else(PoisonError::into_inner);
        let mut builder = fs::DirBuilder::new();
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder
            .create(&folder)
            .with_context(|| format!("{} cannot be made (TMPDIR)", folder.display()))?;
        folders.push(folder.clone());
        Ok(Self(folder))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        remove(&self.0);
        FOLDERS.lock().unwrap_or_else(PoisonError::into_inner).retain(|it| *it != self.0);
    }
}

/// Threads of the engine may still put something there a moment after their store was closed.
fn remove(folder: &Path) {
    let gone = |result: io::Result<()>| match result {
        Ok(()) => true,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    };
    for _ in 0..50 {
        if gone(fs::remove_dir_all(folder)) {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    super::super::say(format_args!("{} cannot be removed: remove it", folder.display()));
}

/// Has a thread of its own hear the signals: the others may be writing to somebody who does not read.
fn listen() -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let signal = {
        let _entered = runtime.enter();
        end_signal()?
    };
    let heard = move || {
        runtime.block_on(signal);
        let folders = || FOLDERS.lock().unwrap_or_else(PoisonError::into_inner).clone();
        folders().iter().for_each(|folder| remove(folder));
        // Who has a terminal or a file of his own to put right hears the signal as well.
        std::thread::sleep(GRACE);
        folders().iter().for_each(|folder| remove(folder));
        std::process::exit(1);
    };
    std::thread::Builder::new().name("signals".into()).spawn(heard).map(drop)
}

/// Comes when the user or the system wants the end.
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

/// Comes when the user wants the end.
#[cfg(not(unix))]
fn end_signal() -> io::Result<impl Future<Output = ()> + Send + 'static> {
    Ok(async {
        drop(tokio::signal::ctrl_c().await);
    })
}
