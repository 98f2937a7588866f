//! The settings in effect.

use std::fmt;

/// A setting in effect.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Effective {
    /// The key.
    pub key: &'static str,
    /// The value as TOML; `None` if there is none, `"***"` for a secret.
    pub value: Option<String>,
    /// The place where it is set; `None` for the default.
    pub place: Option<String>,
    /// The range of allowed values, for numbers and durations.
    pub allowed: Option<String>,
    /// A hash of what `value` does not show: secrets, and the content of files.
    pub(super) hidden: Hidden,
}

/// A hash of what is not shown, to see whether it has changed.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) struct Hidden(u64);

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Effective {
    /// Whether its value differs from that of `other`, shown or not.
    pub fn differs(&self, other: &Self) -> bool {
        (&self.value, self.hidden) != (&other.value, other.hidden)
    }
}

impl Hidden {
    pub(super) fn add(&mut self, hash: u64) {
        self.0 = self.0.rotate_left(1) ^ hash;
    }
}
