//! The files and folders next to a store. Their names begin with the name of the store.

use std::path::{Path, PathBuf};

/// The witness.
pub(crate) const WITNESS: &str = ".witness";

/// The backup of what sled may change while it opens the store.
pub(crate) const BACKUP: &str = ".before";

/// The journal of outcomes.
pub(crate) const JOURNAL: &str = ".journal";

/// All suffixes.
pub(crate) const BESIDE: [&str; 3] = [WITNESS, BACKUP, JOURNAL];

/// The path next to the store in `dir` with this suffix.
pub(crate) fn beside(dir: &Path, suffix: &str) -> PathBuf {
    let mut name = dir.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
