//! Disks that are full, read-only, over quota or faulty, at startup and later.

use std::fs;

use serde_json::json;

use crate::support::{Answer, Api, Receiver, Service, event, eventually};

#[test]
fn a_failed_write_or_sync_stops_the_store_until_a_restart() {
    for rule in ["fdatasync EIO", "pwrite EIO", "pwrite ENOSPC", "pwrite EDQUOT"] {
        let mut service = Service::prepare("");
        service.put_on_a_disk_that_can_fail();
        service.serve();
        let receiver = Receiver::answering(vec![], Answer::Wait);
        let api = service.api();
        let accepted: Vec<_> = (0..20)
            .map(|job| api.accept(&event("job_sending", &job.to_string(), &receiver.url("/"))))
            .collect();
        service.fail_disk(rule);
        let refused = api.post("/v1/events", &event("job_sending", "lost", &receiver.url("/")));
        assert_eq!(refused.status, 503, "{rule}: {refused:?}");
        let after = api.post("/v1/events", &event("job_sending", "after", &receiver.url("/")));
        assert_eq!((after.status, after.header("retry-after")), (503, "5"), "{rule}");
        for path in ["/readyz", "/healthz"] {
            let answer = api.get(path);
            let said = String::from_utf8(answer.body).unwrap();
            assert_eq!(answer.status, 503, "{rule} {path}");
            assert!(said.contains("restart the service") && said.contains("data/outbox"), "{said}");
        }
        let status = String::from_utf8(service.run(&["status"]).stdout).unwrap();
        assert!(status.contains("not ready") && status.contains("restart"), "{rule}: {status}");
        let stopped = |line: &serde_json::Value| line["event.action"] == "store-stopped";
        eventually("the log says so", || service.log().iter().any(stopped).then_some(()));

        receiver.open();
        assert_eq!(service.terminate(), Some(0), "{rule}");
        service.mend_disk();
        service.serve();
        let api = service.api();
        for id in accepted {
            api.wait_for_state(&id, "delivered");
        }
    }
}

#[test]
fn a_stalled_disk_limits_attempts_and_is_reported() {
    let mut service = Service::prepare("delivery.concurrency = 4\ndelivery.max_unsettled = 10");
    service.put_on_a_disk_that_can_fail();
    service.serve();
    let receiver = Receiver::answering(vec![], Answer::Wait);
    let api = service.api();
    let lines: String = (0..200)
        .map(|job| event("job_sending", &job.to_string(), &receiver.url("/")).to_string() + "\n")
        .collect();
    api.post_lines(&lines);
    receiver.wait_for(3);
    service.fail_disk("fdatasync STALL");
    receiver.open();
    let said = eventually("it is said what is waited for", || {
        let ready = api.get("/readyz");
        let said = String::from_utf8(ready.body).unwrap();
        (ready.status == 503 && said.contains("data disk")).then_some(said)
    });
    assert!(said.contains("a write has been in progress for"), "{said}");
    assert_eq!(api.get("/healthz").status, 503);
    assert_eq!(receiver.count(), 10, "what is sent and not recorded");
    let status = service.run(&["status"]);
    let text = String::from_utf8(status.stdout).unwrap();
    assert!(text.contains("not ready: waiting for the data disk"), "{text}");
    assert!(text.contains("200"), "the queue is shown: {text}");
    service.mend_disk();
    eventually("all are delivered", || (api.queue()["delivered"] == 200).then_some(()));
    assert_eq!(receiver.count(), 200, "each of them once");
}

#[test]
fn a_service_can_be_stopped_while_opening_the_store() {
    let mut service = Service::prepare("");
    service.put_on_a_disk_that_can_fail();
    service.serve();
    let id = service.api().accept(&event("job_sending", "1", "http://127.0.0.1:1/"));
    service.kill();
    service.fail_disk("fsync STALL");
    service.launch();
    eventually("the store is being opened", || {
        service.path("data/outbox.before").exists().then_some(())
    });
    assert_eq!(service.terminate(), Some(0));
    service.mend_disk();
    service.serve();
    assert_eq!(service.api().callback(&id)["state"], "pending");
}

