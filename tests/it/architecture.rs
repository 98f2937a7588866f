//! Checks the map in ARCHITECTURE.md against the code.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use syn::{Expr, Item, Macro, Token, UseTree, Visibility, punctuated::Punctuated, visit::Visit};

/// Groups of modules, in the order of the map: a module imports only from earlier groups.
type Groups = Vec<Vec<String>>;

fn names(list: &str) -> Vec<String> {
    list.split(',').map(|name| name.trim().to_owned()).collect()
}

/// The text blocks of the section "Map" of ARCHITECTURE.md.
fn map() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap();
    let (_, section) = text.split_once("\n## Map\n").unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    let blocks = section.split("```text\n").skip(1);
    blocks.map(|block| block.split("```").next().unwrap().trim_end().to_owned()).collect()
}

/// The modules of the crate.
fn modules() -> Groups {
    map()[0].lines().map(names).collect()
}

/// The sub-modules of a module, by its folder. A file outside these sub-modules may import from all of them.
fn submodules() -> Vec<(String, Groups)> {
    let all = map()[1].clone();
    let all = all.lines().map(|line| line.split_once(": ").unwrap());
    all.map(|(folder, groups)| (folder.to_owned(), groups.split('<').map(names).collect()))
        .collect()
}

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

/// The files of a folder, by path.
fn files_in(folder: &str) -> BTreeMap<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    sources(&root)
        .into_iter()
        .map(|(path, text)| {
            let name = path.strip_prefix(&root).unwrap().to_string_lossy().replace('\\', "/");
            (name, text)
        })
        .collect()
}

/// The module of a file, as a path from the crate's root.
fn module(file: &str) -> Vec<String> {
    let path = file.trim_end_matches(".rs").trim_end_matches("/mod");
    path.split('/').filter(|it| !["lib", "main"].contains(it)).map(str::to_owned).collect()
}

/// The paths that a file uses outside of tests, from the root of the crate.
struct Paths {
    module: Vec<String>,
    found: Vec<Vec<String>>,
}

impl Paths {
    fn of(file: &str, text: &str) -> Vec<Vec<String>> {
        let mut paths = Self { module: module(file), found: Vec::new() };
        paths.visit_file(&syn::parse_file(text).unwrap());
        paths.found
    }

    fn name(&mut self, segments: &[String]) {
        let ups = segments.iter().take_while(|it| *it == "super").count();
        let mut path = match segments.first().map(String::as_str) {
            Some("crate") => Vec::new(),
            Some("self") => self.module.clone(),
            Some("super") => self.module[..self.module.len() - ups].to_vec(),
            // A module of this one, or what is imported already.
            Some(_) => [self.module.as_slice(), segments].concat(),
            None => return,
        };
        if ["crate", "self", "super"].iter().any(|it| segments[0] == *it) {
            path.extend_from_slice(&segments[ups.max(1)..]);
        }
        self.found.push(path);
    }

    fn tree(&mut self, before: &[String], tree: &UseTree) {
        let with = |name: &syn::Ident| [before, &[name.to_string()]].concat();
        match tree {
            UseTree::Path(path) => self.tree(&with(&path.ident), &path.tree),
            UseTree::Group(group) => group.items.iter().for_each(|it| self.tree(before, it)),
            UseTree::Name(name) if name.ident == "self" => self.name(before),
            UseTree::Name(name) => self.name(&with(&name.ident)),
            UseTree::Rename(name) => self.name(&with(&name.ident)),
            UseTree::Glob(_) => self.name(before),
        }
    }
}

impl<'ast> Visit<'ast> for Paths {
    fn visit_item(&mut self, item: &'ast Item) {
        match item {
            Item::Use(item) => self.tree(&[], &item.tree),
            // Imports of tests are not part of the map.
            Item::Mod(item) if item.ident == "tests" => {}
            other => syn::visit::visit_item(self, other),
        }
    }

