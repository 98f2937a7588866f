//! Access of commands to the running service or the store, and which files they trust.

#![cfg(unix)]

use std::{fs, os::unix::fs::symlink, process::Command};

use serde_json::json;

use crate::support::{Receiver, Service, Terminal, event, eventually};

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn status_fails_if_the_data_directory_is_inaccessible() {
    let service = Service::prepare("");
    fs::write(service.path("closed"), "").unwrap();
    // A file in place of the folder causes an error even for root.
    service.configure("data_dir = \"closed/data\"");
    for command in ["status", "inspect-queue", "export"] {
        let output = service.run(&[command]);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{command}: {said}");
        assert!(said.contains("closed/data") && said.contains("data_dir"), "{command}: {said}");
    }
}

#[test]
fn an_export_works_from_any_working_directory() {
    let service = Service::start("");
    service.api().accept(&event("job_sending", "1", "http://127.0.0.1:1/"));
    let elsewhere = tempfile::tempdir().unwrap();
    let settings = format!("data_dir = {:?}\nlog.file = \"-\"\n", service.path("data"));
    fs::write(elsewhere.path().join("config.toml"), settings).unwrap();
    let args = ["export", "--file", "all.ndjson"];
    let output = crate::support::run_in(elsewhere.path(), &args, b"");
    assert!(output.status.success(), "{output:?}");
    let written = fs::read_to_string(elsewhere.path().join("all.ndjson")).unwrap();
    assert_eq!(written.lines().count(), 3);
    let names = |folder: &std::path::Path| -> Vec<_> {
        let entries = fs::read_dir(folder).unwrap().map(|it| it.unwrap().file_name());
        entries.map(|name| name.into_string().unwrap()).collect()
    };
    assert!(!names(&service.path("data")).iter().any(|name| name.starts_with("export-")));
    assert_eq!(names(elsewhere.path()).len(), 2);
    // An existing file is not overwritten.
    let again = crate::support::run_in(elsewhere.path(), &args, b"");
    assert_eq!(again.status.code(), Some(1), "{again:?}");
    assert_eq!(fs::read_to_string(elsewhere.path().join("all.ndjson")).unwrap(), written);
}

/// A foreign service whose responses to an export name these files.
fn false_service(service: &Service, named: &str) -> crate::support::Receiver {
    let answer = json!({"file": named, "callbacks": 1}).to_string();
    let receiver =
        Receiver::answering(vec![], crate::support::Answer::Body(200, answer.into_bytes()));
    let note = json!({
        "pid": std::process::id(), "address": receiver.address, "version": "0",
        "tokenFile": service.path("data/api-token"), "startedAt": "2026-01-01T00:00:00.000Z",
    });
    fs::write(service.path("data/service.json"), note.to_string()).unwrap();
    receiver
}

