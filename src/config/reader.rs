//! Reads settings key by key from TOML and the environment, and collects all errors instead of stopping
//! at the first.

use std::{fmt::Display, path::PathBuf, time::Duration};

use figment::{
    Figment, Source,
    value::{Dict, Value},
};
use serde::de::DeserializeOwned;

use super::{
    effective::{Effective, Hidden},
    fault::Fault,
    values::{Table, first_tag, hash, items, kind, place, quoted, without_source},
};
use crate::callback::SecretUrl;

/// The settings that are being read.
pub(super) struct Reader {
    figment: Figment,
    pub(super) faults: Vec<Fault>,
    pub(super) effective: Vec<Effective>,
    pub(super) warnings: Vec<Fault>,
}

impl Reader {
    pub(super) fn new(figment: Figment) -> Self {
        Self { figment, faults: Vec::new(), effective: Vec::new(), warnings: Vec::new() }
    }

    /// Records an error.
    pub(super) fn fault(&mut self, key: &str, message: impl Into<String>) {
        let place = self.place(key);
        self.faults.push(Fault { key: key.into(), place, message: message.into() });
    }

    /// Records a warning: a valid setting that is probably a mistake.
    pub(super) fn warn(&mut self, key: &str, message: impl Into<String>) {
        let place = self.place(key);
        self.warnings.push(Fault { key: key.into(), place, message: message.into() });
    }

    /// The file in which a key is set.
    pub(super) fn file(&self, key: &str) -> Option<PathBuf> {
        let value = self.figment.find_value(key).ok()?;
        match &self.figment.get_metadata(value.tag())?.source {
            Some(Source::File(path)) => Some(path.clone()),
            _ => None,
        }
    }

    fn place(&self, key: &str) -> Option<String> {
        let value = self.figment.find_value(key).ok()?;
        self.figment.get_metadata(value.tag()).map(|it| place(it, key))
    }

    /// The value of a key as a `T`, or `None` if it is not set or wrong.
    fn value<T: DeserializeOwned>(&mut self, key: &'static str, wanted: &str) -> Option<T> {
        let value = self.figment.find_value(key).ok()?;
        match value.deserialize() {
            Ok(found) => Some(found),
            Err(_) => {
                self.fault(key, format!("is {}, and has to be {wanted}", kind(&value)));
                None
            }
        }
    }

    /// Records the value in effect.
    pub(super) fn note(&mut self, key: &'static str, value: Option<String>) {
        let place = self.place(key);
        let hidden = Hidden::default();
        self.effective.push(Effective { key, value, place, allowed: None, hidden });
    }

    /// Adds a hash of what the noted value of a key does not show.
    pub(super) fn hide(&mut self, key: &str, hash: u64) {
        if let Some(noted) = self.effective.iter_mut().rev().find(|it| it.key == key) {
            noted.hidden.add(hash);
        }
    }

    /// Notes a URL that may have a password as it is shown.
    pub(super) fn show(&mut self, key: &str, shown: &SecretUrl) {
        if let Some(noted) = self.effective.iter_mut().find(|it| it.key == key) {
            noted.value = Some(quoted(&shown.to_string()));
        }
        self.hide(key, hash(shown.reveal()));
    }

    /// A reader of the settings in the table of a key; `None` if the value is not a table.
    pub(super) fn within_table_of(&self, key: &str) -> Option<Self> {
        self.within_table(&self.figment.find_value(key).ok()?)
    }

    /// Takes over the faults and warnings of a reader within `key`.
    pub(super) fn adopt(&mut self, key: &str, other: Self) {
        let named = |mut fault: Fault| {
            fault.key = format!("{key}.{}", fault.key);
            fault
        };
        self.faults.extend(other.faults.into_iter().map(named));
        self.warnings.extend(other.warnings.into_iter().map(named));
    }

    /// A reader of the settings in a table; `None` if the value is not a table.
    pub(super) fn within_table(&self, value: &Value) -> Option<Self> {
        let Value::Dict(..) = value else { return None };
        // Its tags belong to the other reader.
        let Ok(Value::Dict(_, values)) = Value::serialize(value) else { return None };
        let metadata = self.figment.get_metadata(first_tag(value)).cloned().unwrap_or_default();
        Some(Self::new(Figment::from(Table { metadata, values })))
    }

    /// Records the value in effect, and the allowed range.
    fn note_limited(&mut self, key: &'static str, value: String, allowed: String) {
        self.note(key, Some(value));
        if let Some(noted) = self.effective.last_mut() {
            noted.allowed = Some(allowed);
        }
    }

