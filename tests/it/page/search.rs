//! The search, the filter, the languages, and untrusted text.

use super::{ask, basic, encoded, failed, text, view};
use crate::support::{Answer, Receiver, Service, event};

#[test]
fn the_search_accepts_ids_jobs_directories_and_hosts() {
    let service = Service::start("");
    let (api, bad, id) = failed(&service);
    let far = api.accept(&event("job_sending", "4711", "http://some-host.invalid:8080/"));
    api.wait_for_state(&id, "failed");
    let port = bad.address.port().to_string();
    for (wanted, to) in [
        (&*id, format!("./callbacks/{id}")),
        (&*far, format!("./callbacks/{far}")),
        ("4711", "./callbacks?jobId=4711".to_owned()),
        (" 4711 ", "./callbacks?jobId=4711".to_owned()),
        ("fs-4711", "./callbacks?jobIdFs=fs-4711".to_owned()),
        (&*bad.url(""), format!("./callbacks?destination={}", encoded(&bad.url("")))),
        ("some-host", "./destinations?host=some-host".to_owned()),
        (&*port, format!("./destinations?host={port}")),
        ("", "./callbacks".to_owned()),
        ("no such & thing", "./destinations?host=no+such+%26+thing".to_owned()),
    ] {
        let answer = view(&api, &format!("/ui/search?q={}", encoded(wanted)));
        assert_eq!((answer.status, answer.header("location")), (303, &*to), "{wanted}");
        let lead = view(&api, &format!("/ui/{}", to.strip_prefix("./").unwrap()));
        assert_eq!(lead.status, 200, "{wanted}");
        let is_there = ["4711", "some-host"].contains(&wanted);
        assert!(!is_there || text(&lead).contains("some-host.invalid:8080"), "{wanted}");
    }
    let kept = view(&api, "/ui/search?q=4711&lang=de");
    assert_eq!(kept.header("location"), "./callbacks?jobId=4711&lang=de");
}

#[test]
fn lists_show_what_the_filter_in_their_url_matches() {
    let service = Service::start("");
    let (api, bad, id) = failed(&service);
    let good = Receiver::start();
    let other = api.accept(&event("job_sending", "2", &good.url("/")));
    api.wait_for_state(&other, "delivered");
    let of = |it: &Receiver| encoded(&it.url(""));
    for (query, first, second) in [
        (String::new(), true, true),
        ("state=&destination=&errorKind=&jobId=&since=&until=".into(), true, true),
        ("state=failed".into(), true, false),
        ("state=delivered".into(), false, true),
        ("state=pending".into(), false, false),
        (format!("destination={}", of(&bad)), true, false),
        (format!("destination={}", of(&good)), false, true),
        ("errorKind=status".into(), true, false),
        ("jobId=2".into(), false, true),
        ("jobIdFs=fs-1".into(), true, false),
        ("since=1h".into(), true, true),
        ("until=1h".into(), false, false),
    ] {
        let page = text(&view(&api, &format!("/ui/callbacks?{query}")));
        assert_eq!((page.contains(&id), page.contains(&other)), (first, second), "{query}");
    }
    let found = text(&view(&api, &format!("/ui/destinations?host={}", bad.address.port())));
    assert!(found.contains(&bad.url("")) && !found.contains(&good.url("")));
}

