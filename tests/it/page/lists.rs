//! Lists of single stages of pending callbacks, and of names with bidirectional controls.

use super::{encoded, failed, send, text, view};
use crate::support::{Answer, Receiver, Service, event, eventually};

#[test]
fn the_counts_of_the_overview_link_to_the_counted_callbacks() {
    let service = Service::start("retry.initial_interval = \"10m\"\nretry.jitter = 0\n");
    let (api, _, ended) = failed(&service);
    let busy = Receiver::answering(vec![], Answer::Status(503));
    let slow = Receiver::answering(vec![], Answer::Wait);
    let paused = "http://some-host.invalid:8080";
    api.post("/v1/destinations/pause", &serde_json::json!({ "destination": paused }));
    let accept = |job: &str, url: &str| api.accept(&event("job_sending", job, url));
    let retried = accept("2", &busy.url("/"));
    eventually("an attempt", || {
        let it = api.callback(&retried);
        (it["attemptCount"] == 1 && it["inFlight"] == false).then_some(())
    });
    let blocked = accept("2", &busy.url("/"));
    let sent = accept("3", &slow.url("/"));
    eventually("it is sent", || (api.callback(&sent)["inFlight"] == true).then_some(()));
    let due = accept("4", &format!("{paused}/"));
    let all = [&retried, &blocked, &sent, &due, &ended];
    let overview = text(&view(&api, "/ui/"));
    for (state, shown, count) in [
        ("pending", &[&retried, &blocked, &sent, &due][..], 4),
        ("due", &[&due], 0),
        ("waiting", &[&retried, &blocked], 2),
        ("in_flight", &[&sent], 1),
        ("failed", &[&ended], 1),
    ] {
        let link = format!("<a href=\"./callbacks?state={state}\"><b>{count}</b>");
        assert!(overview.contains(&link), "{link}: {overview}");
        let page = text(&view(&api, &format!("/ui/callbacks?state={state}")));
        let listed = api.get(&format!("/v1/callbacks?state={state}")).json().to_string();
        let args = ["inspect-queue", "--state", state, "--output", "ndjson"];
        let printed = String::from_utf8(service.run(&args).stdout).unwrap();
        for id in all {
            let expected = shown.contains(&id);
            for (from, what) in [("page", &page), ("API", &listed), ("command", &printed)] {
                assert_eq!(what.contains(id.as_str()), expected, "{state}, {from}: {what}");
            }
        }
        assert!(page.contains(&format!("<option value=\"{state}\" selected>")), "{page}");
    }
    let rows = text(&view(&api, "/ui/destinations"));
    let link = format!("state=in_flight&#38;destination={}\">1</a>", encoded(&slow.url("")));
    assert!(rows.contains(&link), "{rows}");
    // For a destination, and with a time of the end, which pending callbacks do not have.
    let of = |query: &str| text(&view(&api, &format!("/ui/callbacks?{query}")));
    assert!(of(&format!("state=in_flight&destination={}", encoded(&slow.url("")))).contains(&sent));
    assert!(
        !of(&format!("state=in_flight&destination={}", encoded(&busy.url("")))).contains(&sent)
    );
    assert!(of("state=due&endedSince=1h").contains("No callback matches."));
    slow.open();
}

#[test]
fn an_action_on_one_stage_leaves_the_others_alone() {
    let service = Service::start("retry.initial_interval = \"10m\"\nretry.jitter = 0\n");
    let api = service.api();
    let busy = Receiver::answering(vec![], Answer::Status(503));
    let paused = "http://some-host.invalid:8080";
    api.post("/v1/destinations/pause", &serde_json::json!({ "destination": paused }));
    let waits = api.accept(&event("job_sending", "1", &busy.url("/")));
    eventually("an attempt", || {
        let it = api.callback(&waits);
        (it["attemptCount"] == 1 && it["inFlight"] == false).then_some(())
    });
    let due = api.accept(&event("job_sending", "2", &format!("{paused}/")));
    let asked = text(&view(&api, "/ui/actions/cancel?state=waiting&scope=all"));
    assert!(asked.contains("<b>1</b> callback matches"), "{asked}");
    assert!(asked.contains(" Waiting</dd>"), "{asked}");
    let form = asked.split_once("<form method=\"post\"").unwrap().1;
    for field in ["name=\"state\" value=\"waiting\"", "name=\"all\" value=\"true\""] {
        assert!(form.contains(field), "{field}: {form}");
    }
    let none = send(&api, "/ui/actions/replay", "state=waiting&all=true");
    assert_eq!(none.status, 400, "these are not failed: {}", text(&none));
    let done = send(&api, "/ui/actions/cancel", "state=waiting&all=true");
    assert!(done.header("location").ends_with("matched=1&changed=1"), "{}", text(&done));
    assert_eq!(api.callback(&waits)["state"], "failed");
    assert_eq!(api.callback(&due)["state"], "pending");
}

#[test]
fn text_with_bidi_controls_is_marked_and_still_selects() {
    let service = Service::start("");
    let api = service.api();
    let bad = Receiver::answering(vec![], Answer::Status(410));
    let mut event = event("job_sending", "1", &bad.url("/"));
    event["jobIdFs"] = "\u{202e}4711".into();
    let id = api.accept(&event);
    api.wait_for_state(&id, "failed");
    let directory = encoded("\u{202e}4711");
    for path in ["", "callbacks", &*format!("callbacks/{id}")] {
        let page = text(&view(&api, &format!("/ui/{path}")));
        assert!(page.contains("\u{fffd}4711") && !page.contains('\u{202e}'), "{path}: {page}");
    }
    let list = text(&view(&api, &format!("/ui/callbacks?jobIdFs={directory}")));
    assert!(list.contains(&id), "{list}");
    let field = "name=\"jobIdFs\" value=\"\u{202e}4711\"";
    assert_eq!(list.matches(field).count(), 2, "the filter and the form of the rows: {list}");
    let asked = text(&view(&api, &format!("/ui/actions/replay?jobIdFs={directory}")));
    assert!(asked.contains("<b>1</b> callback matches") && asked.contains(field), "{asked}");
}

#[test]
fn the_list_of_waiting_callbacks_follows_the_queue() {
    let service = Service::start("retry.initial_interval = \"10m\"\nbreaker.failures = 0\n");
    let busy = Receiver::answering(vec![], Answer::Status(503));
    let api = service.api();
    let fails = |job: &str| {
        let id = api.accept(&event("job_sending", job, &busy.url("/")));
        eventually("an attempt", || {
            let it = api.callback(&id);
            (it["attemptCount"] == 1 && it["inFlight"] == false).then_some(())
        });
        id
    };
    let waiting = || {
        let list = api.get("/v1/callbacks?state=waiting").json();
        let ids = list["callbacks"].as_array().unwrap().iter();
        ids.map(|it| it["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let first = fails("1");
    assert_eq!([waiting(), waiting()], [[first.as_str()], [first.as_str()]]);
    let second = fails("2");
    assert_eq!(waiting(), [second.as_str(), first.as_str()]);
    assert!(service.run(&["cancel", "--id", &second]).status.success());
    assert_eq!(waiting(), [first.as_str()]);
    assert!(service.run(&["retry-now", "--id", &first]).status.success());
    eventually("it has failed again", || (api.callback(&first)["attemptCount"] == 2).then_some(()));
    eventually("it waits again", || (waiting() == [first.as_str()]).then_some(()));
}