    // `pub(super)` imports nothing.
    fn visit_visibility(&mut self, _: &'ast Visibility) {}

    // Macro arguments that parse as expressions are treated as expressions.
    fn visit_macro(&mut self, it: &'ast Macro) {
        let parser = Punctuated::<Expr, Token![,]>::parse_terminated;
        for expression in it.parse_body_with(parser).into_iter().flatten() {
            let mut within = Self { module: self.module.clone(), found: Vec::new() };
            within.visit_expr(&expression);
            self.found.append(&mut within.found);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<_> = path.segments.iter().map(|it| it.ident.to_string()).collect();
        self.name(&segments);
        syn::visit::visit_path(self, path);
    }
}

/// The files that each file of a crate imports; `root` is the folder of the crate.
fn imports(root: &str) -> BTreeMap<String, BTreeSet<String>> {
    let all = files_in(root);
    let files: BTreeMap<_, _> = all.keys().map(|file| (module(file), file.clone())).collect();
    let file_of = |path: &Vec<String>| {
        (1..=path.len()).rev().find_map(|end| files.get(&path[..end]).cloned())
    };
    let imported = |file: &String, text: &str| -> BTreeSet<String> {
        Paths::of(file, text).iter().filter_map(file_of).filter(|it| it != file).collect()
    };
    all.iter().map(|(file, text)| (file.clone(), imported(file, text))).collect()
}

/// Asserts that a file imports only from earlier groups.
fn assert_order(groups: &Groups, folder: &str) {
    let group_of = |file: &str| {
        let within = file.strip_prefix(folder)?.trim_start_matches('/');
        let (name, _) = within.split_once(['/', '.'])?;
        Some((name.to_owned(), groups.iter().position(|group| group.iter().any(|it| it == name))?))
    };
    for (file, imported) in imports("src") {
        let Some((own, at)) = group_of(&file) else { continue };
        for other in imported {
            let Some((name, to)) = group_of(&other) else { continue };
            assert!(name == own || to < at, "{file} imports {other}");
        }
    }
}

#[test]
fn every_module_is_on_the_map() {
    for file in files_in("src").keys() {
        let name = file.split(['/', '.']).next().unwrap();
        let known =
            ["lib", "main"].contains(&name) || modules().concat().iter().any(|it| it == name);
        assert!(known, "{file}");
    }
}

#[test]
fn a_module_imports_only_from_modules_above_it() {
    assert_order(&modules(), "");
}

#[test]
fn a_sub_module_imports_only_from_sub_modules_before_it() {
    for (folder, groups) in submodules() {
        for name in groups.concat() {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(&folder).join(&name);
            assert!(path.is_dir(), "{folder} has no {name}");
        }
        assert_order(&groups, &folder);
    }
}

/// The files that are part of an import cycle, with the files of the cycle that they import.
fn cycles(root: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut left = imports(root);
    // Files without remaining imports, and files that no other file imports, are not part of a cycle.
    loop {
        let named: BTreeSet<String> = left.values().flatten().cloned().collect();
        let files: BTreeSet<String> = left.keys().cloned().collect();
        left.values_mut().for_each(|imported| imported.retain(|it| files.contains(it)));
        left.retain(|file, imported| !imported.is_empty() && named.contains(file));
        if left.len() == files.len() {
            return left;
        }
    }
}

#[test]
fn there_are_no_import_cycles_between_files() {
    for root in ["src", "benches/throughput"] {
        let cycles = cycles(root);
        assert!(cycles.is_empty(), "{cycles:#?}");
    }
}

#[test]
fn no_file_is_longer_than_400_lines() {
    for folder in ["src", "tests", "benches", "migrations", "fuzz/targets"] {
        for (path, text) in sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)) {
            let lines = text.lines().count();
            assert!(lines <= 400, "{} has {lines} lines", path.display());
        }
    }
}

#[test]
fn each_store_backoff_and_the_system_clock_are_used_in_one_place() {
    for (file, text) in files_in("src") {
        for (what, place) in [
            ("sled::Config", "outbox/sled/"),
            ("tokio_postgres", "outbox/postgres/"),
            ("backoff::", "delivery/retry.rs"),
            ("SystemTime::now", "clock.rs"),
        ] {
            assert!(!text.contains(what) || file.starts_with(place), "{file} uses {what}");
        }
    }
}

#[test]
fn every_test_in_security_md_exists() {
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