#[test]
fn an_export_must_be_a_regular_file_of_the_directorys_owner() {
    let service = Service::prepare("");
    fs::create_dir(service.path("data")).unwrap();
    fs::write(service.path("data/api-token"), "a-token-of-enough-characters\n").unwrap();
    fs::write(service.path("secret"), "of somebody else").unwrap();
    let lock = fs::File::create(service.path("data/lock")).unwrap();
    fs::write(service.path("data/lock"), format!("{} serve\n", std::process::id())).unwrap();
    lock.lock().unwrap();
    let data = service.path("data");
    let owned_by_another = |path: &std::path::Path| {
        Command::new("chown").args(["-hR", "12345"]).arg(path).status().unwrap().success()
    };
    let secret = service.path("secret");
    let mut named = vec![
        secret.to_str().unwrap(),
        "/elsewhere/secret",
        "export-none.ndjson",
        "../secret",
        "lock",
        "",
    ];
    // Only a command run as root could be tricked into doing more than the folder's owner may.
    if owned_by_another(&data) {
        symlink(&secret, data.join("export-link.ndjson")).unwrap();
        fs::hard_link(&secret, data.join("export-hard.ndjson")).unwrap();
        let fifo = data.join("export-fifo.ndjson");
        assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        assert!(owned_by_another(&fifo));
        fs::write(data.join("export-other.ndjson"), "of root").unwrap();
        let planted = ["export-link", "export-hard", "export-fifo", "export-other"];
        named.extend(planted.map(|name| &*format!("{name}.ndjson").leak()));
    }
    for name in named {
        let _receiver = false_service(&service, name);
        let output = service.run(&["export", "--file", "out"]);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{name}: {said}");
        assert!(said.contains("cannot read the service"), "{name}: {said}");
        assert!(!service.path("out").exists(), "{name}");
        assert!(service.path("secret").exists(), "{name}");
    }
    let good = service.path("data/export-1.ndjson");
    fs::write(&good, "an export").unwrap();
    owned_by_another(&good);
    let _receiver = false_service(&service, "/elsewhere/export-1.ndjson");
    assert!(service.run(&["export", "--file", "out"]).status.success());
    assert_eq!(service.read("out"), "an export");
    assert!(!good.exists());
}

#[test]
fn an_aborted_export_leaves_nothing() {
    let service = Service::start("");
    let api = service.api();
    let lines: String = (0..20_000)
        .map(|job| event("job_sending", &job.to_string(), "http://127.0.0.1:1/").to_string() + "\n")
        .collect();
    api.post_lines(&lines);
    let left = |folder: &std::path::Path| -> usize {
        let names = fs::read_dir(folder).unwrap().map(|it| it.unwrap().file_name());
        names.filter(|name| name.to_string_lossy().contains("export")).count()
    };
    let mut export = crate::support::binary()
        .args(["export", "--file", "export-out"])
        .current_dir(service.folder())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    eventually("it has begun", || (left(&service.path("data")) > 0).then_some(()));
    let pid = export.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let status = eventually("the command ends", || export.try_wait().unwrap());
    assert_eq!(status.code(), Some(1));
    eventually("the service leaves nothing", || (left(&service.path("data")) == 0).then_some(()));
    assert_eq!(left(service.folder()), 0, "nor does the command");
}

#[test]
fn submit_splits_a_file_by_the_services_limits() {
    let service = Service::start(
        "[api]\nlisten = \"127.0.0.1:0\"\nmax_event_bytes = 1000\nmax_batch_bytes = 3000",
    );
    let long = "x".repeat(2000);
    let lines: String = (0..100)
        .map(|job| {
            let mut event = event("job_sending", &job.to_string(), "http://127.0.0.1:1/");
            if job == 40 {
                event["errorReason"] = long.clone().into();
            }
            if job == 60 {
                event["errorReason"] = long.repeat(3).into();
            }
            event.to_string() + "\n"
        })
        .collect();
    fs::write(service.path("events.ndjson"), lines).unwrap();
    // The command has different settings.
    service.configure("");
    let output = service.run(&["submit", "--file", "events.ndjson"]);
    let (said, results) = (text(&output.stderr), text(&output.stdout));
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("100 events, 98 accepted, 2 refused"), "{said}");
    for (at, line) in results.lines().enumerate() {
        let outcome = if [40, 60].contains(&at) { "refused" } else { "accepted" };
        assert!(line.starts_with(&format!("{} {outcome}", at + 1)), "{line}");
    }
}

