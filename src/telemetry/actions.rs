//! The class of each `event.action`: the categorization fields of the Elastic Common Schema.

/// A class of actions.
pub(super) struct Class {
    /// `event.category`, one of the values that ECS allows.
    pub(super) category: &'static str,
    /// `event.type`, one of those that ECS expects for the category.
    pub(super) r#type: &'static str,
    actions: &'static [&'static str],
}

const fn class(
    category: &'static str,
    r#type: &'static str,
    actions: &'static [&'static str],
) -> Class {
    Class { category, r#type, actions }
}

/// The frequent ones come first.
const CLASSES: &[Class] = &[
    class("api", "creation", &["callback-accepted"]),
    class("web", "access", &["callback-delivered", "page-action"]),
    class("web", "error", &["callback-retry", "callback-failed", "client-failed"]),
    class("api", "info", &["event-duplicate", "event-ignored", "notices-stored"]),
    class("api", "denied", &["event-refused", "request-forbidden"]),
    class(
        "api",
        "change",
        &[
            "callback-cancelled",
            "callbacks-cancelled",
            "callbacks-replayed",
            "callbacks-retried",
            "destination-paused",
            "destination-resumed",
        ],
    ),
    class("authentication", "info", &["token-failed"]),
    class("configuration", "change", &["settings-reloaded"]),
    class("configuration", "info", &["settings-warning"]),
    class("database", "change", &["callbacks-purged", "store-migrating"]),
    class(
        "database",
        "error",
        &[
            "callback-unreadable",
            "claim-dropped",
            "claim-failed",
            "settle-failed",
            "store-away",
            "store-stopped",
            "store-unreplicated",
            "upkeep-failed",
        ],
    ),
    class("database", "info", &["commit-slow", "store-doubted", "store-mended"]),
    class("file", "info", &["log-not-rotated", "log-reopened", "note-failed"]),
    class("host", "change", &["clock-jumped"]),
    class("network", "end", &["nats-disconnected", "store-disconnected"]),
    class(
        "network",
        "info",
        &[
            "destination-closed",
            "destination-open",
            "nats-dead-letter",
            "nats-lame-duck",
            "nats-pulling",
            "nats-standby",
            "nats-waiting",
            "probe-failed",
        ],
    ),
    class("network", "start", &["nats-connected", "store-connected"]),
    class("process", "end", &["service-stopped"]),
    class(
        "process",
        "info",
        &[
            "api-panic",
            "delivery-draining",
            "page-panic",
            "service-stopping",
            "shards-taken-over",
            "stop-late",
            "watchdog",
        ],
    ),
    class("process", "start", &["service-started"]),
];

/// The class of an action.
pub(super) fn class_of(action: &str) -> Option<&'static Class> {
    CLASSES.iter().find(|class| class.actions.contains(&action))
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use serde_json::Value;

    use super::*;

    #[test]
    fn categories_and_types_are_those_of_ecs() {
        let fields: Value = serde_json::from_str(include_str!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/it/log/ecs.json"
        )))
        .unwrap();
        let allowed = &fields["fields"]["event.category"]["allowed"];
        for Class { category, r#type, .. } in CLASSES {
            let expected = allowed[category].as_array();
            let expected = expected.unwrap_or_else(|| panic!("{category} is not a category"));
            assert!(expected.contains(&Value::from(*r#type)), "{category} has no type {type}");
        }
    }

    /// The actions in the source: `event.action = "…"`, and the first argument of a macro that has it.
    fn actions(folder: &Path, found: &mut BTreeSet<String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                actions(&path, found);
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            let is_macro = text.contains("event.action = $action");
            for line in text.lines().map(str::trim) {
                let named = ["event.action = \"", "own_line(\""].map(|it| line.split_once(it));
                let literal = match named.into_iter().flatten().next() {
                    Some((_, rest)) => rest.split('"').next(),
                    None if is_macro => line.split('"').nth(1).filter(|_| !line.starts_with("//")),
                    None => None,
                };
                let is_action = |text: &&str| {
                    let plain = |c: char| c.is_ascii_lowercase() || c == '-';
                    text.contains('-') && text.chars().all(plain)
                };
                let whole = literal.filter(|it| *it == "watchdog").or(literal.filter(is_action));
                found.extend(whole.map(str::to_owned));
            }
        }
    }

    #[test]
    fn every_action_has_a_class() {
        let mut found = BTreeSet::new();
        for folder in ["src", "migrations"] {
            actions(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), &mut found);
        }
        let known = CLASSES.iter().flat_map(|class| class.actions).map(|it| (*it).to_owned());
        assert_eq!(found, known.collect());
    }
}
