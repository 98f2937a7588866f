//! Every action through its form, and its lines in the log.

use serde_json::{Value, json};

use super::{ask, basic, encoded, failed, send, text, view};
use crate::support::{Answer, Api, Receiver, Service, event, eventually};

/// Within a test, only the first attempt and requested ones are made.
const SLOW: &str = "[retry]\ninitial_interval = \"10m\"\njitter = 0";

/// A receiver that fails, and callbacks that wait for the next attempt.
fn waiting(api: &Api, jobs: &[&str]) -> (Receiver, Vec<String>) {
    let busy = Receiver::answering(vec![Answer::Status(503); jobs.len()], Answer::Status(200));
    let accept = |job: &&str| api.accept(&event("job_sending", job, &busy.url("/")));
    let ids: Vec<_> = jobs.iter().map(accept).collect();
    for id in &ids {
        eventually("an attempt", || (api.callback(id)["attemptCount"] == 1).then_some(()));
    }
    (busy, ids)
}

/// The target of a redirect, relative to `/ui/actions/` or `/ui/destinations/`.
fn leads_to(answer: &super::Response) -> String {
    assert_eq!(answer.status, 303, "{}", text(answer));
    answer.header("location").strip_prefix("../").unwrap().to_owned()
}

#[test]
fn one_callback_is_sent_again_cancelled_and_tried_now() {
    let service = Service::start(SLOW);
    let (api, bad, id) = failed(&service);
    let one = |id: &str, action: &str| format!("callbacks/{id}?done={action}&matched=1&changed=1");
    let to = leads_to(&send(&api, "/ui/actions/replay", &format!("id={id}")));
    assert_eq!(to, one(&id, "replay"));
    assert!(text(&view(&api, &format!("/ui/{to}"))).contains("To be sent again: 1 of 1"));
    api.wait_for_state(&id, "delivered");
    assert_eq!(bad.count(), 2);
    let (busy, ids) = waiting(&api, &["2", "3"]);
    let answer = send(&api, "/ui/actions/cancel", &format!("id={}", ids[0]));
    assert_eq!(leads_to(&answer), one(&ids[0], "cancel"));
    assert_eq!(api.callback(&ids[0])["lastError"]["kind"], "cancelled");
    let answer = send(&api, "/ui/actions/retry-now", &format!("id={}", ids[1]));
    assert_eq!(leads_to(&answer), one(&ids[1], "retry-now"));
    api.wait_for_state(&ids[1], "delivered");
    assert_eq!(busy.count(), 3);
}

#[test]
fn an_action_on_a_filter_counts_first_and_reports_its_result() {
    let service = Service::start(SLOW);
    let api = service.api();
    let (busy, ids) = waiting(&api, &["1", "2", "3"]);
    let (_open, other) = waiting(&api, &["4"]);
    let filter = format!("destination={}", encoded(&busy.url("")));
    let asked = text(&view(&api, &format!("/ui/actions/cancel?{filter}")));
    assert!(asked.contains("<b>3</b> callbacks match"), "{asked}");
    assert!(asked.contains("<span class=\"state pending\">Pending</span>"), "{asked}");
    let resolved = text(&view(&api, &format!("/ui/actions/cancel?{filter}&since=2h")));
    assert!(resolved.contains("2h = <time datetime=\"20"), "{resolved}");
    assert_eq!(api.callback(&ids[0])["state"], "pending", "it is only asked");
    let answer = send(&api, "/ui/actions/cancel", &filter);
    let to = leads_to(&answer);
    assert_eq!(to, format!("callbacks?{filter}&done=cancel&matched=3&changed=3"));
    assert!(text(&view(&api, &format!("/ui/{to}"))).contains("Cancelled: 3 of 3"));
    assert!(ids.iter().all(|id| api.callback(id)["state"] == "failed"));
    assert_eq!(api.callback(&other[0])["state"], "pending");
    // The same in the opposite order.
    let kind = "errorKind=cancelled&jobIdFs=fs-2";
    assert!(leads_to(&send(&api, "/ui/actions/replay", kind)).ends_with("matched=1&changed=1"));
    api.wait_for_state(&ids[1], "delivered");
    assert_eq!(api.callback(&ids[0])["state"], "failed");
    let all = leads_to(&send(&api, "/ui/actions/replay", "all=true"));
    assert!(all.ends_with("done=replay&matched=2&changed=2"), "{all}");
    api.wait_for_state(&ids[0], "delivered");
    let tried = leads_to(&send(&api, "/ui/actions/retry-now", "jobId=4"));
    assert!(tried.ends_with("done=retry-now&matched=1&changed=1"), "{tried}");
    api.wait_for_state(&other[0], "delivered");
}

