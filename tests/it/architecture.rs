//! The map in `lib.rs` is true: who imports whom, and who names what.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Left to right; a module imports only from groups to its left.
const GROUPS: &[&[&str]] = &[
    &["clock", "measure", "tls"],
    &["callback"],
    &["event", "egress", "outbox"],
    &["health", "select", "intake", "archive", "datadir", "telemetry"],
    &["delivery", "api"],
    &["config"],
    &["service"],
    &["cli"],
];

fn sources(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|it| it == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            found.push((path, text));
        }
    }
    found
}

fn all() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    sources(&root)
        .into_iter()
        .map(|(path, text)| {
            let name = path.strip_prefix(&root).unwrap().to_string_lossy().replace('\\', "/");
            (name, text)
        })
        .collect()
}

fn group(module: &str) -> Option<usize> {
    GROUPS.iter().position(|group| group.contains(&module))
}

/// The modules that a file names as `crate::x` or in `use crate::{x, y::…}`.
fn imports(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + "crate::".len()..];
        if let Some(list) = rest.strip_prefix('{') {
            let mut depth = 0;
            let mut item = String::new();
            for c in list.chars() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => found.push(std::mem::take(&mut item)),
                    _ if depth == 0 => item.push(c),
                    _ => {}
                }
            }
            found.push(item);
        } else {
            found.push(rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
        }
    }
    found.iter().map(|item| item.trim().split("::").next().unwrap().to_owned()).collect()
}

#[test]
fn a_module_imports_only_from_modules_to_its_left() {
    for (file, text) in all() {
        let module = file.split(['/', '.']).next().unwrap().to_owned();
        let Some(own) = group(&module) else {
            assert!(["lib", "main"].contains(&module.as_str()), "{file} is not on the map");
            continue;
        };
        for import in imports(&text) {
            let Some(other) = group(&import) else { continue };
            let to_the_left = other < own || import == module || own == 3 && other == 3;
            assert!(to_the_left, "{file} imports {import}");
        }
    }
}

#[test]
fn sled_backoff_and_the_systems_clock_are_each_named_in_one_place() {
    for (file, text) in all() {
        for (what, place) in [
            ("sled::Config", "outbox/sled/"),
            ("backoff::", "delivery/retry.rs"),
            ("SystemTime::now", "clock.rs"),
        ] {
            assert!(!text.contains(what) || file.starts_with(place), "{file} names {what}");
        }
    }
}

#[test]
fn every_test_that_security_md_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("SECURITY.md")).unwrap();
    let (_, table) = text.split_once("| attack | test |").unwrap();
    let code: String = ["src", "tests"]
        .iter()
        .flat_map(|folder| sources(&root.join(folder)))
        .map(|(_, text)| text)
        .collect();
    let named: Vec<_> = table.split('`').skip(1).step_by(2).collect();
    assert!(named.len() > 30, "{named:?}");
    for name in named {
        assert!(
            code.contains(&format!("#[test]\nfn {name}()"))
                || code.contains(&format!("#[test]\n    fn {name}()")),
            "{name}"
        );
    }
}
