//! The signed-in user.

use crate::api::Role;

/// The signed-in user; an extension of each request that [`access`](super::access) permits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct User {
    /// The user name of HTTP Basic, for the log. It is not verified.
    pub(super) name: String,
    pub(super) role: Role,
}
