//! Values of settings: where they are set, and how they are shown in messages.

use std::hash::{DefaultHasher, Hash, Hasher as _};

use figment::{
    Metadata, Profile, Provider, Source,
    value::{Dict, Map, Value},
};

use super::source::ENV_PREFIX;

/// The items of a list, as the environment has it.
pub(super) fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty())
}

/// The origin of a table is that of its first leaf.
pub(super) fn first_tag(value: &Value) -> figment::value::Tag {
    match value {
        Value::Dict(tag, dict) => dict.values().next().map_or(*tag, first_tag),
        other => other.tag(),
    }
}

pub(super) fn place(metadata: &Metadata, key: &str) -> String {
    match &metadata.source {
        Some(Source::File(path)) => path.display().to_string(),
        // The only variable without our prefix.
        _ if !metadata.name.contains(ENV_PREFIX) => "environment variable LOG_LEVEL".into(),
        _ => {
            let name = key.replace('.', "__").to_uppercase();
            format!("environment variable {ENV_PREFIX}{name}")
        }
    }
}

/// A message of the TOML parser without the quoted line, which may contain a secret.
pub(super) fn without_source(message: &str) -> String {
    let is_source = |line: &str| {
        line.trim_start_matches(|c: char| c == ' ' || c.is_ascii_digit()).starts_with('|')
    };
    message.lines().filter(|line| !is_source(line)).collect::<Vec<_>>().join(": ")
}

/// A hash of a secret, to see whether it has changed.
pub(super) fn hash(secret: &(impl Hash + ?Sized)) -> u64 {
    let mut hasher = DefaultHasher::new();
    secret.hash(&mut hasher);
    hasher.finish()
}

/// A text as TOML.
pub(super) fn quoted(text: &str) -> String {
    // A JSON string is a TOML basic string, except for one character that TOML requires to be escaped.
    serde_json::to_string(text).unwrap_or_default().replace('\u{7f}', "\\u007f")
}

pub(super) fn kind(value: &Value) -> String {
    match value {
        Value::String(..) => "a text".into(),
        Value::Char(..) => "a character".into(),
        Value::Bool(_, flag) => format!("{flag}"),
        Value::Num(_, number) => match (number.to_i128(), number.to_f64()) {
            (Some(whole), _) => whole.to_string(),
            (None, Some(fraction)) => fraction.to_string(),
            (None, None) => "a number".into(),
        },
        Value::Empty(..) => "empty".into(),
        Value::Dict(..) => "a section".into(),
        Value::Array(..) => "a list".into(),
    }
}

/// A table of the settings.
pub(super) struct Table {
    pub(super) metadata: Metadata,
    pub(super) values: Dict,
}

impl Provider for Table {
    fn metadata(&self) -> Metadata {
        self.metadata.clone()
    }

    fn data(&self) -> figment::error::Result<Map<Profile, Dict>> {
        Ok(Map::from([(Profile::Default, self.values.clone())]))
    }
}
