//! The files and folders next to a store. Their names begin with the name of the store.

use std::path::{Path, PathBuf};

/// The witness.
pub(crate) const WITNESS: &str = ".witness";

/// The backup of what sled may change while it opens the store.
pub(crate) const BACKUP: &str = ".before";

/// All suffixes.
pub(crate) const BESIDE: [&str; 2] = [WITNESS, BACKUP];

/// The path next to the store in `dir` with this suffix.
pub(crate) fn beside(dir: &Path, suffix: &str) -> PathBuf {
    let mut name = dir.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
