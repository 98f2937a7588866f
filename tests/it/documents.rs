//! Documents: every link between them leads somewhere.

use std::path::{Path, PathBuf};

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
fn the_readme_is_short_enough_to_be_read() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let lines = std::fs::read_to_string(path).unwrap().lines().count();
    assert!(lines <= 200, "{lines} lines");
}
