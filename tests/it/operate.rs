//! Operating the service from a terminal.

use std::fs;

use serde_json::{Value, json};

#[cfg(unix)]
use crate::support::Terminal;
use crate::support::{Answer, Receiver, Service, event, eventually, run};

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Events that are stored as failed, in one batch.
fn never_sendable(count: usize) -> Vec<u8> {
    let line = |job: usize| event("job_sending", &job.to_string(), "ftp://h/").to_string() + "\n";
    (0..count).map(line).collect::<String>().into_bytes()
}

/// A service with a delivered, a failed, a retried and a waiting callback, and their ids.
fn scene() -> (Service, Receiver, [String; 4]) {
    let service = Service::start(
        "retry.initial_interval = \"1h\"\nretry.max_interval = \"2h\"\nretry.jitter = 0.0",
    );
    let receiver = Receiver::answering(
        vec![Answer::Status(200), Answer::Status(422), Answer::Body(503, b"come again".to_vec())],
        Answer::Status(200),
    );
    let api = service.api();
    let url = receiver.url("/a/rather/long/path/of/a/receiver");
    let delivered = api.accept(&event("job_sending", "1", &url));
    api.wait_for_state(&delivered, "delivered");
    let failed = api.accept(&event("job_sending", "2", &url));
    api.wait_for_state(&failed, "failed");
    let retried = api.accept(&event("job_sending", "3", &url));
    eventually("the attempt", || (api.callback(&retried)["attemptCount"] == 1).then_some(()));
    let waiting = api.accept(&event("job_finished", "3", &url));
    (service, receiver, [delivered, failed, retried, waiting])
}

#[cfg(unix)]
#[test]
fn inspect_queue_fits_the_terminal() {
    let (mut service, _receiver, ids) = scene();
    for up in [true, false] {
        if !up {
            service.terminate();
        }
        for columns in [80, 200] {
            let folder = service.folder();
            let shown = Terminal::run(folder, columns, &["inspect-queue"], &[("NO_COLOR", "1")]);
            let widest = shown.lines().map(|line| line.chars().count()).max().unwrap();
            assert!(widest <= columns.into(), "{columns} columns, but {widest}:\n{shown}");
            assert!(!shown.contains('\u{1b}'), "{shown}");
            assert!(ids.iter().all(|id| shown.contains(id)), "{shown}");
            for part in [
                "pending    2",
                "delivered  1",
                "removed in 7 d",
                "removed in 30 d",
                "in 1 h",
                "waits",
                "422 Unprocessable Entity",
                "503 Service Unavailable",
                "FINISHED",
            ] {
                assert!(shown.contains(part), "{part} in\n{shown}");
            }
        }
        let coloured = Terminal::run(service.folder(), 80, &["inspect-queue"], &[]);
        assert!(coloured.contains("\u{1b}[31m"), "failed ones are red:\n{coloured}");
        let piped = text(&service.run(&["inspect-queue"]).stdout);
        assert!(!piped.contains('\u{1b}') && !piped.contains('…'), "{piped}");
    }
}

#[test]
fn inspect_queue_shows_a_callback_as_a_timeline() {
    let (mut service, _receiver, [_, failed, retried, waiting]) = scene();
    for up in [true, false] {
        if !up {
            service.terminate();
        }
        let shown = |id: &str| text(&service.run(&["inspect-queue", "--id", id]).stdout);
        let retried_shown = shown(&retried);
        for part in [
            "pending, in 1 h",
            "last error   503 Service Unavailable",
            "expires",
            "body",
            "{\"jobId\":\"3\"",
            "ATTEMPT",
            "response: come again",
        ] {
            assert!(retried_shown.contains(part), "{part} in\n{retried_shown}");
        }
        assert!(shown(&waiting).contains(&format!("pending, waits for {retried}")));
        let failed = shown(&failed);
        assert!(failed.contains("removed") && failed.contains("(in 30 d)"), "{failed}");
        let unknown = service.run(&["inspect-queue", "--id", "00000000000000000000000000"]);
        assert_eq!(unknown.status.code(), Some(1));
    }
}

