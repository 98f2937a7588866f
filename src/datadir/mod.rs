//! The data directory: the lock, the tokens, and the note in which a running service publishes its
//! address.

mod dir;
mod error;
mod look;
mod owner;
mod token;

pub use self::{
    dir::{DataDir, EXPORT, LOCK_PAUSE, take_export},
    error::{DataDirError, Holder, Note, TokenError},
    look::cannot_write,
    owner::may_show,
    token::{read_only_token, read_token, read_tokens},
};
