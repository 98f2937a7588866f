//! The results of a command that changes something.

use std::{fmt::Display, io};

use super::output::print;

/// Prints lines of results. If that fails, the work continues, and the failure is reported at the end.
#[derive(Default)]
pub(super) struct Results {
    failed: Option<io::Error>,
}

impl Results {
    /// Prints a line, unless an earlier one could not be printed.
    pub(super) fn print(&mut self, line: impl Display) {
        if self.failed.is_none() {
            self.failed = print(line).err();
        }
    }

    /// Call this after the work. Fails if a result could not be printed; a closed pipe is no failure.
    pub(super) fn end(self) -> io::Result<()> {
        match self.failed {
            Some(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                let what =
                    format!("the command succeeded, but its results cannot be printed: {error}");
                Err(io::Error::new(error.kind(), what))
            }
            _ => Ok(()),
        }
    }
}