#[test]
fn an_invalid_filter_keeps_its_form_and_marks_the_field() {
    let service = Service::start("");
    let (api, _, id) = failed(&service);
    for (field, value, said) in [
        ("endedSince", "tomorrow", "Ended since: expected a time such as 2026-01-31 08:00 (UTC)"),
        ("until", "2026-13-01 08:00", "Accepted before: expected a time"),
        ("destination", "a b", "Destination: expected a host"),
        ("state", "sad", "State: expected pending, due, waiting, in_flight"),
        ("errorKind", "sad", "Kind of error: there is no such kind of error"),
    ] {
        let path = format!("/ui/callbacks?jobId=1&{field}={}", encoded(value));
        let answer = view(&api, &path);
        let page = text(&answer);
        assert_eq!(answer.status, 400, "{path}");
        assert!(page.contains(&format!("role=\"alert\">{said}")), "{path}: {page}");
        assert!(page.contains(&format!("({value})</p>")), "{path}");
        assert!(page.contains("name=\"jobId\" value=\"1\""), "the rest of the form stays");
        let bad = "aria-invalid=\"true\" aria-describedby=\"invalid\"";
        let marked = page.split('<').filter(|tag| tag.contains(bad));
        let marked: Vec<_> = marked.collect();
        assert_eq!(marked.len(), 1, "{path}");
        assert!(marked[0].contains(&format!("name=\"{field}\"")), "{path}: {marked:?}");
        assert!(["state", "errorKind"].contains(&field) || marked[0].contains(value), "{path}");
        assert!(!page.contains(&id), "nothing is listed: {path}");
    }
    let german = text(&view(&api, "/ui/callbacks?since=morgen&lang=de"));
    assert!(german.contains("Angenommen seit: erwartet wird eine Zeit wie"), "{german}");
}

#[test]
fn a_host_alone_is_the_destination_that_has_it() {
    let service = Service::start("");
    let (api, bad, id) = failed(&service);
    let other = api.accept(&event("job_sending", "2", "http://some-host.invalid:8080/"));
    let address = bad.address.to_string();
    for (given, full, found) in [
        (&*address, &*bad.url(""), &id),
        (&*address.to_uppercase(), &*bad.url(""), &id),
        ("127.0.0.1", &*bad.url(""), &id),
        ("some-host.invalid", "http://some-host.invalid:8080", &other),
        ("Some-Host.invalid:8080/", "http://some-host.invalid:8080", &other),
    ] {
        for path in ["callbacks", "actions/cancel"] {
            let page = text(&view(&api, &format!("/ui/{path}?destination={}", encoded(given))));
            let field = format!("name=\"destination\" value=\"{full}\"");
            assert!(page.contains(&field), "{path} {given}: {page}");
            assert_eq!(path == "callbacks", page.contains(found), "{path} {given}");
        }
    }
    let nowhere = text(&view(&api, "/ui/callbacks?destination=elsewhere"));
    assert!(nowhere.contains("value=\"http://elsewhere:80\""), "{nowhere}");
    api.accept(&event("job_sending", "3", "https://some-host.invalid:9/"));
    let several = view(&api, "/ui/callbacks?destination=some-host.invalid");
    let page = text(&several);
    assert_eq!(several.status, 400, "{page}");
    assert!(page.contains("Several destinations have this host"), "{page}");
    assert!(page.contains("https://some-host.invalid:9") && page.contains(":8080"), "{page}");
    assert_eq!(view(&api, "/ui/actions/cancel?destination=some-host.invalid").status, 400);
}

#[test]
fn ended_callbacks_are_found_by_the_time_of_their_end() {
    let service = Service::start("");
    let (api, _, id) = failed(&service);
    let ended = api.callback(&id)["finishedAt"].as_str().unwrap().to_owned();
    let pending = api.accept(&event("job_sending", "2", "http://some-host.invalid:8080/"));
    let cell = format!("data-label=\"Ended at\"><time datetime=\"{ended}\">");
    let from = encoded(&ended);
    for (query, shown) in [
        (format!("endedSince={from}"), true),
        (format!("endedUntil={from}"), false),
        ("endedSince=12h&state=failed".into(), true),
        ("endedUntil=12h".into(), false),
        ("endedSince=2016-01-31+08%3A00&endedUntil=9999-01-31+08%3A00%3A00".into(), true),
        ("endedSince=2016-01-31&endedUntil=9999-01-31T08%3A00%3A00Z".into(), true),
    ] {
        let page = text(&view(&api, &format!("/ui/callbacks?{query}")));
        assert_eq!(page.contains(&cell), shown, "{query}: {page}");
        assert!(!page.contains(&pending), "it has not ended: {query}");
    }
    for (state, head) in [("", "Next, or ended at"), ("failed", "Ended at"), ("pending", "Next")] {
        let page = text(&view(&api, &format!("/ui/callbacks?state={state}")));
        assert!(page.contains(&format!("<th>{head}</th><th>Last error")), "{state}: {page}");
    }
    let asked = text(&view(&api, "/ui/actions/replay?endedSince=2h"));
    assert!(asked.contains("Ended since") && asked.contains("2h = <time"), "{asked}");
}

