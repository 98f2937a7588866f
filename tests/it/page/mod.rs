//! The operator's page over HTTP: access, actions, refused requests, and escaping. `tests/page` has the tests
//! that require a browser.

mod access;
mod actions;
mod destinations;
mod lists;
mod search;

use data_encoding::BASE64;

use crate::support::{Answer, Api, DEADLINE, PASSWORD, Receiver, Response, Service, event};

/// Makes a request with these headers, without following a redirect.
fn ask(api: &Api, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Response {
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured(seal_dpf_urlcallback::tls::pinned(None).unwrap())
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(DEADLINE)
        .build()
        .unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let url = format!("http://{}{path}", api.address);
        let mut request = client.request(method.parse().unwrap(), url).body(body.to_owned());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await.unwrap();
        Response {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            body: response.bytes().await.unwrap().to_vec(),
        }
    })
}

fn basic(password: &str) -> String {
    format!("Basic {}", BASE64.encode(format!("anna:{password}").as_bytes()))
}

/// A view, signed in with the API's token.
pub(crate) fn view(api: &Api, path: &str) -> Response {
    ask(api, "GET", path, &[("authorization", &basic(&api.token))], "")
}

/// Submits a form, signed in with the API's token.
fn send(api: &Api, path: &str, form: &str) -> Response {
    ask(api, "POST", path, &[("authorization", &basic(&api.token))], form)
}

pub(crate) fn text(response: &Response) -> String {
    String::from_utf8(response.body.clone()).unwrap()
}