#[test]
fn inspect_queue_shows_a_probe_for_the_destination_not_for_callbacks() {
    let settings = [
        "retry.initial_interval = \"1h\"\nretry.max_interval = \"2h\"\nretry.jitter = 0",
        "breaker.failures = 1\nbreaker.initial_pause = \"5m\"",
    ];
    let service = Service::start(&settings.join("\n"));
    let api = service.api();
    let busy = Receiver::answering(vec![], Answer::Status(503));
    let first = api.accept(&event("job_sending", "1", &busy.url("/")));
    eventually("it is open", || {
        let all = api.get("/v1/destinations").json();
        (all["destinations"][0]["open"] == true).then_some(())
    });
    let second = api.accept(&event("job_sending", "2", &busy.url("/")));
    let shown = text(&service.run(&["inspect-queue"]).stdout);
    let line = |id: &str| shown.lines().find(|line| line.contains(id)).unwrap().to_owned();
    assert!(line(&first).contains("down, earliest in"), "{shown}");
    assert!(line(&second).contains("destination down"), "{shown}");
    assert!(line(&busy.url("")).contains("probe in"), "the destination has it: {shown}");
    let one = text(&service.run(&["inspect-queue", "--id", &first]).stdout);
    assert!(one.contains("pending, down, earliest in"), "{one}");
    let one = text(&service.run(&["inspect-queue", "--id", &second]).stdout);
    assert!(one.lines().any(|line| line.ends_with("pending, destination down")), "{one}");
}

#[cfg(unix)]
#[test]
fn inspect_queue_watches_over_a_restart_until_ctrl_c() {
    let (mut service, receiver, _) = scene();
    let args = ["inspect-queue", "--watch=100ms"];
    let mut terminal = Terminal::start(service.folder(), 120, &args, &[]);
    terminal.wait_for("\u{1b}[?1049h");
    terminal.wait_for("delivered  1");
    service.terminate();
    service.serve();
    service.api().accept(&event("job_sending", "9", &receiver.url("/")));
    terminal.wait_for("delivered  2");
    terminal.interrupt();
    assert!(terminal.wait().success());
    assert!(terminal.printed().ends_with("\u{1b}[?25h\u{1b}[?1049l"), "the terminal is as before");
    let json = service.run(&["inspect-queue", "--watch", "--output", "json"]);
    assert_eq!(json.status.code(), Some(2));
}

#[test]
fn listings_of_many_pages_are_complete() {
    let mut service = Service::prepare("");
    service.run_with_input(&["submit", "--file", "-"], &never_sendable(2500));
    for up in [false, true] {
        if up {
            service.serve();
        }
        let ndjson = service.run(&["inspect-queue", "--limit", "9999", "--output", "ndjson"]);
        let ndjson = text(&ndjson.stdout);
        let jobs: Vec<String> = ndjson
            .lines()
            .map(|line| {
                serde_json::from_str::<Value>(line).unwrap()["jobId"].as_str().unwrap().into()
            })
            .collect();
        let expected: Vec<String> = (0..2500).rev().map(|job| job.to_string()).collect();
        assert_eq!(jobs, expected);
        let part = service.json(&["inspect-queue", "--limit", "2400", "--output", "json"]);
        assert_eq!(part["callbacks"].as_array().unwrap().len(), 2400);
        let cursor = part["nextCursor"].as_str().unwrap();
        let args = ["inspect-queue", "--limit", "2400", "--cursor", cursor, "--output", "json"];
        let rest = service.json(&args);
        assert_eq!(rest["callbacks"].as_array().unwrap().len(), 100);
        assert_eq!(rest["callbacks"][0]["jobId"], "99");
        assert_eq!(rest["nextCursor"], Value::Null);
        assert_eq!(
            service.json(&["inspect-queue", "--output", "json"])["callbacks"]
                .as_array()
                .unwrap()
                .len(),
            50
        );
    }
}

#[cfg(unix)]
#[test]
fn an_interrupted_replay_can_be_run_again() {
    // Several steps, so that the interrupt arrives long before the end.
    const COUNT: usize = 30_000;
    let service = Service::prepare("");
    service.run_with_input(&["submit", "--file", "-"], &never_sendable(COUNT));
    let args = ["replay-failed", "--all"];
    let mut terminal = Terminal::start(service.folder(), 80, &args, &[]);
    terminal.wait_for(&format!("of {}", "30,000"));
    terminal.interrupt();
    let code = terminal.wait().code();
    let printed = terminal.printed();
    assert!(code == Some(1) && printed.contains("interrupted; run it again"), "{printed}");
    let left = service.json(&["inspect-queue", "--limit", "1", "--output", "json"]);
    let left = left["queue"]["failed"].as_u64().unwrap();
    assert!((1..COUNT as u64).contains(&left), "{left} of {COUNT} are left: {printed}");
    let again = service.run(&args);
    assert_eq!(again.status.code(), Some(0), "{again:?}");
    let listing = service.run(&["inspect-queue", "--limit", "99999", "--output", "ndjson"]);
    let listing = text(&listing.stdout);
    assert_eq!(listing.lines().count(), COUNT);
    for line in listing.lines() {
        let callback: Value = serde_json::from_str(line).unwrap();
        assert_eq!((&callback["state"], &callback["replays"]), (&"pending".into(), &1.into()));
    }
}