/// The first or the last write of a commit fails; sled then wakes no waiting thread.
#[test]
fn a_write_error_that_sled_does_not_report_is_detected() {
    let mut service = Service::prepare("");
    service.put_on_a_disk_that_can_fail();
    service.serve();
    let api = service.api();
    let receiver = Receiver::start();
    let accepted = api.accept(&event("job_sending", "1", &receiver.url("/")));
    api.wait_for_state(&accepted, "delivered");
    service.fail_disk("overtaken EIO");
    let refused = api.post("/v1/events", &event("job_sending", "2", &receiver.url("/")));
    assert_eq!(refused.status, 503, "{refused:?}");
    let ready = api.get("/readyz");
    let said = String::from_utf8(ready.body).unwrap();
    assert!(ready.status == 503 && said.contains("restart the service"), "{said}");
    assert!(service.log().iter().any(|line| line["event.action"] == "commit-slow"));

    assert_eq!(service.terminate(), Some(0));
    service.mend_disk();
    service.serve();
    assert_eq!(service.api().callback(&accepted)["state"], "delivered");
}

#[test]
fn a_transient_read_error_fails_only_the_read() {
    let mut service = Service::prepare("");
    service.put_on_a_disk_that_can_fail();
    service.serve();
    let receiver = Receiver::start();
    let lines: String = (0..1000)
        .map(|job| event("job_sending", &job.to_string(), &receiver.url("/")).to_string() + "\n")
        .collect();
    service.api().post_lines(&lines);
    let all_delivered = |api: &Api| (api.queue()["delivered"] == 1000).then_some(());
    eventually("all are delivered", || all_delivered(&service.api()));
    assert_eq!(service.terminate(), Some(0));
    // A new process reads everything from the disk.
    service.serve();
    let api = service.api();
    service.fail_disk("pread EIO");
    let answer = api.get("/v1/callbacks?state=delivered&limit=1000");
    let said = String::from_utf8(answer.body).unwrap();
    assert_eq!(answer.status, 500, "{said}");
    assert!(said.contains("Input/output error"), "{said}");
    service.mend_disk();
    let page = api.get("/v1/callbacks?state=delivered&limit=1000").json();
    assert_eq!(page["callbacks"].as_array().unwrap().len(), 1000);
    assert_eq!(api.get("/readyz").status, 200);
    let id = api.accept(&event("job_finished", "1", &receiver.url("/")));
    api.wait_for_state(&id, "delivered");
}

#[test]
fn a_read_error_in_the_search_for_stuck_callbacks_stops_nothing() {
    let mut service = Service::prepare("outbox.cache_bytes = 1048576");
    service.put_on_a_disk_that_can_fail();
    service.serve();
    let dead = "http://127.0.0.1:1";
    service.api().post("/v1/destinations/pause", &json!({ "destination": dead }));
    let lines: String = (0..3000)
        .map(|job| event("job_sending", &job.to_string(), dead).to_string() + "\n")
        .collect();
    service.api().post_lines(&lines);
    assert_eq!(service.terminate(), Some(0));
    // The search begins at the start and reads all of them.
    service.serve();
    service.fail_disk("pread EIO");
    eventually("the search has failed", || {
        service.log().iter().any(|line| line["event.action"] == "upkeep-failed").then_some(())
    });
    service.mend_disk();
    let api = service.api();
    assert_eq!(api.get("/readyz").status, 200);
    let receiver = Receiver::start();
    let id = api.accept(&event("job_finished", "new", &receiver.url("/")));
    api.wait_for_state(&id, "delivered");
    assert_eq!(api.queue()["pending"], 3000);
}