/// A text in a URL or a form.
fn encoded(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

/// A callback that its receiver has refused permanently.
fn failed(service: &Service) -> (Api, Receiver, String) {
    let api = service.api();
    let bad = Receiver::answering(vec![Answer::Status(410)], Answer::Status(200));
    let id = api.accept(&event("job_sending", "1", &bad.url("/")));
    api.wait_for_state(&id, "failed");
    (api, bad, id)
}

/// Every view, with the callback `id`.
fn views(id: &str) -> Vec<String> {
    let views = ["", "callbacks", "destinations", "search?q=1", "actions/cancel?jobId=1"];
    let mut views: Vec<_> = views.into_iter().map(|view| format!("/ui/{view}")).collect();
    views.push(format!("/ui/callbacks/{id}"));
    views
}

/// Every form, for a callback and a destination.
fn forms(id: &str, destination: &str) -> Vec<(String, String)> {
    let act = |name: &str| (format!("/ui/actions/{name}"), format!("id={id}"));
    let of =
        |name: &str| (format!("/ui/destinations/{name}"), format!("destination={destination}"));
    let mut all = ["replay", "cancel", "retry-now"].map(act).to_vec();
    all.extend(["pause", "resume", "retry-now"].map(of));
    all
}

const CSP: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                   form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

#[test]
fn every_view_and_every_form_requires_a_sign_in() {
    let service = Service::start("");
    let (api, bad, id) = failed(&service);
    let bearer = format!("Bearer {}", api.token);
    let wrong = basic("wrong");
    let no_colon = format!("Basic {}", BASE64.encode(b"anna"));
    let all: Vec<_> = views(&id)
        .into_iter()
        .map(|path| ("GET", path, String::new()))
        .chain(forms(&id, &bad.url("")).into_iter().map(|(path, form)| ("POST", path, form)))
        .chain([("GET", "/ui/nowhere".to_owned(), String::new())])
        .collect();
    for (method, path, form) in &all {
        for given in ["", "Basic", "Basic !", &no_colon, &wrong, &bearer] {
            let headers: &[_] = if given.is_empty() { &[] } else { &[("authorization", given)] };
            let answer = ask(&api, method, path, headers, form);
            assert_eq!(answer.status, 401, "{method} {path} with {given}");
            let basic = "Basic realm=\"seal-dpf-urlcallback\", charset=\"UTF-8\"";
            assert_eq!(answer.header("www-authenticate"), basic);
            assert!(!text(&answer).contains("fs-1"), "{path}");
        }
    }
    assert_eq!(api.callback(&id)["state"], "failed");
    // Any user name is accepted, and the case of the scheme is ignored.
    let lower = basic(&api.token).replacen("Basic", "basic", 1);
    assert_eq!(ask(&api, "GET", "/ui/", &[("authorization", &lower)], "").status, 200);
}

#[test]
fn every_answer_has_security_headers() {
    let service = Service::start("");
    let (api, _, id) = failed(&service);
    let mut paths = views(&id);
    paths.extend(["/ui/nowhere", "/ui/callbacks/x", "/ui/sign-in"].map(str::to_owned));
    for path in paths {
        for answer in [view(&api, &path), ask(&api, "GET", &path, &[], "")] {
            assert_eq!(answer.header("content-security-policy"), CSP, "{path}");
            assert_eq!(answer.header("cache-control"), "no-store", "{path}");
            assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
            assert_eq!(answer.header("referrer-policy"), "no-referrer", "{path}");
            assert_eq!(answer.header("cross-origin-opener-policy"), "same-origin", "{path}");
            assert_eq!(answer.header("set-cookie"), "", "{path}");
            let page = text(&answer);
            assert!(!page.contains(" style=") && !page.contains(" onclick="), "{path}");
            assert_eq!(page.matches("<script").count(), page.matches("<script src=").count());
        }
    }
}

#[test]
fn assets_with_a_hash_in_their_name_are_cached() {
    let service = Service::start("");
    let api = service.api();
    let page = text(&view(&api, "/ui/"));
    let mut kinds = Vec::new();
    for part in page.split('"').filter(|part| part.starts_with("./assets/")) {
        let name = part.strip_prefix("./assets/").unwrap();
        let (hash, kind) = name.split_once('.').unwrap();
        assert!(hash.len() == 8 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()), "{name}");
        // No sign-in is needed, because they contain no secret.
        let answer = ask(&api, "GET", &format!("/ui/assets/{name}"), &[], "");
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("cache-control"), "public, max-age=31536000, immutable");
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        assert!(!answer.body.is_empty());
        kinds.push((kind.to_owned(), answer.header("content-type").to_owned()));
    }
    kinds.sort();
    let expected = [
        ("css", "text/css; charset=utf-8"),
        ("js", "text/javascript; charset=utf-8"),
        ("svg", "image/svg+xml"),
    ];
    assert_eq!(kinds, expected.map(|(kind, of)| (kind.to_owned(), of.to_owned())));
    for name in ["00000000.js", "style.css", "..%2f..%2fCargo.toml"] {
        assert_eq!(ask(&api, "GET", &format!("/ui/assets/{name}"), &[], "").status, 404, "{name}");
    }
}