#[test]
fn the_number_of_matches_is_shown_up_to_a_limit() {
    let service = Service::start("");
    let api = service.api();
    let dead = "http://127.0.0.1:1";
    api.post("/v1/destinations/pause", &serde_json::json!({ "destination": dead }));
    let lines: String = (0..1003)
        .map(|job| event("job_sending", &job.to_string(), &format!("{dead}/")).to_string() + "\n")
        .collect();
    api.post_lines(&lines);
    let said = |query: &str| {
        let page = text(&view(&api, &format!("/ui/callbacks?{query}")));
        let matches = page.split_once("class=\"matches\"><b>");
        matches.map(|(_, rest)| rest.split("</p>").next().unwrap().replace("</b>", ""))
    };
    assert_eq!(said("jobId=1").as_deref(), Some("1 callback matches"));
    assert_eq!(said("jobIdFs=none"), None);
    assert_eq!(said("state=pending").as_deref(), Some("more than 1,000 callbacks match"));
    let second = text(&view(&api, "/ui/callbacks"));
    let cursor = second.split_once("cursor=").unwrap().1.split('"').next().unwrap();
    assert_eq!(
        said(&format!("cursor={cursor}")).as_deref(),
        Some("more than 1,000 callbacks match"),
        "on each page"
    );
    let ended: Vec<_> = (0..60).map(|job| format!("id={job}")).collect();
    assert_eq!(said(&ended.join("&")), None, "these are no ids");
    let filter = format!("destination={}", encoded(dead));
    super::send(&api, "/ui/actions/cancel", &format!("{filter}&total=3"));
    assert_eq!(said("state=failed").as_deref(), Some("more than 1,000 callbacks match"));
}

#[test]
fn a_callback_links_to_its_destination_and_shows_old_errors_as_history() {
    let service = Service::start("[retry]\ninitial_interval = \"10ms\"");
    let api = service.api();
    let late = Receiver::answering(vec![Answer::Status(503)], Answer::Status(200));
    let id = api.accept(&event("job_sending", "1", &late.url("/")));
    api.wait_for_state(&id, "delivered");
    let one = text(&view(&api, &format!("/ui/callbacks/{id}")));
    let link = format!("href=\"../destinations?host={}\"", encoded(&late.url("")));
    assert!(one.contains(&link) && one.contains("status 503"), "{one}");
    let list = text(&view(&api, "/ui/callbacks"));
    assert!(list.contains(&id) && !list.contains("status 503"), "{list}");
}

#[test]
fn pages_of_a_list_link_to_each_other() {
    let service = Service::start("");
    let api = service.api();
    let url = "http://127.0.0.1:1/";
    let lines: String = (0..120)
        .map(|job| event("job_sending", &format!("j-{job}-"), url).to_string() + "\n")
        .collect();
    api.post_lines(&lines);
    let (mut to, mut seen, mut pages) = ("/ui/callbacks?jobIdFs=&lang=de".to_owned(), 0, 0);
    loop {
        let page = text(&view(&api, &to));
        seen += page.matches("name=\"id\"").count();
        pages += 1;
        let Some((before, _)) = page.split_once("\" rel=\"next\"") else { break };
        let link = before.rsplit_once("href=\"").unwrap().1.replace("&#38;", "&");
        assert!(link.contains("lang=de"), "{link}");
        to = format!("/ui/{}", link.strip_prefix("./").unwrap());
    }
    assert_eq!((seen, pages), (120, 3));
}

