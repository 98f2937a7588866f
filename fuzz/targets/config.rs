//! Settings: any bytes in a file give settings or faults, each with a key or a place; no secret
//! is in what is said; what is set is what is in force; and what is in force, written down as
//! TOML, gives the same settings again.

#![no_main]

use std::{fs, path::PathBuf, sync::LazyLock};

use libfuzzer_sys::fuzz_target;
use seal_dpf_urlcallback::config::{Config, ConfigError};
use toml::Value;

/// Texts that begin a secret; what comes behind them is the fuzzer's.
const SECRETS: [&str; 2] =
    ["signing.secrets = [\"whsec_Z2VoZWlt", "egress.proxy = \"http://user:Z2VoZWlt@"];

static FILE: LazyLock<PathBuf> = LazyLock::new(|| {
    std::env::temp_dir().join(format!("urlcallback-fuzz-config-{}.toml", std::process::id()))
});

fn load(text: &[u8]) -> Result<Config, ConfigError> {
    fs::write(&*FILE, text).expect("the folder for temporary files can be written");
    Config::load(Some(&FILE))
}

/// Settings as TOML, but those that are shown as `***`.
fn in_force(config: &Config) -> String {
    config
        .effective
        .iter()
        .filter_map(|it| Some((it.key, it.value.as_deref()?)))
        .filter(|(_, value)| !value.contains("***"))
        .map(|(key, value)| format!("{key} = {value}\n"))
        .collect()
}

/// Every number and flag that is set is the one in force.
fn compare(config: &Config, section: &str, table: &toml::Table) {
    for (name, value) in table {
        let key = if section.is_empty() { name.clone() } else { format!("{section}.{name}") };
        let Some(found) = config.effective.iter().find(|it| it.key == key) else {
            if let Value::Table(inner) = value {
                compare(config, &key, inner);
            }
            continue;
        };
        let found = found.value.as_deref().unwrap_or_default();
        let number = || found.trim_matches('"').parse::<f64>().ok();
        match value {
            Value::Integer(set) => assert_eq!(number(), Some(*set as f64), "{key} = {set}"),
            Value::Float(set) => assert_eq!(number(), Some(*set), "{key} = {set}"),
            Value::Boolean(set) => assert_eq!(found.trim_matches('"'), set.to_string(), "{key}"),
            _ => {}
        }
    }
}

fuzz_target!(|text: &[u8]| {
    match load(text) {
        Err(error) => {
            assert!(!error.0.is_empty());
            for fault in &error.0 {
                assert!(!fault.key.is_empty() || fault.place.is_some(), "{fault:?}");
                assert!(!fault.message.is_empty(), "{fault:?}");
                assert!(error.to_string().contains(&fault.message), "{fault:?}");
            }
        }
        Ok(config) => {
            let text = std::str::from_utf8(text).expect("TOML is UTF-8");
            compare(&config, "", &text.parse().expect("it is TOML"));
            let first = in_force(&config);
            match load(first.as_bytes()) {
                Ok(again) => assert_eq!(in_force(&again), first),
                Err(error) => panic!("{first}\nis in force, and not taken: {error}"),
            }
        }
    }
    let secret = SECRETS[text.len() % SECRETS.len()];
    let said = match load(&[secret.as_bytes(), text].concat()) {
        Ok(config) => format!("{config:?}"),
        Err(error) => format!("{error} {error:?}"),
    };
    let own = text.windows(8).any(|part| part == b"Z2VoZWlt");
    assert!(own || !said.contains("Z2VoZWlt"), "{said}");
});