#[test]
fn bad_input_gets_a_page_with_the_right_status() {
    let service = Service::start("");
    let (api, bad, id) = failed(&service);
    // The last digit of an id has two unused bits, which must be zero.
    let other = if id.ends_with('0') { 'g' } else { '0' };
    let unknown = format!("{}{other}", &id[..id.len() - 1]);
    for (path, status, said) in [
        ("callbacks/x", 400, "not the id of a callback"),
        (&*format!("callbacks/{unknown}"), 404, "There is no such callback"),
        ("callbacks?cursor=x", 400, "id"),
        ("destinations?cursor=x", 400, "cursor"),
        ("callbacks?colour=red", 400, "no field with this name: colour"),
        ("destinations?colour=red", 400, "no field with this name: colour"),
        ("search?colour=red", 400, "no field with this name: colour"),
        ("callbacks?state=sad", 400, "State"),
        ("callbacks?errorKind=sad", 400, "Kind of error"),
        ("callbacks?since=later", 400, "later"),
        ("callbacks?destination=no%20where", 400, "no where"),
        ("actions/cancel?destination=no%20where", 400, "no where"),
        ("callbacks?id=x", 400, "id"),
        ("actions/replay?id=x", 400, "id"),
        ("actions/explode", 404, "There is no such page"),
        ("nowhere", 404, "There is no such page"),
        ("destinations/pause", 405, "does not take GET"),
    ] {
        let answer = view(&api, &format!("/ui/{path}"));
        let page = text(&answer);
        assert_eq!(answer.status, status, "{path}: {page}");
        let alert = page.split_once("role=\"alert\">").map_or("", |(_, rest)| rest);
        let alert = alert.split_once("</p>").unwrap().0;
        assert!(
            alert.contains(said) || alert.contains(&said.replace('`', "&#96;")),
            "{path}: {alert}"
        );
        assert!(page.contains("<nav"), "{path}: the way back");
    }
    for (path, form, status) in [
        ("actions/explode", "all=true", 404),
        ("actions/replay", "", 400),
        ("actions/replay", "all=yes", 400),
        ("actions/replay", "id=x", 400),
        ("actions/replay", "all=true&cursor=x", 400),
        ("actions/replay", "all=true&colour=red", 400),
        ("actions/replay", "state=failed", 400),
        ("destinations/explode", &format!("destination={}", bad.url("")), 404),
        ("destinations/pause", "", 400),
        ("destinations/pause", "destination=nowhere", 400),
        ("destinations/pause", "colour=red", 400),
        ("callbacks", "", 405),
        ("", "", 405),
    ] {
        let answer = send(&api, &format!("/ui/{path}"), form);
        assert_eq!(answer.status, status, "{path} {form}: {}", text(&answer));
    }
    let long = format!("id={}", "0".repeat(70_000));
    assert_eq!(send(&api, "/ui/actions/replay", &long).status, 413);
    assert_eq!(view(&api, "/ui").status, 308, "the slash at the end");
    assert_eq!(view(&api, "/ui").header("location"), "ui/");
    assert_eq!((api.callback(&id)["state"].as_str(), bad.count()), (Some("failed"), 1));
}

#[test]
fn the_command_prints_the_address_or_that_nothing_runs() {
    let mut service = Service::prepare("");
    let output = service.run(&["ui"]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert!(output.stdout.is_empty());
    assert_eq!(service.run(&["ui", "--link"]).status.code(), Some(3));
    service.serve();
    let output = service.run(&["ui"]);
    assert!(output.status.success(), "{output:?}");
    let printed = String::from_utf8(output.stdout).unwrap();
    assert_eq!(printed, format!("http://{}/ui/\n", service.api().address));
}

#[test]
fn the_password_of_a_url_is_never_shown() {
    let service = Service::start("");
    let api = service.api();
    let bad = Receiver::answering(vec![], Answer::Echo(410));
    let url = format!("http://user:{PASSWORD}@{}/jobs", bad.address);
    let id = api.accept(&event("job_sending", "1", &url));
    api.wait_for_state(&id, "failed");
    let again = BASE64.encode(format!("user:{PASSWORD}").as_bytes());
    for path in views(&id) {
        let page = text(&view(&api, &path));
        assert!(!page.contains(PASSWORD) && !page.contains(&again), "{path}");
    }
}

#[test]
fn attempts_are_counted_once_and_ends_without_one_are_not() {
    let service = Service::start(
        "[retry]\ninitial_interval = \"300ms\"\nmultiplier = 1\njitter = 0\nmax_age = \"1s\"",
    );
    let api = service.api();
    let busy = Receiver::answering(vec![], Answer::Status(503));
    let id = api.accept(&event("job_sending", "1", &busy.url("/")));
    let ended = api.wait_for_state(&id, "failed");
    assert_eq!(ended["lastError"]["kind"], "expired");
    let page = text(&view(&api, "/ui/destinations"));
    let counted = format!("0 delivered, {} failed attempts", busy.count());
    assert!(page.contains(&counted), "{counted}: {page}");
}
