//! The data directory: the lock, the token, and the note in which a running service publishes its
//! address.

mod dir;
mod error;
mod files;
mod look;
mod owner;

pub use self::{
    dir::{DataDir, EXPORT, LOCK_PAUSE, read_token, take_export},
    error::{DataDirError, Holder, Note},
    files::create_private,
    look::cannot_write,
    owner::may_show,
};
