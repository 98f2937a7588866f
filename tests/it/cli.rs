//! The command line (docs/operating.md).

use std::{
    io::{BufRead as _, BufReader},
    process::Stdio,
};

use serde_json::Value;

use crate::support::{Receiver, Service, binary, event, eventually, run, run_in};

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn wrong_usage_exits_with_2_and_help_has_examples() {
    assert_eq!(run(&["frobnicate"]).status.code(), Some(2));
    assert_eq!(run(&["submit"]).status.code(), Some(2));
    assert_eq!(run(&["replay-failed"]).status.code(), Some(2));
    for command in crate::support::commands() {
        let help = run(&[&command, "--help"]);
        assert!(help.status.success());
        assert!(text(&help.stdout).contains("Example"), "{command}");
    }
}

#[test]
fn status_exits_with_0_if_running_and_3_if_not() {
    let mut service = Service::prepare("");
    assert_eq!(service.run(&["status"]).status.code(), Some(3));
    service.serve();
    let status = service.json(&["status", "--output", "json"]);
    assert_eq!((&status["running"], &status["ready"]), (&true.into(), &true.into()));
    assert_eq!(status["pid"], service.pid());
    service.kill();
    assert_eq!(service.run(&["status"]).status.code(), Some(3), "a stale note is no service");
    service.serve();
    service.terminate();
    assert_eq!(service.run(&["status"]).status.code(), Some(3));
}

#[test]
fn submit_and_inspect_queue_work_with_the_service_up_and_down() {
    let receiver = Receiver::start();
    let mut service = Service::prepare("");
    let url = format!("DPF_CONTROL_CALLBACK_URL={}", receiver.url("/x"));
    let args = [
        "submit",
        "--event",
        "job_finished",
        "--job-id",
        "1",
        "--job-id-fs",
        "2",
        "--exit-status",
        "OK",
        "-s",
        &url,
        "-s",
        "OTHER=x=y",
    ];
    let down = service.run(&args);
    assert!(down.status.success(), "{down:?}");
    let id = text(&down.stdout).trim().strip_prefix("accepted ").unwrap().to_owned();
    let queue = service.json(&["inspect-queue", "--output", "json"]);
    assert_eq!(queue["queue"]["pending"], 1);
    assert_eq!(queue["callbacks"][0]["id"], id.as_str());
    service.serve();
    service.api().wait_for_state(&id, "delivered");
    let up = service.run(&args);
    assert!(up.status.success(), "{up:?}");
    receiver.wait_for(2);
    let table = text(&service.run(&["inspect-queue"]).stdout);
    assert!(table.contains(&id) && table.contains("delivered"), "{table}");
    let one = service.json(&["inspect-queue", "--id", &id, "--output", "json"]);
    assert_eq!(one["body"]["exitStatus"], "OK");
    let ndjson = service.run(&["inspect-queue", "--output", "ndjson"]);
    let lines: Vec<Value> =
        text(&ndjson.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2);
}

#[test]
fn submit_exits_with_1_if_an_event_failed_or_was_refused() {
    let service = Service::start("");
    let failed = service.run(&[
        "submit",
        "--event",
        "job_sending",
        "--job-id",
        "1",
        "--job-id-fs",
        "2",
        "-s",
        "DpfControlCallbackUrl=ftp://h",
    ]);
    assert_eq!(failed.status.code(), Some(1));
    assert!(text(&failed.stdout).starts_with("failed "), "{failed:?}");
    let refused =
        service.run(&["submit", "--event", "job_finished", "--job-id", "1", "--job-id-fs", "2"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stdout).contains("exitStatus"), "{refused:?}");
    let ignored =
        service.run(&["submit", "--event", "job_sending", "--job-id", "1", "--job-id-fs", "2"]);
    assert_eq!(
        (ignored.status.code(), text(&ignored.stdout).starts_with("ignored")),
        (Some(0), true)
    );
    let usage = service.run(&["submit", "--event", "job_sending", "-s", "novalue"]);
    assert_eq!(usage.status.code(), Some(2));
}