#[test]
fn only_selected_callbacks_are_changed_whatever_the_filter() {
    let service = Service::start(SLOW);
    let api = service.api();
    let (busy, ids) = waiting(&api, &["1", "2", "3"]);
    let ticked = format!("id={}&id={}", ids[0], ids[2]);
    let list = format!("state=pending&destination={}&{ticked}", encoded(&busy.url("")));
    let asked = text(&view(&api, &format!("/ui/actions/cancel?{list}")));
    assert!(asked.contains("<b>2</b> callbacks match"), "{asked}");
    let inputs = asked.split("<input").filter(|input| input.contains("name=\"id\"")).count();
    assert!(inputs == 2 && !asked.contains("name=\"destination\""), "{asked}");
    let to = leads_to(&send(&api, "/ui/actions/cancel", &ticked));
    assert!(to.ends_with("done=cancel&matched=2&changed=2"), "{to}");
    let states: Vec<_> = ids.iter().map(|id| api.callback(id)["state"].clone()).collect();
    assert_eq!(states, ["failed", "pending", "failed"]);
}

#[test]
fn the_confirmation_lists_the_selection_and_all_requires_a_choice() {
    let service = Service::start(SLOW);
    let api = service.api();
    let (busy, ids) = waiting(&api, &["job-a", "job-b", "job-c"]);
    let list = format!("destination={}", encoded(&busy.url("")));
    let ticked = format!("{list}&id={}&id={}", ids[0], ids[2]);
    let asked = text(&view(&api, &format!("/ui/actions/cancel?{ticked}&scope=ticked")));
    assert!(asked.contains("<b>2</b> callbacks match"), "{asked}");
    for (id, job, named) in
        [(&ids[0], "job-a", true), (&ids[1], "job-b", false), (&ids[2], "job-c", true)]
    {
        let link = format!("<a href=\"../callbacks/{id}\" class=\"mono\">{job}</a>");
        assert_eq!(asked.contains(&link), named, "{job}: {asked}");
    }
    assert!(asked.contains(&format!(">{}</td>", busy.url(""))), "{asked}");
    let all = text(&view(&api, &format!("/ui/actions/cancel?{ticked}&scope=all")));
    assert!(all.contains("<b>3</b> callbacks match"), "{all}");
    assert!(!all.contains("name=\"id\""), "{all}");
    let none = view(&api, &format!("/ui/actions/cancel?{list}&scope=ticked"));
    assert_eq!(none.status, 400);
    assert!(text(&none).contains("No callback was selected"), "{}", text(&none));
    assert_eq!(api.queue()["pending"], 3, "it is only asked");
}

#[test]
fn an_action_changes_nothing_that_its_list_does_not_show() {
    let service = Service::start(SLOW);
    let (api, _, failed) = failed(&service);
    let (_, pending) = waiting(&api, &["2"]);
    for (action, state) in [
        ("cancel", "failed"),
        ("retry-now", "failed"),
        ("replay", "pending"),
        ("cancel", "delivered"),
    ] {
        let asked = text(&view(&api, &format!("/ui/actions/{action}?state={state}")));
        assert!(asked.contains("<b>0</b> callbacks match"), "{action} of {state}: {asked}");
        assert!(!asked.contains("Yes, "), "{action} of {state}");
    }
    for (action, state) in [("cancel", "pending"), ("retry-now", "pending"), ("replay", "failed")] {
        let asked = text(&view(&api, &format!("/ui/actions/{action}?state={state}")));
        assert!(asked.contains("<b>1</b> callback matches"), "{action} of {state}: {asked}");
    }
    assert_eq!(api.callback(&pending[0])["state"], "pending");
    assert_eq!(api.callback(&failed)["state"], "failed");
}

#[test]
fn more_than_five_thousand_are_done_in_steps() {
    let service = Service::start("");
    let api = service.api();
    let dead = "http://127.0.0.1:1";
    api.post("/v1/destinations/pause", &json!({ "destination": dead }));
    let lines: String = (0..5003)
        .map(|job| event("job_sending", &job.to_string(), &format!("{dead}/")).to_string() + "\n")
        .collect();
    api.post_lines(&lines);
    let filter = format!("destination={}", encoded(dead));
    let asked = text(&view(&api, &format!("/ui/actions/cancel?{filter}")));
    assert!(asked.contains("name=\"total\" value=\"5003\""), "{asked}");
    let first = send(&api, "/ui/actions/cancel", &format!("{filter}&total=5003&more=false"));
    let page = text(&first);
    assert_eq!(first.status, 200, "{page}");
    assert!(page.contains("Done so far: <b>5,000</b> of 5,003</p>"), "{page}");
    assert_eq!(api.queue()["pending"], 3);
    // The form for the rest, as a browser sends it.
    let form = page.split_once("<form method=\"post\"").unwrap().1.split("</form>").next().unwrap();
    assert!(
        form.contains("action=\"../actions/cancel\"") && form.contains("<button>Go on</button>")
    );
    let value = |input: &str, name: &str| {
        let rest = input.split_once(&format!("{name}=\""))?.1;
        Some(rest.split('"').next().unwrap().replace("&#38;", "&"))
    };
    let fields =
        form.split("<input").filter_map(|it| Some((value(it, "name")?, value(it, "value")?)));
    let rest: Vec<_> = fields.map(|(name, value)| format!("{name}={}", encoded(&value))).collect();
    let to = leads_to(&send(&api, "/ui/actions/cancel", &rest.join("&")));
    assert!(to.ends_with("done=cancel&matched=5003&changed=5003"), "{to}");
    assert_eq!((&api.queue()["pending"], &api.queue()["failed"]), (&json!(0), &json!(5003)));
}

