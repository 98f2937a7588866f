//! Who has signed in.

use crate::api::Role;

/// Who has signed in; an extension of each request that [`access`](super::access) lets through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Visitor {
    /// The user name of HTTP Basic, for the log. Anybody can choose it.
    pub(super) name: String,
    pub(super) role: Role,
}
