//! Settings: a TOML file and the environment become one checked [`Config`].
//!
//! [`source`] reads the file, [`reader`] reads single values and collects all errors, [`sections`],
//! [`destinations`] and [`files`] read settings that consist of several values, and [`settings`] combines them. Keys and limits
//! are here; each module defines its `Settings` with their defaults.

mod destinations;
mod effective;
mod explain;
mod fault;
mod files;
mod nats;
mod notify;
mod postgres;
mod reader;
mod sections;
mod settings;
mod source;
mod values;

pub use self::{
    effective::Effective,
    explain::{Explained, Explanation},
    fault::{ConfigError, Fault},
    settings::Config,
    source::{DEFAULT_FILE, ENV_PREFIX},
};

#[cfg(windows)]
pub use self::source::common_folder;
