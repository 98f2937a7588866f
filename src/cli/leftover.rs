//! Files and folders that a command makes for itself and that nobody may find afterwards: they hold
//! what only their owner may read. They are removed at the end, also where a signal brings it.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{LazyLock, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context as _;
use data_encoding::HEXLOWER;

use super::output::say;
use crate::datadir::create_private;

/// Those that are there, for who hears the signal.
static LEFTOVERS: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// How long a command may take to end by itself after a signal.
const GRACE: Duration = Duration::from_millis(500);

/// A file or a folder that is removed when this is dropped.
#[derive(Debug)]
pub(super) struct Leftover(PathBuf);

impl Leftover {
    /// A new private folder where temporary files are.
    pub(super) fn folder() -> anyhow::Result<Self> {
        let mut bits = [0; 8];
        ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bits)
            .map_err(|_| anyhow::anyhow!("the system has no random bytes"))?;
        let name = format!("{}-{}", env!("CARGO_PKG_NAME"), HEXLOWER.encode(&bits));
        let folder = std::env::temp_dir().join(name);
        let mut builder = fs::DirBuilder::new();
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        let create = || builder.create(&folder);
        let context = || format!("{} cannot be made (TMPDIR)", folder.display());
        Self::make(&folder, create).with_context(context).map(|((), leftover)| leftover)
    }

    /// A new private file.
    pub(super) fn file(path: &Path) -> io::Result<(fs::File, Self)> {
        Self::make(path, || create_private(path))
    }

    /// Creates it with the list locked, so that the signal thread never misses it.
    fn make<T>(path: &Path, make: impl FnOnce() -> io::Result<T>) -> io::Result<(T, Self)> {
        static LISTENING: LazyLock<Result<(), String>> =
            LazyLock::new(|| listen().map_err(|error| error.to_string()));
        LISTENING.clone().map_err(io::Error::other)?;
        let mut leftovers = LEFTOVERS.lock().unwrap_or_else(PoisonError::into_inner);
        let new = make()?;
        leftovers.push(path.to_owned());
        Ok((new, Self(path.to_owned())))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Leftover {
    fn drop(&mut self) {
        remove(&self.0);
        LEFTOVERS.lock().unwrap_or_else(PoisonError::into_inner).retain(|it| *it != self.0);
    }
}

/// Threads of the engine may still put something there a moment after their store was closed.
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
    say(format_args!("{} cannot be removed: remove it", path.display()));
}

/// Has a thread of its own hear the signals: the others may be writing to somebody who does not read.
fn listen() -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let signal = {
        let _entered = runtime.enter();
        end_signal()?
    };
    let remove_all = || {
        let leftovers = LEFTOVERS.lock().unwrap_or_else(PoisonError::into_inner).clone();
        leftovers.iter().for_each(|path| remove(path));
    };
    let heard = move || {
        runtime.block_on(signal);
        remove_all();
        // A command that handles the signal itself, for example to restore the terminal, ends first.
        std::thread::sleep(GRACE);
        remove_all();
        say("interrupted; nothing is left of what was begun");
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