#[test]
fn a_callback_that_fails_again_during_a_replay_is_replayed_once() {
    let service = Service::start("");
    let api = service.api();
    api.post_bytes("application/x-ndjson", never_sendable(12_000));
    let replayed = service.run(&["replay-failed", "--all"]);
    assert_eq!(text(&replayed.stdout).trim(), "matched 12000, replayed 12000");
    eventually("all have failed again", || (api.queue()["failed"] == 12_000).then_some(()));
    let one = api.get("/v1/callbacks?limit=1").json();
    assert_eq!(one["callbacks"][0]["replays"], 1);
}

#[test]
fn a_replay_restarts_the_age() {
    let service = Service::start("retry.max_age = \"500ms\"\nbreaker.failures = 0");
    let api = service.api();
    let id = api.accept(&event("job_sending", "1", "http://127.0.0.1:1/"));
    assert_eq!(api.wait_for_state(&id, "failed")["lastError"]["kind"], "expired");
    let so_far = api.callback(&id)["attemptCount"].as_u64().unwrap();
    api.post("/v1/callbacks/replay", &json!({"filter": {"all": true}}));
    eventually("it is tried again", || {
        (api.callback(&id)["attemptCount"].as_u64() > Some(so_far)).then_some(())
    });
}

#[test]
fn a_replay_in_steps_continues_at_its_cursor() {
    let service = Service::start("");
    let api = service.api();
    api.post_bytes("application/x-ndjson", never_sendable(1200));
    let step = |cursor: Option<&str>| {
        let request =
            json!({"filter": {"all": true}, "dryRun": true, "limit": 500, "cursor": cursor});
        api.post("/v1/callbacks/replay", &request).json()
    };
    let first = step(None);
    assert_eq!((&first["matched"], &first["replayed"]), (&500.into(), &0.into()));
    let second = step(first["nextCursor"].as_str());
    let third = step(second["nextCursor"].as_str());
    assert_eq!(third, json!({"matched": 200, "replayed": 0}), "and there is no more");
    let ids: Vec<String> = api.get("/v1/callbacks?limit=700").json()["callbacks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["id"].as_str().unwrap().into())
        .collect();
    let named = json!({"filter": {"ids": ids, "all": false}, "limit": 600});
    let report = api.post("/v1/callbacks/replay", &named).json();
    let rest = json!({"filter": {"ids": ids}, "cursor": report["nextCursor"]});
    let rest = api.post("/v1/callbacks/replay", &rest).json();
    assert_eq!(report["replayed"].as_u64().unwrap() + rest["replayed"].as_u64().unwrap(), 700);
    let wrong = json!({"filter": {"all": true}, "cursor": "nonsense"});
    assert_eq!(api.post("/v1/callbacks/replay", &wrong).status, 400);
}

#[test]
fn submit_names_the_first_line_that_was_not_accepted() {
    let service = Service::start("outbox.max_pending = 5000");
    let lines: String = (0..12_000)
        .map(|job| event("job_sending", &job.to_string(), "http://127.0.0.1:1/").to_string() + "\n")
        .collect();
    let output = service.run_with_input(&["submit", "--file", "-"], lines.as_bytes());
    assert_eq!(output.status.code(), Some(1));
    let (said, printed) = (text(&output.stderr), text(&output.stdout));
    let taken = printed.lines().filter(|line| line.contains(" accepted ")).count();
    assert_eq!(taken, printed.lines().count());
    assert!(said.contains(&format!("stopped before line {}", taken + 1)), "{said}");
    assert!(said.contains("outbox.max_pending"), "{said}");
    assert_eq!(service.api().queue()["pending"], taken);
}

#[test]
fn a_wrong_token_a_stale_note_and_a_hanging_api_are_clear_errors() {
    let mut service = Service::start("");
    let token = service.read("data/api-token");
    fs::write(service.path("data/api-token"), "x".repeat(40)).unwrap();
    let wrong = service.run(&["inspect-queue"]);
    assert_eq!(wrong.status.code(), Some(1));
    assert!(text(&wrong.stderr).contains("rejects the token in"), "{wrong:?}");
    fs::write(service.path("data/api-token"), "short").unwrap();
    let short = service.run(&["inspect-queue"]);
    assert!(text(&short.stderr).contains("16 characters"), "{short:?}");
    fs::write(service.path("data/api-token"), token).unwrap();

    service.signal("STOP");
    for command in ["status", "inspect-queue"] {
        let hanging = service.run(&[command]);
        assert_eq!(hanging.status.code(), Some(1));
        let said = text(&hanging.stderr);
        assert!(said.contains("has not responded within 10 s"), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
    service.signal("CONT");

    let note = service.read("data/service.json");
    let mut stale: Value = serde_json::from_str(&note).unwrap();
    stale["address"] = "127.0.0.1:1".into();
    fs::write(service.path("data/service.json"), stale.to_string()).unwrap();
    let nobody = service.run(&["inspect-queue"]);
    assert_eq!(nobody.status.code(), Some(1));
    assert!(text(&nobody.stderr).contains("does not respond at http://127.0.0.1:1"), "{nobody:?}");
    fs::write(service.path("data/service.json"), note).unwrap();

    service.kill();
    assert!(service.path("data/service.json").exists(), "a killed service leaves its note");
    assert!(service.run(&["inspect-queue"]).status.success());
    assert_eq!(service.run(&["status"]).status.code(), Some(3));
}

#[test]
fn commands_wait_for_other_commands_and_report_a_starting_service() {
    let service = Service::prepare("");
    fs::create_dir(service.path("data")).unwrap();
    let lock = fs::File::create(service.path("data/lock")).unwrap();
    lock.lock().unwrap();
    // On Windows, a locked file cannot be read.
    let holder = service.path(if cfg!(windows) { "data/lock.holder" } else { "data/lock" });
    fs::write(&holder, "4711 serve\n").unwrap();
    let status = service.json(&["status", "--output", "json"]);
    assert_eq!((&status["running"], &status["ready"]), (&true.into(), &false.into()));
    assert_eq!(status["pid"], 4711);
    let queue = service.run(&["inspect-queue"]);
    assert_eq!(queue.status.code(), Some(1));
    let said = text(&queue.stderr);
    assert!(said.contains("starting up or shutting down") && said.contains("try again"), "{said}");

    fs::write(&holder, "4711 replay-failed\n").unwrap();
    assert_eq!(service.run(&["status"]).status.code(), Some(3));
    let queue = service.run(&["inspect-queue"]);
    assert!(text(&queue.stderr).contains("`replay-failed` with pid 4711"), "{queue:?}");
    let waiting = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| service.run(&["inspect-queue"]));
        drop(lock);
        waiting.join().unwrap()
    });
    assert!(waiting.status.success(), "{waiting:?}");
}