    /// A value between `least` and `most`; `wanted` describes it in errors.
    fn within<T>(&mut self, key: &'static str, default: T, least: T, most: T, wanted: &str) -> T
    where
        T: DeserializeOwned + PartialOrd + Display,
    {
        match self.value(key, wanted) {
            Some(found) if (least..=most).contains(&found) => found,
            Some(found) => {
                self.fault(key, format!("is {found}, and has to be {wanted}"));
                default
            }
            None => default,
        }
    }

    /// An integer between `least` and `most`.
    pub(super) fn number(&mut self, key: &'static str, default: u64, least: u64, most: u64) -> u64 {
        let wanted = format!("a whole number from {least} to {most}");
        let found = self.within(key, default, least, most, &wanted);
        self.note_limited(key, found.to_string(), format!("{least} to {most}"));
        found
    }

    /// A number between `least` and `most` that counts things in memory.
    pub(super) fn size(
        &mut self,
        key: &'static str,
        default: usize,
        least: u64,
        most: u64,
    ) -> usize {
        let found = self.number(key, default as u64, least, most);
        usize::try_from(found).unwrap_or(default)
    }

    /// A number between `least` and `most`, with a fraction.
    pub(super) fn fraction(
        &mut self,
        key: &'static str,
        default: f64,
        least: f64,
        most: f64,
    ) -> f64 {
        let wanted = format!("a number from {least} to {most}");
        let found = self.within(key, default, least, most, &wanted);
        self.note_limited(key, format!("{found:?}"), format!("{least} to {most}"));
        found
    }

    /// `true` or `false`.
    pub(super) fn flag(&mut self, key: &'static str, default: bool) -> bool {
        let found = self.value(key, "true or false").unwrap_or(default);
        self.note(key, Some(found.to_string()));
        found
    }

    /// A duration such as `15m`, from `least` to a hundred years.
    pub(super) fn duration(
        &mut self,
        key: &'static str,
        default: Duration,
        least: Duration,
    ) -> Duration {
        const MOST: Duration = Duration::from_hours(100 * 366 * 24);
        let wanted = "a duration such as \"5s\", \"15m\" or \"72h\"";
        let found = match self.value::<String>(key, wanted) {
            Some(text) => match humantime::parse_duration(&text) {
                Ok(found) if (least..=MOST).contains(&found) => found,
                Ok(_) => {
                    let least = humantime::format_duration(least);
                    self.fault(
                        key,
                        format!(
                            "is {text:?}, and has to be at least {least} and at most 100 years"
                        ),
                    );
                    default
                }
                Err(_) => {
                    self.fault(key, format!("is {text:?}, and has to be {wanted}"));
                    default
                }
            },
            None => default,
        };
        let shown = format!("\"{}\"", humantime::format_duration(found));
        let least = humantime::format_duration(least);
        self.note_limited(key, shown, format!("{least} to 100 years"));
        found
    }

    /// An optional text. Numbers and booleans, as the environment has them, are accepted as texts.
    pub(super) fn text(&mut self, key: &'static str) -> Option<String> {
        let found = self.text_unnoted(key);
        let shown = found.as_ref().map(|text| quoted(text));
        self.note(key, shown);
        found
    }

    /// A text with a default.
    pub(super) fn text_or(&mut self, key: &'static str, default: &str) -> String {
        let found = self.text_unnoted(key).unwrap_or_else(|| default.to_owned());
        self.note(key, Some(quoted(&found)));
        found
    }

    /// A text with a default, which may also be empty.
    pub(super) fn text_or_nothing(&mut self, key: &'static str, default: &str) -> Option<String> {
        if matches!(self.figment.find_value(key), Ok(Value::String(_, text)) if text.is_empty()) {
            self.note(key, Some(quoted("")));
            return None;
        }
        Some(self.text_or(key, default))
    }

    fn text_unnoted(&mut self, key: &'static str) -> Option<String> {
        let value = self.figment.find_value(key).ok()?;
        let text = match &value {
            Value::String(_, text) => Some(text.clone()),
            // The lossy conversion also accepts signed types, which TOML uses.
            Value::Num(_, number) => number.to_u128_lossy().map(|it| it.to_string()),
            Value::Bool(_, flag) => Some(flag.to_string()),
            _ => None,
        };
        let Some(text) = text else {
            self.fault(key, format!("is {}, and has to be a text", kind(&value)));
            return None;
        };
        if text.is_empty() {
            self.fault(key, "is empty; leave it out for the default");
            return None;
        }
        Some(text)
    }

    /// A list of texts. A single text, as the environment has it, is split at commas.
    pub(super) fn texts(&mut self, key: &'static str) -> Option<Vec<String>> {
        match self.figment.find_value(key).ok()? {
            Value::String(_, text) => Some(items(&text).map(str::to_owned).collect()),
            _ => self.value(key, "a list of texts"),
        }
    }

    /// A list of whole numbers. In the environment, they are separated by commas.
    pub(super) fn numbers(&mut self, key: &'static str) -> Option<Vec<u64>> {
        const WANTED: &str = "a list of whole numbers such as [400, 410]";
        let value = self.figment.find_value(key).ok()?;
        let text = match &value {
            Value::String(_, text) => text.clone(),
            // A variable with one number.
            Value::Num(_, number) => {
                number.to_u128_lossy().map_or_else(|| kind(&value), |it| it.to_string())
            }
            _ => return self.value(key, WANTED),
        };
        let numbers: Result<Vec<u64>, _> = items(&text).map(str::parse).collect();
        if numbers.is_err() {
            self.fault(key, format!("is {text:?}, and has to be {WANTED}"));
        }
        numbers.ok()
    }

    /// The tables of a section whose keys are names.
    pub(super) fn tables(&mut self, key: &'static str) -> Dict {
        match self.figment.find_value(key) {
            Ok(Value::Dict(_, tables)) => tables,
            Ok(other) => {
                self.fault(key, format!("is {}, and has to be a section", kind(&other)));
                Dict::new()
            }
            Err(_) => Dict::new(),
        }
    }

    /// Whether a key is set.
    pub(super) fn is_set(&self, key: &str) -> bool {
        self.figment.find_value(key).is_ok()
    }

    /// Records an error for every key that is set and was never read.
    pub(super) fn reject_unknown(&mut self) {
        let known: Vec<&'static str> = self.effective.iter().map(|it| it.key).collect();
        match self.figment.extract::<Dict>() {
            Ok(all) => self.reject_unknown_in("", &all, &known),
            Err(error) => {
                for one in error {
                    let place = one.metadata.as_ref().map(|it| place(it, ""));
                    self.faults.push(Fault {
                        key: "settings".into(),
                        place,
                        message: without_source(&one.kind.to_string()),
                    });
                }
            }
        }
    }

    fn reject_unknown_in(&mut self, section: &str, dict: &Dict, known: &[&'static str]) {
        for (name, value) in dict {
            let key = if section.is_empty() { name.clone() } else { format!("{section}.{name}") };
            if known.contains(&key.as_str()) {
                continue;
            }
            let is_section = known
                .iter()
                .any(|it| it.strip_prefix(&key).is_some_and(|rest| rest.starts_with('.')));
            match (is_section, value) {
                (true, Value::Dict(_, inner)) => self.reject_unknown_in(&key, inner, known),
                (true, other) => {
                    self.faults.push(Fault {
                        place: self.figment.get_metadata(other.tag()).map(|it| place(it, &key)),
                        message: format!("is {}, and has to be a section", kind(other)),
                        key,
                    });
                }
                (false, value) => {
                    let near = known
                        .iter()
                        .map(|it| (strsim::jaro_winkler(it, &key), it))
                        .filter(|(likeness, _)| *likeness > 0.85)
                        .max_by(|(a, _), (b, _)| a.total_cmp(b));
                    let message = match near {
                        Some((_, near)) => format!("unknown setting; did you mean `{near}`?"),
                        None => "unknown setting; config.example.toml lists all settings".into(),
                    };
                    let tag = first_tag(value);
                    let place = self.figment.get_metadata(tag).map(|it| place(it, &key));
                    self.faults.push(Fault { key, place, message });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use figment::providers::{Format as _, Toml};

    use super::*;

    fn reader(toml: &str) -> Reader {
        Reader::new(Figment::new().merge(Toml::string(toml)))
    }

    #[test]
    fn a_number_instead_of_a_text_is_accepted_or_an_error() {
        for (toml, text) in [("a = 7", "7"), ("a = 0", "0"), ("a = true", "true")] {
            let mut reader = reader(toml);
            assert_eq!(reader.text("a").as_deref(), Some(text), "{toml}");
            assert_eq!(reader.faults, [], "{toml}");
        }
        for (toml, says) in [("a = -7", "is -7, and has to be a text"), ("a = 1.5", "is 1.5")] {
            let mut reader = reader(toml);
            assert_eq!(reader.text_or("a", "default"), "default", "{toml}");
            assert!(reader.faults[0].message.contains(says), "{:?}", reader.faults);
        }
    }

    #[test]
    fn every_text_is_shown_as_valid_toml() {
        let text: String = ('\0'..'\u{1ff}').collect();
        let mut reader = reader(&format!("a = {}", quoted(&text)));
        assert_eq!(reader.text("a"), Some(text));
    }
}