/// Output of a read-only command about the callback, and the temporary files left behind.
fn looks(service: &Service, id: &str, run: impl Fn(&[&str]) -> std::process::Output) {
    let output = run(&["inspect-queue", "--output", "json"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(text(&output.stdout).matches(id).count(), 1, "{output:?}");
    let output = run(&["inspect-queue", "--id", id, "--output", "json"]);
    assert!(output.status.success(), "{output:?}");
    let output = run(&["export"]);
    assert!(output.status.success(), "{output:?}");
    assert!(text(&output.stdout).contains(id), "{output:?}");
    assert_eq!(run(&["status"]).status.code(), Some(3));
    let output = run(&["replay-failed", "--all", "--dry-run"]);
    assert!(output.status.success(), "{output:?}");
    for command in [["cancel", "--id", id].as_slice(), &["replay-failed", "--all"]] {
        let output = run(command);
        assert_eq!(output.status.code(), Some(1), "{command:?}: {output:?}");
        assert!(text(&output.stderr).to_lowercase().contains("read-only"), "{output:?}");
    }
    let left = fs::read_dir(service.path("tmp")).unwrap().count();
    assert_eq!(left, 0, "a copy of the store is left");
}

#[test]
fn reading_commands_work_on_a_read_only_store() {
    let mut service = Service::start("");
    let id = service.api().accept(&event("job_sending", "1", "http://127.0.0.1:1/"));
    service.kill();
    service.put_on_a_disk_that_can_fail();
    service.fail_disk("open EROFS");
    fs::create_dir(service.path("tmp")).unwrap();
    let tmp = service.path("tmp");
    let before = fs::read(service.path("data/outbox/db")).unwrap();
    looks(&service, &id, |args| service.run_with_env(args, &[("TMPDIR", tmp.to_str().unwrap())]));
    assert_eq!(fs::read(service.path("data/outbox/db")).unwrap(), before);
    // If there is no space for a copy, the error says what is needed.
    let output = service.run_with_env(&["inspect-queue"], &[("TMPDIR", "/proc")]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(!text(&output.stderr).is_empty());
}

/// The command that reads a copy and the one that owns the terminal receive the same signal.
#[test]
fn ctrl_c_ends_watching_a_read_only_store_and_cleans_up() {
    let mut service = Service::start("");
    service.api().accept(&event("job_sending", "1", "http://127.0.0.1:1/"));
    service.kill();
    service.put_on_a_disk_that_can_fail();
    service.fail_disk("open EROFS");
    fs::create_dir(service.path("tmp")).unwrap();
    let tmp = service.path("tmp");
    let mut env: Vec<_> = service.env().collect();
    env.push(("TMPDIR", tmp.to_str().unwrap()));
    let args = ["inspect-queue", "--watch=100ms"];
    let mut terminal = Terminal::start(service.folder(), 120, &args, &env);
    terminal.wait_for("pending    1");
    terminal.interrupt();
    assert!(terminal.wait().success());
    assert!(terminal.printed().ends_with("\u{1b}[?25h\u{1b}[?1049l"), "the terminal is as before");
    assert_eq!(fs::read_dir(&tmp).unwrap().count(), 0);
}

/// A real mount, of all that the data directory holds.
#[test]
#[ignore = "wants user namespaces: cargo test --test it -- --ignored a_read_only_mount"]
fn a_read_only_mount_can_be_read_and_not_changed() {
    let mut service = Service::start("");
    let id = service.api().accept(&event("job_sending", "1", "http://127.0.0.1:1/"));
    service.kill();
    fs::create_dir(service.path("tmp")).unwrap();
    let tmp = service.path("tmp");
    looks(&service, &id, |args| {
        let script = "mount --bind data data && mount -o remount,bind,ro data && exec \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["-rm", "sh", "-c", script, "sh"]);
        command.arg(crate::support::binary().get_program()).args(args);
        command.current_dir(service.folder()).env("TMPDIR", &tmp).output().unwrap()
    });
}

#[test]
fn an_export_to_a_read_only_directory_says_what_to_do() {
    let mut service = Service::prepare("");
    // The export's file is next to the store.
    service.put_on_a_disk_that_can_fail_at("data/export-");
    service.serve();
    service.fail_disk("open EROFS");
    let output = service.run(&["export"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = text(&output.stderr);
    assert!(said.contains("Read-only") && said.contains("stop the service"), "{said}");
}
