//! The results of a command that changes something.

use std::{fmt::Display, io};

use super::output::print;

/// Prints lines of results. Where that fails, the work goes on: what was begun is done to its end, and
/// only then is it said that the results could not be printed.
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

    /// After the work: whether all results were printed. A reader that has left has seen enough.
    pub(super) fn end(self) -> io::Result<()> {
        match self.failed {
            Some(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                let what = format!("the work is done, but its results cannot be printed: {error}");
                Err(io::Error::new(error.kind(), what))
            }
            _ => Ok(()),
        }
    }
}