/// A string truncated by JavaScript inside a surrogate pair.
#[test]
fn a_lone_surrogate_costs_no_callback() {
    let receiver = Receiver::start();
    let service = Service::start("");
    let line = |job: &str, field: &str| {
        let mut event = event("job_sending", job, &receiver.url("/"));
        event[field] = "cut X".into();
        event.to_string().replace('X', "\\ud83d") + "\n"
    };
    let reason = line("1", "errorReason").replace("job_sending", "job_finished");
    let reason = reason.replace("\"jobId\"", "\"exitStatus\":\"E\",\"jobId\"");
    let batch = reason.clone() + &line("2", "nobodyKnows");
    for answer in service.api().post_lines(&batch).lines() {
        assert_eq!(answer["outcome"], "accepted", "{answer}");
    }
    std::fs::write(service.path("events.ndjson"), &batch).unwrap();
    let output = service.run(&["submit", "--file", "events.ndjson"]);
    assert!(output.status.success(), "{output:?}");
    let one = service.api().post_bytes("application/json", reason.trim());
    assert_eq!(one.status, 202, "{}", one.json());
    let puts = receiver.wait_for(5);
    let reasons = puts.iter().filter(|put| put.json()["errorReason"] == "cut \u{fffd}");
    assert_eq!(reasons.count(), 3);
}

#[test]
fn submit_reads_a_file_or_standard_input() {
    let receiver = Receiver::start();
    let mut service = Service::prepare("");
    let mut batch = String::new();
    for job in 0..5 {
        batch += &(event("job_sending", &job.to_string(), &receiver.url("/")).to_string() + "\n");
    }
    batch += "nonsense\n";
    for up in [false, true] {
        if up {
            service.serve();
        }
        let output = service.run_with_input(&["submit", "--file", "-"], batch.as_bytes());
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(text(&output.stdout).contains("\n6 refused "), "{output:?}");
        assert!(text(&output.stderr).contains("6 events, 5 accepted, 1 refused"), "{output:?}");
    }
    receiver.wait_for(10);
    assert_eq!(service.run(&["submit", "--file", "nowhere"]).status.code(), Some(1));
}

#[test]
fn replay_and_cancel_work_without_the_service() {
    let service = Service::prepare("");
    let submit = |url: &str| {
        let url = format!("DpfControlCallbackUrl={url}");
        let output = service.run(&[
            "submit",
            "--event",
            "job_sending",
            "--job-id",
            "1",
            "--job-id-fs",
            "2",
            "-s",
            &url,
        ]);
        text(&output.stdout).split_whitespace().nth(1).unwrap().to_owned()
    };
    let pending = submit("http://h/");
    let failed = submit("http:///");
    assert!(service.run(&["cancel", "--id", &pending]).status.success());
    assert_eq!(service.run(&["cancel", "--id", &failed]).status.code(), Some(1));
    let replayed = service.run(&["replay-failed", "--all"]);
    assert_eq!(text(&replayed.stdout).trim(), "matched 2, replayed 2");
    let queue = service.json(&["inspect-queue", "--output", "json"]);
    assert_eq!((&queue["queue"]["pending"], &queue["queue"]["failed"]), (&2.into(), &0.into()));
}

#[test]
fn a_port_in_use_is_a_clear_error() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let service = Service::prepare(&format!("[api]\nlisten = \"{address}\""));
    let output = service.run(&["serve"]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.contains(&address) && said.contains("api.listen"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[test]
fn an_unusable_data_directory_is_a_clear_error() {
    let service = Service::start("");
    let second = service.run(&["serve"]);
    assert_eq!(second.status.code(), Some(1));
    assert!(text(&second.stderr).contains(&format!("pid {}", service.pid())), "{second:?}");
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("data"), "x").unwrap();
    for command in ["serve", "inspect-queue", "status"] {
        let output = run_in(folder.path(), &[command], b"");
        assert_eq!(output.status.code(), Some(1), "{command}");
        assert!(text(&output.stderr).contains("not a directory"), "{output:?}");
    }
}

#[test]
fn inspect_queue_does_not_create_a_store() {
    let folder = tempfile::tempdir().unwrap();
    let output = run_in(folder.path(), &["inspect-queue"], b"");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("does not exist"), "{output:?}");
    assert!(!folder.path().join("data").exists());
}

