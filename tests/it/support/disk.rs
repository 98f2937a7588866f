//! A disk that fails on command, for the files of the store (`disk.c`).

use std::fs;

use super::{Service, preloaded};

impl Service {
    /// From the next start, the store is on such a disk.
    pub(crate) fn put_on_a_disk_that_can_fail(&mut self) {
        self.put_on_a_disk_that_can_fail_at("data/outbox");
    }

    /// The same for files whose path begins with this.
    pub(crate) fn put_on_a_disk_that_can_fail_at(&mut self, files: &str) {
        let path = |name: &str| self.path(name).to_str().unwrap().to_owned();
        self.env = vec![
            ("LD_PRELOAD", preloaded("disk.c")),
            ("DISK_FILES", path(files)),
            ("DISK_FAULT", path("fault")),
        ];
    }

    /// Environment of the processes.
    pub(crate) fn env(&self) -> impl Iterator<Item = (&str, &str)> {
        self.env.iter().map(|(name, value)| (*name, value.as_str()))
    }

    /// Makes an operation fail, such as `fdatasync EIO`.
    pub(crate) fn fail_disk(&self, rule: &str) {
        fs::write(self.path("fault.new"), rule).unwrap();
        fs::rename(self.path("fault.new"), self.path("fault")).unwrap();
    }

    /// Ends all faults.
    pub(crate) fn mend_disk(&self) {
        fs::remove_file(self.path("fault")).unwrap();
    }
}
