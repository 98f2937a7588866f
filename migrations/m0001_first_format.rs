//! Format 1: the first. An empty store gets the key of its ids.

use sled::Tree;

use crate::outbox::{OutboxError, error::Result, record};

/// See `outbox/sled/migrate.rs` for what a migration can rely on.
pub(super) fn up(tree: &Tree, _sync: &dyn Fn() -> Result<()>) -> Result<()> {
    let mut salt = [0_u8; 16];
    ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut salt)
        .map_err(|_| OutboxError::Engine("the system has no random bytes".into()))?;
    tree.insert(super::super::keys::SALT, record::encode(&salt)?)?;
    Ok(())
}
