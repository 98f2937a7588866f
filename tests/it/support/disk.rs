//! A disk that fails when it is told to: the store's own files on it, through `disk.c`.

use std::fs;

use super::{Service, preloaded};

impl Service {
    /// From the next start on, the store is on a disk that can fail.
    pub(crate) fn put_on_a_disk_that_can_fail(&mut self) {
        self.put_on_a_disk_that_can_fail_at("data/outbox");
    }

    /// The same for the files whose path begins with this.
    pub(crate) fn put_on_a_disk_that_can_fail_at(&mut self, files: &str) {
        let path = |name: &str| self.path(name).to_str().unwrap().to_owned();
        self.env = vec![
            ("LD_PRELOAD", preloaded("disk.c")),
            ("DISK_FILES", path(files)),
            ("DISK_FAULT", path("fault")),
        ];
    }

    /// What its processes have in their environment.
    pub(crate) fn env(&self) -> impl Iterator<Item = (&str, &str)> {
        self.env.iter().map(|(name, value)| (*name, value.as_str()))
    }

    /// From now on this operation fails in this way, such as `fdatasync EIO`.
    pub(crate) fn fail_disk(&self, rule: &str) {
        fs::write(self.path("fault.new"), rule).unwrap();
        fs::rename(self.path("fault.new"), self.path("fault")).unwrap();
    }

    /// From now on nothing fails.
    pub(crate) fn mend_disk(&self) {
        fs::remove_file(self.path("fault")).unwrap();
    }
}