#[test]
fn a_destination_is_paused_resumed_and_tried_now() {
    let service = Service::start(SLOW);
    let api = service.api();
    let (busy, ids) = waiting(&api, &["1"]);
    let form = format!("destination={}&host=127", encoded(&busy.url("")));
    let known = || api.get("/v1/destinations").json()["destinations"][0].clone();
    let done = |name: &str| {
        let to = leads_to(&send(&api, &format!("/ui/destinations/{name}"), &form));
        assert!(to.starts_with(&format!("destinations?done={name}")) && to.ends_with("&host=127"));
        text(&view(&api, &format!("/ui/{to}")))
    };
    let page = done("pause");
    assert!(
        page.contains("Paused. Events are still accepted") && page.contains(">Resume</button>")
    );
    assert_eq!(known()["state"], "paused");
    let page = done("resume");
    assert!(page.contains("Resumed.") && page.contains(">Pause</button>"));
    assert_ne!(known()["state"], "paused");
    assert!(done("retry-now").contains("Due now: 1"));
    api.wait_for_state(&ids[0], "delivered");
}

#[test]
fn forms_keep_the_chosen_language() {
    let service = Service::start(SLOW);
    let (api, bad, id) = failed(&service);
    let to = leads_to(&send(&api, "/ui/actions/replay", &format!("id={id}&lang=de")));
    assert_eq!(to, format!("callbacks/{id}?done=replay&matched=1&changed=1&lang=de"));
    assert!(text(&view(&api, &format!("/ui/{to}"))).contains("Werden erneut gesendet: 1 von 1"));
    let form = format!("destination={}&lang=de", encoded(&bad.url("")));
    assert!(leads_to(&send(&api, "/ui/destinations/pause", &form)).ends_with("&lang=de"));
    let refused = text(&send(&api, "/ui/actions/replay", "id=x&lang=de"));
    assert!(refused.contains("Nichts wurde getan, weil ein Feld nicht lesbar ist:"), "{refused}");
}

#[test]
fn a_list_offers_the_actions_that_change_what_it_shows() {
    let service = Service::start(SLOW);
    let (api, _, _) = failed(&service);
    let (_busy, _) = waiting(&api, &["2"]);
    let good = Receiver::start();
    let delivered = api.accept(&event("job_sending", "3", &good.url("/")));
    api.wait_for_state(&delivered, "delivered");
    for (state, offered) in [
        ("", [true, true, true]),
        ("failed", [true, false, false]),
        ("pending", [false, true, true]),
        ("delivered", [false, false, false]),
    ] {
        let page = text(&view(&api, &format!("/ui/callbacks?state={state}")));
        let offers = ["replay", "retry-now", "cancel"]
            .map(|action| page.contains(&format!("formaction=\"./actions/{action}\"")));
        assert_eq!(offers, offered, "{state}");
    }
}

/// The lines of the log about actions of operators.
fn audit(service: &Service) -> Vec<Value> {
    service.log().into_iter().filter(|line| line["event.action"] == "page-action").collect()
}

#[test]
fn actions_are_logged_with_user_and_address() {
    let service = Service::start(SLOW);
    let (api, bad, id) = failed(&service);
    send(&api, "/ui/actions/replay", &format!("id={id}"));
    send(&api, "/ui/destinations/pause", &format!("destination={}", bad.url("")));
    let signed = basic(&api.token);
    let foreign = [("authorization", &*signed), ("origin", "http://evil.example")];
    ask(&api, "POST", "/ui/destinations/resume", &foreign, "");
    view(&api, "/ui/callbacks");
    let lines = eventually("three lines", || {
        let lines = audit(&service);
        (lines.len() >= 3).then_some(lines)
    });
    let told: Vec<_> = lines
        .iter()
        .map(|line| {
            let field = |name: &str| line[name].as_str().unwrap_or_default();
            assert_eq!((field("source.ip"), field("user.name")), ("127.0.0.1", "anna"), "{line}");
            (field("url.path"), field("event.outcome"), &line["http.response.status_code"])
        })
        .collect();
    let (done, refused) = (json!(303), json!(403));
    let expected = [
        ("/ui/actions/replay", "success", &done),
        ("/ui/destinations/pause", "success", &done),
        ("/ui/destinations/resume", "failure", &refused),
    ];
    assert_eq!(told, expected);
}
