//! How destinations are shown: their state, since when, why, and what happens next.

use serde_json::json;

use super::{encoded, text, view};
use crate::support::{Answer, Api, Receiver, Service, event, eventually};

/// Within a test, only the first attempt and requested ones are made.
const SLOW: &str = "retry.initial_interval = \"10m\"\nretry.jitter = 0\n";

/// Submits a callback, and waits until its first attempt has failed.
fn tried(api: &Api, job: &str, url: &str) -> String {
    let id = api.accept(&event("job_sending", job, url));
    eventually("an attempt", || {
        let it = api.callback(&id);
        (it["attemptCount"] == 1 && it["inFlight"] == false).then_some(())
    });
    id
}

/// The row of a destination in a view.
fn row(api: &Api, path: &str, destination: &str) -> String {
    let page = text(&view(api, path));
    let rows = page.split("<tr>").filter(|row| row.contains(&format!(">{destination}</a>")));
    rows.map(|row| row.split("</tr>").next().unwrap_or_default()).next().unwrap_or_default().into()
}

fn badge(class: &str, word: &str) -> String {
    format!("<span class=\"state {class}\">{word}</span>")
}

fn time(at: &serde_json::Value) -> String {
    format!("<time datetime=\"{}\">", at.as_str().unwrap())
}

/// A destination as the API shows it.
fn known(api: &Api, destination: &str) -> serde_json::Value {
    let all = api.get("/v1/destinations").json();
    let all = all["destinations"].as_array().unwrap().clone();
    all.into_iter().find(|it| it["destination"] == destination).unwrap_or_default()
}

fn opened(api: &Api, destination: &str) -> serde_json::Value {
    eventually("it is open", || Some(known(api, destination)).filter(|it| it["open"] == true))
}

#[test]
fn a_destination_whose_last_attempt_failed_is_failing_with_the_reason() {
    let service = Service::start(SLOW);
    let api = service.api();
    let busy = Receiver::answering(vec![], Answer::Status(503));
    tried(&api, "1", &busy.url("/"));
    for path in ["/ui/", "/ui/destinations"] {
        let row = row(&api, path, &busy.url(""));
        assert!(row.contains(&badge("bad", "failing")), "{path}: {row}");
        assert!(row.contains("<strong>status 503</strong>"), "{path}: {row}");
        assert!(row.contains("class=\"since\""), "{path}: {row}");
        assert!(!row.contains(&badge("good", "ok")), "{path}: {row}");
    }
    // A destination that refuses every callback does not work either; one that refuses a single callback
    // does.
    let bad =
        Receiver::answering(vec![Answer::Status(410), Answer::Status(200)], Answer::Status(410));
    for (job, state, word) in [
        ("2", "failed", badge("bad", "failing")),
        ("3", "delivered", badge("good", "ok")),
        ("4", "failed", badge("good", "ok")),
    ] {
        let id = api.accept(&event("job_sending", job, &bad.url("/")));
        api.wait_for_state(&id, state);
        let row = row(&api, "/ui/destinations", &bad.url(""));
        assert!(row.contains(&word), "job {job}: {row}");
    }
    assert_eq!(row(&api, "/ui/", &bad.url("")), "", "it works");
}

#[test]
fn a_paused_destination_shows_since_when_it_is_down() {
    let service = Service::start(&format!("{SLOW}breaker.failures = 1"));
    let api = service.api();
    let busy = Receiver::answering(vec![], Answer::Status(503));
    tried(&api, "1", &busy.url("/"));
    let open_since = opened(&api, &busy.url(""))["openSince"].clone();
    api.post("/v1/destinations/pause", &json!({ "destination": busy.url("") }));
    let paused_at = known(&api, &busy.url(""))["pausedAt"].clone();
    for path in ["/ui/", "/ui/destinations"] {
        let row = row(&api, path, &busy.url(""));
        assert!(row.contains(&badge("paused", "paused")), "{path}: {row}");
        assert!(row.contains(&badge("bad", "down")), "{path}: {row}");
        assert!(row.contains(&format!("paused {}", time(&paused_at))), "{path}: {row}");
        assert!(row.contains(&format!("down {}", time(&open_since))), "{path}: {row}");
        assert!(!row.contains("probe"), "it is not probed: {row}");
    }
}

