//! The job's parameters, only one of which is used.

use std::fmt;

use serde::{Deserialize, Serialize, de};

use crate::callback::SecretUrl;

/// The job parameter that requests a callback, as spelled in DPF's documentation.
pub const URL_PARAMETER: &str = "DpfControlCallbackUrl";

/// The values of the job's parameters named `DpfControlCallbackUrl`.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Parameters {
    pub(super) urls: Vec<SecretUrl>,
}

impl Parameters {
    /// Parameters with this callback URL and nothing else.
    pub fn with_url(url: impl Into<String>) -> Self {
        Self { urls: vec![url.into().into()] }
    }

    /// Adds one `NAME=VALUE`; only the callback URL is kept.
    pub fn add(&mut self, name: &str, value: &str) {
        if is_url_parameter(name) && !value.is_empty() {
            self.urls.push(value.to_owned().into());
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.urls.is_empty()
    }
}

impl Serialize for Parameters {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.urls.iter().map(|url| (URL_PARAMETER, url)))
    }
}

impl<'de> Deserialize<'de> for Parameters {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Parameters;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of job parameters")
            }

            fn visit_unit<E: de::Error>(self) -> Result<Parameters, E> {
                Ok(Parameters::default())
            }

            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Parameters, A::Error> {
                let mut found = Parameters::default();
                while let Some(name) = map.next_key::<std::borrow::Cow<'_, str>>()? {
                    if is_url_parameter(&name) {
                        let value = map.next_value::<Option<String>>()?;
                        found.add(URL_PARAMETER, value.as_deref().unwrap_or_default());
                    } else {
                        map.next_value::<de::IgnoredAny>()?;
                    }
                }
                Ok(found)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// DPF's "smart" notation: upper and lower case are the same, underscores do not count.
fn is_url_parameter(name: &str) -> bool {
    name.bytes()
        .filter(|byte| *byte != b'_')
        .map(|byte| byte.to_ascii_lowercase())
        .eq(URL_PARAMETER.bytes().map(|byte| byte.to_ascii_lowercase()))
}