#[test]
fn a_read_error_in_the_search_for_old_callbacks_stops_nothing() {
    const COUNT: usize = 2_000;
    let rest = "outbox.cache_bytes = 1048576\n[delivery]\nper_destination = 1\n";
    let mut service = Service::prepare(rest);
    service.put_on_a_disk_that_can_fail();
    service.serve();
    // Only one is in flight, and no outcome is committed until the end.
    let waits = Receiver::answering(vec![], Answer::Wait);
    let path = format!("/{}", "x".repeat(8192));
    let lines: String = (0..COUNT)
        .map(|job| event("job_sending", &job.to_string(), &waits.url(&path)).to_string() + "\n")
        .collect();
    service.api().post_lines(&lines);
    service.kill();
    service.serve();
    eventually("one is in flight", || (service.api().queue()["inFlight"] == 1).then_some(()));
    // The cache has room for far fewer than the search expires at once. If they were all in it, they would be
    // expired, and a commit that cannot read stops the store. All become old at once, so that it does not find a few.
    assert!(service.run(&["export", "--file", "all.ndjson"]).status.success());
    service.fail_disk("pread EIO");
    service.configure(&format!("{rest}[retry]\nmax_age = \"1s\"\n"));
    let api = service.api();
    assert_eq!(api.post("/v1/reload", &json!(null)).status, 200);
    let failures = || {
        let log = service.log();
        log.iter().filter(|line| line["event.action"] == "upkeep-failed").count()
    };
    // The first failure may be that of the search for stuck jobs, which is not repeated so soon.
    eventually("searches have failed", || (failures() >= 2).then_some(()));
    service.mend_disk();
    assert_eq!(api.get("/readyz").status, 200);
    // No callback was skipped by a failed search.
    eventually("all but one expire", || (api.queue()["failed"] == COUNT - 1).then_some(()));
}

#[test]
fn a_read_only_store_at_startup_is_a_clear_error() {
    let mut service = Service::prepare("");
    service.put_on_a_disk_that_can_fail();
    service.serve();
    let id = service.api().accept(&event("job_sending", "1", "http://127.0.0.1:1/"));
    service.kill();
    let before = fs::read(service.path("data/outbox/db")).unwrap();
    for (rule, said) in [
        ("pwrite ENOSPC", "No space left"),
        ("open EROFS", "Read-only"),
        ("fsync EIO", "Input/output"),
    ] {
        service.fail_disk(rule);
        let output = service.run(&["serve"]);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{rule}: {text}");
        assert!(text.contains(said) && text.contains("data/outbox"), "{rule}: {text}");
        assert!(!text.contains("panicked"), "{rule}: {text}");
        service.mend_disk();
        assert!(!service.path("data/outbox.before").exists(), "{rule}: a copy is left");
        let after = fs::read(service.path("data/outbox/db")).unwrap();
        assert!(after.starts_with(&before[..20]), "{rule}");
    }
    service.serve();
    assert_eq!(service.api().callback(&id)["state"], "pending");
}

/// A real file system of a few megabytes. It requires user namespaces, which not every machine grants;
/// `.ci/run` runs it.
#[test]
#[ignore = "wants user namespaces: cargo test --test it -- --ignored a_full_disk"]
fn a_full_disk_refuses_events_until_space_is_freed() {
    let mut service = Service::prepare("outbox.min_free_bytes = 20000000");
    let receiver = Receiver::answering(vec![Answer::Status(503)], Answer::Status(200));
    service.serve();
    assert_eq!(service.terminate(), Some(0));
    let script = "cp -r data/outbox keep && mount -t tmpfs -o size=40m none data/outbox && \
                  cp -r keep/. data/outbox && exec \"$0\" serve";
    service.serve_by(&["unshare", "-rm", "sh", "-c", script]);
    let api = service.api();
    let inside = format!("/proc/{}/root{}", service.pid(), service.path("data/outbox").display());
    let ballast = std::path::Path::new(&inside).join("ballast");
    let waiting = api.accept(&event("job_sending", "1", &receiver.url("/")));
    fs::write(&ballast, vec![1; 25_000_000]).unwrap();
    let full = api.post("/v1/events", &event("job_sending", "2", &receiver.url("/")));
    assert_eq!(full.status, 503);
    let said = String::from_utf8(full.body).unwrap();
    assert!(said.contains("outbox.min_free_bytes"), "{said}");
    assert_eq!(api.get("/readyz").status, 503);
    assert_eq!(api.get("/healthz").status, 200, "delivery continues");
    api.wait_for_state(&waiting, "delivered");
    fs::remove_file(&ballast).unwrap();
    assert_eq!(api.get("/readyz").status, 200);
    let id = api.accept(&event("job_sending", "3", &receiver.url("/")));
    api.wait_for_state(&id, "delivered");

    // If no space is left at all, the store reports it and stops; nothing is lost.
    fs::write(&ballast, vec![1; 12_000_000]).unwrap();
    let mut more = fs::File::options().append(true).open(&ballast).unwrap();
    while std::io::Write::write_all(&mut more, &[1; 4096]).is_ok() {}
    assert_eq!(api.get("/readyz").status, 503);
    service.kill();
}