#[test]
fn the_next_probe_is_never_in_the_past() {
    let settings = format!("{SLOW}breaker.failures = 1\nbreaker.initial_pause = \"1s\"");
    let service = Service::start(&settings);
    let api = service.api();
    let busy = Receiver::answering(vec![], Answer::Status(503));
    let id = tried(&api, "1", &busy.url("/"));
    opened(&api, &busy.url(""));
    let shown = || row(&api, "/ui/destinations", &busy.url(""));
    assert!(!shown().contains("next probe <time"), "nothing is due: {}", shown());
    // Its only callback is due in ten minutes, long after the pause.
    eventually("the pause is over", || {
        shown().contains("next probe as soon as a callback is due").then_some(())
    });
    let own = api.callback(&id)["nextAttemptAt"].clone();
    for path in ["/ui/callbacks".to_owned(), format!("/ui/callbacks/{id}")] {
        let page = text(&view(&api, &path));
        let said = format!("destination down; retry not before {}", time(&own));
        assert!(page.contains(&said), "{path}: {page}");
    }
    // A due callback is the probe immediately, and the pause after it is longer.
    tried(&api, "2", &busy.url("/"));
    let one = text(&view(&api, &format!("/ui/callbacks/{id}")));
    assert!(one.contains(&badge("bad", "down")), "{one}");
}

#[test]
fn a_due_callback_of_a_destination_that_is_down_waits_for_it() {
    let settings = format!("{SLOW}breaker.failures = 1\nbreaker.initial_pause = \"5m\"");
    let service = Service::start(&settings);
    let api = service.api();
    let busy = Receiver::answering(vec![], Answer::Status(503));
    tried(&api, "1", &busy.url("/"));
    let open = opened(&api, &busy.url(""));
    let shown = row(&api, "/ui/destinations", &busy.url(""));
    let probe = time(&open["nextProbeAt"]);
    assert!(shown.contains(&format!("next probe not before {probe}")), "{shown}");
    let id = api.accept(&event("job_sending", "2", &busy.url("/")));
    let shown = row(&api, "/ui/destinations", &busy.url(""));
    assert!(shown.contains(&format!("next probe {probe}")), "{shown}");
    let list = text(&view(&api, "/ui/callbacks?jobId=2"));
    assert!(list.contains("waits until its destination works"), "{list}");
    assert!(!list.contains(&probe), "only one of all will be the probe: {list}");
    let one = text(&view(&api, &format!("/ui/callbacks/{id}")));
    assert!(one.contains(&format!("next probe {probe}")), "{one}");
}

#[test]
fn a_callback_waits_for_the_hold_of_its_destination_and_for_its_own_pause() {
    let service = Service::start(SLOW);
    let api = service.api();
    let pause = vec![("retry-after", "60".to_owned())];
    let held = Receiver::answering(vec![], Answer::With(503, pause));
    let id = tried(&api, "1", &held.url("/"));
    let until = known(&api, &held.url(""))["holdUntil"].clone();
    api.accept(&event("job_sending", "2", &held.url("/")));
    let said = |at| format!("destination held until {}", time(at));
    let list = text(&view(&api, "/ui/callbacks?jobId=2"));
    assert!(list.contains(&said(&until)), "{list}");
    let own = api.callback(&id)["nextAttemptAt"].clone();
    assert!(own.as_str() > until.as_str(), "ten minutes are longer than one");
    let list = text(&view(&api, "/ui/callbacks?jobId=1"));
    assert!(list.contains(&format!("retry {}", time(&own))), "{list}");
    let shown = row(&api, "/ui/", &held.url(""));
    assert!(shown.contains(&badge("pending", "held")), "{shown}");
    assert!(shown.contains(&format!("held until {}", time(&until))), "{shown}");
}

#[test]
fn a_start_does_not_forget_that_a_destination_failed() {
    let mut service = Service::start(&format!("{SLOW}breaker.failures = 2"));
    let api = service.api();
    let busy = Receiver::answering(vec![], Answer::Status(503));
    let id = tried(&api, "1", &busy.url("/"));
    let first = api.callback(&id)["attempts"][0]["startedAt"].clone();
    let fails_since = format!("its oldest callback has failed since {}", time(&first));
    service.kill();
    service.serve();
    let api = service.api();
    for path in ["/ui/", "/ui/destinations"] {
        let row = row(&api, path, &busy.url(""));
        assert!(row.contains(&badge("bad", "failing")), "{path}: {row}");
        assert!(row.contains("status 503") && row.contains(&fails_since), "{path}: {row}");
    }
    // It is down again after two failures, and may have been down before.
    for job in ["2", "3"] {
        tried(&api, job, &busy.url("/"));
    }
    opened(&api, &busy.url(""));
    let shown = row(&api, "/ui/", &busy.url(""));
    assert!(shown.contains(&badge("bad", "down")) && shown.contains("or earlier"), "{shown}");
    assert!(shown.contains(&fails_since), "{shown}");
    let other = Receiver::answering(vec![], Answer::Status(503));
    for job in ["4", "5"] {
        tried(&api, job, &other.url("/"));
    }
    opened(&api, &other.url(""));
    let shown = row(&api, "/ui/", &other.url(""));
    assert!(!shown.contains("or earlier"), "nothing is older than the start: {shown}");
    let all = text(&view(&api, "/ui/destinations"));
    let started = all.split_once("Counted since the start of the service: ").unwrap().1;
    let started = started.split_once('>').unwrap().0;
    let vague = format!("nothing delivered since {started}>");
    assert!(started.starts_with("<time") && shown.contains(&vague), "{vague}: {shown}");
    let shown = row(&api, "/ui/", &busy.url(""));
    assert!(!shown.contains("nothing delivered"), "the store says more: {shown}");
}

