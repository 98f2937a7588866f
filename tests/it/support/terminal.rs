//! A command on a terminal of a given size.

use std::{
    fs::File,
    io::Read as _,
    path::Path,
    process::{Child, ExitStatus},
    sync::{Arc, Mutex},
};

use rustix::{
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcsetwinsize},
};

use super::{binary, eventually};

/// A command that runs on a terminal.
pub(crate) struct Terminal {
    child: Child,
    printed: Arc<Mutex<Vec<u8>>>,
    reader: Option<std::thread::JoinHandle<()>>,
}

impl Terminal {
    /// Starts a command in `folder` on a terminal with this many columns, and 50 lines.
    pub(crate) fn start(folder: &Path, columns: u16, args: &[&str], env: &[(&str, &str)]) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let ours = openpt(flags).unwrap();
        grantpt(&ours).unwrap();
        unlockpt(&ours).unwrap();
        let name = ptsname(&ours, Vec::new()).unwrap().into_string().unwrap();
        let theirs = File::options().read(true).write(true).open(name).unwrap();
        let size = Winsize { ws_row: 50, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&theirs, size).unwrap();
        let child = binary()
            .args(args)
            .current_dir(folder)
            .env("TERM", "xterm")
            .env_remove("NO_COLOR")
            .env_remove("CLICOLOR")
            .envs(env.iter().copied())
            .stdin(theirs.try_clone().unwrap())
            .stdout(theirs.try_clone().unwrap())
            .stderr(theirs)
            .spawn()
            .unwrap();
        let printed = Arc::new(Mutex::new(Vec::new()));
        let reader = std::thread::spawn({
            let printed = Arc::clone(&printed);
            move || {
                let mut ours = File::from(ours);
                let mut buffer = [0; 4096];
                // An error means that the other side is closed.
                while let Ok(n @ 1..) = ours.read(&mut buffer) {
                    printed.lock().unwrap().extend_from_slice(&buffer[..n]);
                }
            }
        });
        Self { child, printed, reader: Some(reader) }
    }

    /// Runs a command to its end and returns its output.
    pub(crate) fn run(folder: &Path, columns: u16, args: &[&str], env: &[(&str, &str)]) -> String {
        let mut terminal = Self::start(folder, columns, args, env);
        let status = terminal.wait();
        let printed = terminal.printed();
        assert!(status.success(), "{args:?}: {printed}");
        printed
    }

    /// The output so far.
    pub(crate) fn printed(&self) -> String {
        String::from_utf8_lossy(&self.printed.lock().unwrap()).replace("\r\n", "\n")
    }

    /// Waits until something was printed.
    pub(crate) fn wait_for(&self, what: &str) {
        eventually(what, || self.printed().contains(what).then_some(()));
    }

    /// Ctrl-C.
    pub(crate) fn interrupt(&self) {
        let pid = self.child.id().to_string();
        let status = std::process::Command::new("kill").args(["-INT", &pid]).status().unwrap();
        assert!(status.success());
    }

    /// Waits for its end and for all of its output.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let status = eventually("the command ends", || self.child.try_wait().unwrap());
        self.reader.take().unwrap().join().unwrap();
        status
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
