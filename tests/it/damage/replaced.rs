//! Files of a store that are missing, foreign, or of another time.

use std::fs;

use super::{ALL, copy, copy_folder, counts, files, filled, refused_or_whole, text};
use crate::support::event;

#[test]
fn an_older_copy_is_refused_until_the_witness_is_removed() {
    let mut service = filled(false);
    copy_folder(&service.path("data/outbox"), &service.path("older"));
    service.serve();
    service.api().accept(&event("job_sending", "new", "http://127.0.0.1:1/"));
    assert_eq!(service.terminate(), Some(0));
    fs::remove_dir_all(service.path("data/outbox")).unwrap();
    fs::rename(service.path("older"), service.path("data/outbox")).unwrap();
    let output = service.run(&["inspect-queue"]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.contains("writes are lost") && said.contains("outbox.witness"), "{said}");
    fs::remove_file(service.path("data/outbox.witness")).unwrap();
    assert_eq!(counts(&service), ALL);
}

#[test]
fn missing_files_are_detected() {
    let whole = filled(false);
    let refused = |remove: &str, said: &str| {
        let service = copy(&whole);
        let path = service.path("data").join(remove);
        if path.is_dir() {
            fs::remove_dir_all(&path).unwrap();
        } else {
            fs::remove_file(&path).unwrap();
        }
        let before = files(&service.path("data"));
        for command in ["inspect-queue", "serve"] {
            let output = service.run(&[command]);
            assert_eq!(output.status.code(), Some(1), "{remove}");
            assert!(text(&output.stderr).contains(said), "{remove}: {output:?}");
        }
        assert_eq!(files(&service.path("data")), before, "{remove}");
    };
    refused("outbox/db", "its file db is missing");
    refused("outbox", "its file db is missing");
    let snapshot = fs::read_dir(whole.path("data/outbox"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .find(|name| name.starts_with("snap."))
        .unwrap();
    for harmless in ["outbox.witness", &format!("outbox/{snapshot}"), "outbox/conf"] {
        let service = copy(&whole);
        fs::remove_file(service.path("data").join(harmless)).unwrap();
        assert_eq!(counts(&service), ALL, "{harmless}");
    }
}

#[test]
fn foreign_empty_and_newer_files_are_refused_unchanged() {
    let whole = filled(false);
    for content in [vec![], b"not a store".to_vec(), vec![0; 5000], vec![0xff; 600_000]] {
        let service = copy(&whole);
        fs::write(service.path("data/outbox/db"), &content).unwrap();
        assert!(refused_or_whole(&service, &format!("{} bytes", content.len())));
        assert_eq!(fs::read(service.path("data/outbox/db")).unwrap(), content);
    }
    // Files of others are ignored.
    let service = copy(&whole);
    fs::write(service.path("data/outbox/notes.txt"), "mine").unwrap();
    assert_eq!(counts(&service), ALL);
    assert_eq!(service.read("data/outbox/notes.txt"), "mine");

    let service = copy(&whole);
    {
        let db = sled::open(service.path("data/outbox")).unwrap();
        db.insert("mformat", &99_u32.to_be_bytes()).unwrap();
        db.flush().unwrap();
    }
    let output = service.run(&["inspect-queue"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("format 99"), "{output:?}");
}