#[test]
fn the_language_is_the_browsers_or_the_chosen_one() {
    let service = Service::start("");
    let api = service.api();
    let signed = basic(&api.token);
    let language = |path: &str, accept: &str| {
        let headers = [("authorization", &*signed), ("accept-language", accept)];
        let page = text(&ask(&api, "GET", path, &headers, ""));
        let lang = page.split_once("<html lang=\"").unwrap().1[..2].to_owned();
        assert_eq!(page.contains("Übersicht"), lang == "de");
        (lang, page)
    };
    for (accept, lang) in [
        ("", "en"),
        ("de", "de"),
        ("de-AT,de;q=0.9,en;q=0.8", "de"),
        ("en-GB,en;q=0.9,de;q=0.8", "en"),
        ("fr,de;q=0.5", "de"),
        ("fr", "en"),
        ("den", "en"),
    ] {
        assert_eq!(language("/ui/", accept).0, lang, "{accept}");
    }
    let (lang, page) = language("/ui/callbacks?lang=de&state=failed", "en");
    assert_eq!(lang, "de");
    // Links and forms keep the chosen language.
    assert!(page.contains("href=\"./destinations?lang=de\""));
    assert!(page.contains("<input type=\"hidden\" name=\"lang\" value=\"de\">"));
    assert!(page.contains("href=\"./callbacks?state=failed&#38;lang=en\""), "{page}");
    assert_eq!(language("/ui/?lang=en", "de").0, "en");
    let headers = [("accept-language", "de")];
    assert!(
        text(&ask(&api, "GET", "/ui/", &headers, "")).contains("Anmelden mit"),
        "before as well"
    );
}

#[test]
fn untrusted_text_is_escaped_in_every_view() {
    let service = Service::start("breaker.failures = 1");
    let api = service.api();
    let evil = "\"><script>alert(1)</script><img src=x onerror='alert(2)'>&amp;";
    let body = format!("</pre>{evil}").into_bytes();
    let bad = Receiver::answering(vec![], Answer::Body(410, body));
    let mut it = event("job_sending", evil, &bad.url("/a?b=<c>&'$(d)`e`\""));
    it["jobIdFs"] = format!("fs {evil}").into();
    it["dpfTrackerUrl"] = "javascript:alert(3)".into();
    let id = api.accept(&it);
    api.wait_for_state(&id, "failed");
    let mut other = event("job_finished", evil, "http://127.0.0.1:1/<b>");
    other["dpfTrackerUrl"] = "http://tracker.example/\"><script>".into();
    let other = api.accept(&other);
    let given = encoded(evil);
    let mut paths = super::views(&id);
    paths.push(format!("/ui/callbacks/{other}"));
    for query in [
        "jobId",
        "jobIdFs",
        "destination",
        "state",
        "errorKind",
        "since",
        "cursor",
        "lang",
        "other",
    ] {
        paths.push(format!("/ui/callbacks?{query}={given}"));
        paths.push(format!("/ui/actions/replay?{query}={given}"));
    }
    paths.push(format!("/ui/callbacks?{given}=1"));
    paths.push(format!("/ui/callbacks?done=replay&matched={given}&changed={given}"));
    paths.push(format!("/ui/destinations?host={given}"));
    paths.push(format!("/ui/callbacks/{given}"));
    paths.push(format!("/ui/{given}"));
    for path in paths {
        let page = text(&view(&api, &path));
        assert!(
            !page.contains("<script>") && !page.contains("<img") && !page.contains("<b>\""),
            "{path}"
        );
        assert!(!page.contains("href=\"javascript") && !page.contains("</pre>\""), "{path}");
        assert_eq!(
            page.matches("<script").count(),
            page.matches("<script src=\".").count(),
            "{path}"
        );
    }
    let one = text(&view(&api, &format!("/ui/callbacks/{id}")));
    assert!(one.contains("&#60;script&#62;alert(1)"), "it is shown, as text");
    assert!(!one.contains("href=\"http://127.0.0.1"), "a callback's URL is no link");
    assert!(one.contains("&#60;/pre&#62;"), "nor is the response lost");
    let two = text(&view(&api, &format!("/ui/callbacks/{other}")));
    assert!(
        two.contains(
            "href=\"http://tracker.example/%22%3E%3Cscript%3E\" rel=\"noreferrer noopener\""
        ),
        "{two}"
    );
}
