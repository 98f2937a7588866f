//! Settings: a TOML file and the environment become one checked [`Config`].
//!
//! [`source`] reads the file, [`reader`] takes single values and gathers every fault,
//! [`sections`] and [`files`] read what takes more than one value, and [`settings`] puts it all
//! together. Every module defines the settings that it takes; the keys, defaults and limits are here.

mod fault;
mod files;
mod reader;
mod sections;
mod settings;
mod source;

pub use self::{
    fault::{ConfigError, Fault},
    reader::Effective,
    settings::Config,
    source::{DEFAULT_FILE, ENV_PREFIX},
};
