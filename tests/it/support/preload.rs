//! C libraries that are loaded with `LD_PRELOAD` and replace a process's resolver, disk or clock.

use std::{collections::HashMap, path::Path, process::Command, sync::Mutex};

/// Compiles a file of this folder, once, and returns the path of the library.
pub(crate) fn preloaded(source: &'static str) -> String {
    static COMPILED: Mutex<Option<HashMap<&str, String>>> = Mutex::new(None);
    let mut compiled = COMPILED.lock().unwrap();
    let compiled = compiled.get_or_insert_default();
    let path = compiled.entry(source).or_insert_with(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let library = folder.join(format!("{source}-{}.so", std::process::id()));
        let status = Command::new(std::env::var("CC").unwrap_or_else(|_| "cc".into()))
            .args(["-O1", "-shared", "-fPIC", "-o"])
            .arg(&library)
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/support").join(source))
            .args(["-ldl", "-lpthread"])
            .status()
            .unwrap();
        assert!(status.success(), "{source} does not compile");
        // Always the same name, so that old files do not accumulate.
        let last = folder.join(format!("{source}.so"));
        std::fs::rename(&library, &last).unwrap();
        last.to_str().unwrap().to_owned()
    });
    path.clone()
}
