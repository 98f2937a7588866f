//! Documents: links are valid, and generated parts are up to date.

use std::{
    collections::HashMap,
    fmt::Write as _,
    path::{Path, PathBuf},
};

use seal_dpf_urlcallback::config::Config;

/// The documents of the project.
fn documents() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for folder in ["", "docs", "fuzz"] {
        for entry in std::fs::read_dir(root.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|it| it == "md") {
                found.push(path);
            }
        }
    }
    found
}

/// The anchors that GitHub gives the headings of a document.
fn anchors(text: &str) -> Vec<String> {
    let headings = text.lines().filter_map(|line| line.strip_prefix('#'));
    headings
        .map(|heading| {
            let words = heading.trim_start_matches('#').trim().to_lowercase();
            let kept = words.chars().filter(|it| it.is_alphanumeric() || matches!(it, ' ' | '-'));
            kept.map(|it| if it == ' ' { '-' } else { it }).collect()
        })
        .collect()
}

#[test]
fn every_link_between_documents_leads_to_a_file_and_a_heading() {
    let mut links = 0;
    for document in documents() {
        let text = std::fs::read_to_string(&document).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.contains("://") {
                continue;
            }
            links += 1;
            let said = format!("{} links to {link}", document.display());
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() {
                document.clone()
            } else {
                document.parent().unwrap().join(file)
            };
            assert!(target.exists(), "{said}");
            if !anchor.is_empty() {
                let headings = anchors(&std::fs::read_to_string(target).unwrap());
                assert!(headings.iter().any(|it| it == anchor), "{said}: {headings:?}");
            }
        }
    }
    assert!(links > 20, "only {links} links were found");
}

#[test]
fn the_readme_has_at_most_200_lines() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let lines = std::fs::read_to_string(path).unwrap().lines().count();
    assert!(lines <= 200, "{lines} lines");
}

/// The rows of docs/settings.md. Keys, defaults and descriptions are from config.example.toml, which
/// `the_example_has_every_key_with_its_default` compares with the code, and the limits are from the code.
fn settings_table(example: &str) -> String {
    let effective = Config::defaults().unwrap().effective;
    let limits: HashMap<_, _> =
        effective.into_iter().filter_map(|it| Some((it.key.to_owned(), it.allowed?))).collect();
    let (mut section, mut meaning) = (String::new(), String::new());
    let mut table = "| key | default | allowed | meaning |\n|---|---|---|---|\n".to_owned();
    for line in example.lines() {
        let text = line.trim_start_matches('#').trim();
        let is_key = |name: &str| {
            name.bytes().all(|it| it.is_ascii_lowercase() || it.is_ascii_digit() || it == b'_')
        };
        if let Some(name) = text.strip_prefix('[').and_then(|it| it.strip_suffix(']')) {
            section = format!("{name}.");
            meaning.clear();
        } else if let Some((name, value)) = text.split_once(" = ").filter(|it| is_key(it.0)) {
            let key = format!("{section}{name}");
            let default = if line.starts_with('#') { String::new() } else { format!("`{value}`") };
            let allowed = limits.get(&key).map(String::as_str).unwrap_or_default();
            let meaning = std::mem::take(&mut meaning);
            writeln!(table, "| `{key}` | {default} | {allowed} | {} |", meaning.trim()).unwrap();
        } else if text.is_empty() {
            meaning.clear();
        } else {
            meaning = format!("{meaning} {text}");
        }
    }
    table
}

/// With `UPDATE_DOCUMENTS=1`, this test writes the table.
#[test]
fn the_table_of_settings_is_generated_from_the_example() {
    const BEGIN: &str = "<!-- generated from config.example.toml -->\n";
    const END: &str = "<!-- end -->\n";
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = root.join("docs/settings.md");
    let text = std::fs::read_to_string(&page).unwrap();
    let (before, rest) = text.split_once(BEGIN).unwrap();
    let (table, after) = rest.split_once(END).unwrap();
    let example = std::fs::read_to_string(root.join("config.example.toml")).unwrap();
    let generated = settings_table(&example);
    if std::env::var_os("UPDATE_DOCUMENTS").is_some() {
        std::fs::write(&page, [before, BEGIN, &generated, END, after].concat()).unwrap();
    } else {
        assert_eq!(table, generated, "UPDATE_DOCUMENTS=1 cargo test --test it documents");
    }
    assert!(
        generated.contains("| `retry.max_age` | `\"72h\"` | 1ms to 100 years |"),
        "{generated}"
    );
}
