//! The data directory: the lock that makes it one process's own, the token, and the note in which a
//! running service says where it listens.

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
