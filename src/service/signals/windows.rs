//! The events of a console. Windows has no signal that could mean a reload: the command `reload` does it, and
//! the service manager's `paramchange`.

use std::{future::pending, io};

use tokio::signal::windows::{
    CtrlBreak, CtrlC, CtrlClose, CtrlLogoff, CtrlShutdown, ctrl_break, ctrl_c, ctrl_close,
    ctrl_logoff, ctrl_shutdown,
};

use super::request::{Request, SHORT_GRACE};

/// The events of the console.
pub(super) struct System {
    c: CtrlC,
    pause: CtrlBreak,
    close: CtrlClose,
    log_off: CtrlLogoff,
    shutdown: CtrlShutdown,
    /// Whether the process belongs to a logged-on user. A service receives the event of every log-off and
    /// ignores it.
    of_user: bool,
}

impl System {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            c: ctrl_c()?,
            pause: ctrl_break()?,
            close: ctrl_close()?,
            log_off: ctrl_logoff()?,
            shutdown: ctrl_shutdown()?,
            of_user: std::env::var_os("SESSIONNAME").is_some(),
        })
    }

    /// Ctrl-C and Ctrl-Break stop the service with the full grace period. The end of the console, of the
    /// user's session or of the system leaves less time.
    pub(super) async fn next(&mut self) -> Request {
        let Self { c, pause, close, log_off, shutdown, of_user } = self;
        let log_off = async {
            if *of_user {
                log_off.recv().await;
            } else {
                pending().await
            }
        };
        tokio::select! {
            _ = c.recv() => Request::Stop { within: None },
            _ = pause.recv() => Request::Stop { within: None },
            _ = close.recv() => Request::Stop { within: Some(SHORT_GRACE) },
            () = log_off => Request::Stop { within: Some(SHORT_GRACE) },
            _ = shutdown.recv() => Request::Stop { within: Some(SHORT_GRACE) },
        }
    }

    /// Ctrl-C or Ctrl-Break.
    pub(super) async fn interrupted(&mut self) {
        tokio::select! {
            _ = self.c.recv() => {}
            _ = self.pause.recv() => {}
        }
    }
}