/// As root: a directory of another user. Otherwise: a directory that we cannot access.
#[cfg(unix)]
#[test]
fn a_data_directory_of_another_user_is_a_clear_error() {
    use std::os::unix::fs::{PermissionsExt as _, chown};
    let service = Service::prepare("");
    fs::create_dir(service.path("data")).unwrap();
    if chown(service.path("data"), Some(65_534), None).is_ok() {
        let output = service.run(&["inspect-queue"]);
        assert_eq!(output.status.code(), Some(1));
        assert!(
            text(&output.stderr).contains("belongs to the user with the id 65534"),
            "{output:?}"
        );
        assert_eq!(service.run(&["serve"]).status.code(), Some(1));
        assert_eq!(
            fs::read_dir(service.path("data")).unwrap().count(),
            0,
            "nothing was left there"
        );
    } else {
        fs::set_permissions(service.path("data"), fs::Permissions::from_mode(0o0)).unwrap();
        let output = service.run(&["inspect-queue"]);
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output.stderr).contains("cannot be used"), "{output:?}");
    }
}

#[test]
fn completions_and_manual_pages_know_every_command() {
    let commands = crate::support::commands();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = run(&["completions", shell]);
        assert!(script.status.success());
        let script = text(&script.stdout);
        assert!(commands.iter().all(|it| script.contains(it.as_str())), "{shell}");
    }
    let folder = tempfile::tempdir().unwrap();
    assert!(run(&["man", "--out-dir", folder.path().to_str().unwrap()]).status.success());
    for command in commands {
        let page = text(&run(&["man", &command]).stdout);
        assert!(page.contains(".SH SYNOPSIS") && page.contains("Example"), "{command}: {page}");
        let file = folder.path().join(format!("seal-dpf-urlcallback-{command}.1"));
        assert_eq!(fs::read_to_string(file).unwrap(), page);
    }
    assert!(text(&run(&["man"]).stdout).contains("inspect\\-queue"));
    assert_eq!(run(&["man", "frobnicate"]).status.code(), Some(2));
}