#[test]
fn the_overview_shows_unintended_states_first_and_counts_the_rest() {
    let service = Service::start(&format!("{SLOW}breaker.failures = 1"));
    let api = service.api();
    let (paused, fails) =
        (Receiver::start(), Receiver::answering(vec![Answer::Status(410)], Answer::Status(200)));
    api.post("/v1/destinations/pause", &json!({ "destination": paused.url("") }));
    for job in ["1", "2"] {
        api.accept(&event("job_sending", job, &paused.url("/")));
    }
    let id = api.accept(&event("job_sending", "3", &fails.url("/")));
    api.wait_for_state(&id, "failed");
    let down: Vec<_> = (1..=7)
        .map(|n| {
            let url = format!("http://127.0.0.{n}:1");
            tried(&api, &format!("down-{n}"), &url);
            url
        })
        .collect();
    let first_jobs = || {
        let page = text(&view(&api, "/ui/"));
        let table = page.split_once("data-live=\"troubled\"").unwrap().1;
        table.split_once("</section>").unwrap().0.to_owned()
    };
    let place = |table: &str, name: &str| table.find(&format!(">{name}</a>"));
    let table = eventually("all are down", || {
        let table = first_jobs();
        (table.matches(&badge("bad", "down")).count() == 7).then_some(table)
    });
    let at = place(&table, &fails.url("")).expect("the failing one");
    assert!(down.iter().all(|it| place(&table, it).unwrap() < at), "{table}");
    assert_eq!(place(&table, &paused.url("")), None, "eight are shown: {table}");
    assert!(table.contains("<a href=\"./destinations\">and 1 more</a>"), "{table}");
    // The destination with the most pending callbacks is the first one.
    for job in ["4", "5"] {
        api.accept(&event("job_sending", job, &format!("{}/", down[3])));
    }
    let table = first_jobs();
    assert!(down.iter().all(|it| place(&table, it) >= place(&table, &down[3])), "{table}");
}

#[test]
fn paused_callbacks_are_not_counted_as_due() {
    let service = Service::start(SLOW);
    let api = service.api();
    let there = Receiver::start();
    api.post("/v1/destinations/pause", &json!({ "destination": there.url("") }));
    for job in ["1", "2"] {
        api.accept(&event("job_sending", job, &there.url("/")));
    }
    let page = text(&view(&api, "/ui/"));
    let card = "<b>0</b> Due<span class=\"what\">2 more at paused destinations</span>";
    assert!(page.contains(card), "{page}");
    api.post("/v1/destinations/resume", &json!({ "destination": there.url("") }));
    eventually("all are delivered", || (api.queue()["delivered"] == 2).then_some(()));
    let page = text(&view(&api, "/ui/"));
    assert!(page.contains("<b>0</b> Due</a>"), "{page}");
}

#[test]
fn a_destination_without_callbacks_is_listed_if_it_is_known() {
    let service = Service::start(SLOW);
    let api = service.api();
    let (one, two) = (Receiver::start(), Receiver::start());
    for (job, to) in [("1", &one), ("2", &two)] {
        let id = api.accept(&event("job_sending", job, &to.url("/")));
        api.wait_for_state(&id, "delivered");
    }
    let all = text(&view(&api, "/ui/destinations"));
    assert!(all.contains(&one.url("")) && all.contains(&two.url("")), "{all}");
    let port = one.address.port();
    let found = text(&view(&api, &format!("/ui/destinations?host={port}")));
    assert!(found.contains(&one.url("")) && !found.contains(&two.url("")), "{found}");
    let search = view(&api, &format!("/ui/search?q={}", encoded(&one.url(""))));
    assert_eq!(search.status, 303);
    assert_eq!(known(&api, &one.url("")), json!(null), "the API lists those with callbacks");
}