#[test]
fn receive_prints_bodies_and_responds_as_configured() {
    let mut child = binary()
        .args(["receive", "--listen", "127.0.0.1:0", "--answer", "503,200"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
    let first = said.next().unwrap().unwrap();
    let base = first.strip_prefix("receiving on ").unwrap().to_owned();
    let service = Service::start("");
    let id = service.api().accept(&event("job_sending", "1", &format!("{base}/job")));
    service.api().wait_for_state(&id, "delivered");
    let lines = [said.next().unwrap().unwrap(), said.next().unwrap().unwrap()];
    assert_eq!(lines[0], format!("PUT /job webhook-id={id} attempt=1 -> 503"));
    assert_eq!(lines[1], format!("PUT /job webhook-id={id} attempt=2 -> 200"));
    child.kill().unwrap();
    child.wait().unwrap();
    let printed = BufReader::new(child.stdout.take().unwrap()).lines();
    let bodies: Vec<String> = printed.map(Result::unwrap).collect();
    assert_eq!(bodies.len(), 2);
    assert!(bodies[0].starts_with(r#"{"jobId":"1","jobIdFs":"fs-1","jobState":"SENDING""#));
}

#[test]
fn serve_needs_no_settings() {
    let folder = tempfile::tempdir().unwrap();
    let here = |command: &str| {
        let mut binary = binary();
        binary.arg(command).current_dir(folder.path()).stderr(Stdio::null());
        // The folder of all users on Windows.
        binary.env("ProgramData", folder.path());
        // The default port may be in use on this machine; everything else is the default.
        binary.env("URLCALLBACK__API__LISTEN", "127.0.0.1:0");
        binary
    };
    let mut child = here("serve").spawn().unwrap();
    eventually("it runs", || here("status").output().unwrap().status.success().then_some(()));
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Runs a command with its standard output connected to this shell fragment; returns the command's exit
/// code.
#[cfg(unix)]
fn piped(service: &Service, args: &str, into: &str) -> (Option<i32>, String) {
    let binary = env!("CARGO_BIN_EXE_seal-dpf-urlcallback");
    let script = format!("{binary} {args} {into}; exit ${{PIPESTATUS[0]}}");
    let output = std::process::Command::new("bash")
        .args(["-c", &script])
        .current_dir(service.folder())
        .output()
        .unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[cfg(unix)]
#[test]
fn a_command_completes_its_work_after_a_closed_pipe() {
    const EVENTS: usize = 30_000;
    let service = Service::prepare("");
    let lines: String = (0..EVENTS)
        .map(|job| event("job_sending", &job.to_string(), "http://127.0.0.1:1/").to_string() + "\n")
        .collect();
    std::fs::write(service.path("events.ndjson"), lines).unwrap();
    let (code, said) = piped(&service, "submit --file events.ndjson", "| head -3");
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("30000 events, 30000 accepted"), "{said}");
    let queue = || service.json(&["inspect-queue", "--limit", "60", "--output", "json"]);
    let listed = queue();
    assert_eq!(listed["queue"]["pending"], EVENTS);

    let ids: Vec<_> = listed["callbacks"].as_array().unwrap().iter().map(|it| &it["id"]).collect();
    let named = |ids: &[&serde_json::Value]| -> String {
        ids.iter().flat_map(|id| [" --id ", id.as_str().unwrap()]).collect()
    };
    let (code, said) = piped(&service, &format!("cancel{}", named(&ids[..50])), "| true");
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(queue()["queue"]["failed"], 50);

    // If nothing can be printed, the work is completed and the error reported.
    let (code, said) = piped(&service, &format!("cancel{}", named(&ids[50..])), "> /dev/full");
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("the command succeeded"), "{said}");
    assert_eq!(queue()["queue"]["failed"], 60);
    let (code, said) = piped(&service, "replay-failed --all", "> /dev/full");
    assert_eq!(code, Some(1), "{said}");
    assert_eq!(queue()["queue"]["failed"], 0);

    // A read-only command may end silently; a truncated export is a failure.
    assert_eq!(piped(&service, "inspect-queue --limit 1000", "| true").0, Some(0));
    assert_eq!(piped(&service, "export", "| head -1").0, Some(1));
}
