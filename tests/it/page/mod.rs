//! The operator's page as HTTP: who may see it, who may act, what is refused, and that text stays text.
//! `tests/page` has the tests that want a browser.

mod acts;
mod finds;

use std::fs;

use data_encoding::BASE64;

use crate::support::{
    Answer, Api, DEADLINE, PASSWORD, Receiver, Response, Service, event, eventually,
};

/// Headers of a request, and its answer without following a redirect.
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
fn view(api: &Api, path: &str) -> Response {
    ask(api, "GET", path, &[("authorization", &basic(&api.token))], "")
}

/// A form that is sent, signed in with the API's token.
fn send(api: &Api, path: &str, form: &str) -> Response {
    ask(api, "POST", path, &[("authorization", &basic(&api.token))], form)
}

fn text(response: &Response) -> String {
    String::from_utf8(response.body.clone()).unwrap()
}

/// A text in a URL or a form.
fn encoded(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

/// A callback that its receiver has refused for good.
fn failed(service: &Service) -> (Api, Receiver, String) {
    let api = service.api();
    let bad = Receiver::answering(vec![Answer::Status(410)], Answer::Status(200));
    let id = api.accept(&event("job_sending", "1", &bad.url("/")));
    api.wait_for_state(&id, "failed");
    (api, bad, id)
}

/// Every view, of which `id` is a callback.
fn views(id: &str) -> Vec<String> {
    let views = ["", "callbacks", "destinations", "search?q=1", "actions/cancel?jobId=1"];
    let mut views: Vec<_> = views.into_iter().map(|view| format!("/ui/{view}")).collect();
    views.push(format!("/ui/callbacks/{id}"));
    views
}

/// Every form, about a callback and a destination.
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
fn every_view_and_every_form_wants_a_sign_in() {
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
    // The name is free, and case of the scheme does not count.
    let lower = basic(&api.token).replacen("Basic", "basic", 1);
    assert_eq!(ask(&api, "GET", "/ui/", &[("authorization", &lower)], "").status, 200);
}

#[test]
fn every_answer_forbids_what_it_does_not_need() {
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
fn assets_are_kept_by_browsers_because_their_names_have_a_hash() {
    let service = Service::start("");
    let api = service.api();
    let page = text(&view(&api, "/ui/"));
    let mut kinds = Vec::new();
    for part in page.split('"').filter(|part| part.starts_with("./assets/")) {
        let name = part.strip_prefix("./assets/").unwrap();
        let (hash, kind) = name.split_once('.').unwrap();
        assert!(hash.len() == 8 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()), "{name}");
        // Without a sign-in: there is no secret in them.
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
    // The last digit of an id has two bits that count for nothing, and have to be zero.
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
        ("callbacks?state=sad", 400, "invalid state `sad`"),
        ("callbacks?errorKind=sad", 400, "errorKind"),
        ("callbacks?since=later", 400, "later"),
        ("callbacks?destination=nowhere", 400, "nowhere"),
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
fn a_form_of_another_site_does_nothing() {
    let service = Service::start("");
    let (api, bad, id) = failed(&service);
    let host = api.address.to_string();
    let own = format!("http://{host}");
    let signed = basic(&api.token);
    for (path, form) in forms(&id, &bad.url("")) {
        for foreign in [
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
            ("origin", "http://evil.example"),
            ("origin", "null"),
            ("origin", "http://127.0.0.1"),
        ] {
            let headers = [("authorization", &*signed), foreign];
            let answer = ask(&api, "POST", &path, &headers, &form);
            assert_eq!(answer.status, 403, "{path} {foreign:?}");
            assert!(text(&answer).contains("came from another site"), "{path}");
        }
        // And one that says it is our own, while the browser says that it is not.
        let both =
            [("authorization", &*signed), ("origin", &own), ("sec-fetch-site", "cross-site")];
        assert_eq!(ask(&api, "POST", &path, &both, &form).status, 403);
    }
    assert_eq!(api.callback(&id)["state"], "failed");
    assert_eq!(bad.count(), 1);
    let known = api.get("/v1/destinations").json()["destinations"][0].clone();
    assert_eq!(known["pausedAt"], serde_json::Value::Null, "{known}");
    for own in [("origin", &*own), ("sec-fetch-site", "same-origin"), ("sec-fetch-site", "none")] {
        let headers = [("authorization", &*signed), own];
        let answer = ask(&api, "POST", "/ui/actions/replay", &headers, &format!("id={id}"));
        assert_eq!(answer.status, 303, "{own:?}");
    }
    api.wait_for_state(&id, "delivered");
}

#[test]
fn the_read_only_token_sees_everything_and_does_nothing() {
    let mut service = Service::prepare(
        "[api]\nlisten = \"127.0.0.1:0\"\nread_token_file = \"read-token\"\n[retry]\ninitial_interval = \"10m\"",
    );
    fs::write(service.path("read-token"), "a-token-that-may-only-look\n").unwrap();
    service.serve();
    let (api, bad, id) = failed(&service);
    let dead = Receiver::answering(vec![], Answer::Status(503));
    let pending = api.accept(&event("job_sending", "2", &dead.url("/")));
    eventually("an attempt", || (api.callback(&pending)["attemptCount"] != 0).then_some(()));
    let reader = [("authorization", &*basic("a-token-that-may-only-look"))];
    let mut paths = views(&id);
    paths.push(format!("/ui/callbacks/{pending}"));
    for path in paths {
        let answer = ask(&api, "GET", &path, &reader, "");
        let page = text(&answer);
        assert_eq!(answer.status, if path.contains("search") { 303 } else { 200 }, "{path}");
        if answer.status == 200 {
            assert!(page.contains("Signed in as anna") && page.contains("Read-only"), "{path}");
            for button in
                ["Send again</button>", "Try now</button>", "Cancel</button>", "Pause</button>"]
            {
                assert!(!page.contains(button), "{path} has {button}");
            }
            let asks = page.contains("method=\"post\"") && page.contains("Yes, ");
            assert!(!asks && !page.contains("type=\"checkbox\""), "{path}");
        }
    }
    for method in ["POST", "PUT", "DELETE", "PATCH"] {
        let mut all = forms(&id, &bad.url(""));
        all.extend(forms(&pending, &dead.url("")));
        for (path, form) in all {
            let answer = ask(&api, method, &path, &reader, &form);
            assert_eq!(answer.status, 403, "{method} {path}");
            assert!(text(&answer).contains("may only look"), "{path}");
        }
    }
    let states = [&id, &pending].map(|id| api.callback(id)["state"].clone());
    assert_eq!(states, ["failed", "pending"]);
    assert_eq!((bad.count(), dead.count()), (1, 1));
    assert!(!api.get("/v1/destinations").json().to_string().contains("\"paused\""));
    // It makes no link that signs in as more than it is.
    let bearer = "Bearer a-token-that-may-only-look";
    assert_eq!(api.request("POST", "/v1/sign-in", Some(bearer), "", "").status, 403);
}

#[test]
fn a_link_signs_in_once() {
    let service = Service::start("");
    let api = service.api();
    let output = service.run(&["ui", "--link"]);
    assert!(output.status.success(), "{output:?}");
    let link = String::from_utf8(output.stdout).unwrap();
    let (address, secret) = link.trim().split_once('#').unwrap();
    assert_eq!(address, format!("http://{}/ui/sign-in", api.address));
    assert_eq!(ask(&api, "GET", "/ui/sign-in", &[], "").status, 200);
    let refused = ask(&api, "POST", "/ui/sign-in", &[], "wrong");
    assert_eq!(refused.status, 403);
    let first = ask(&api, "POST", "/ui/sign-in", &[], secret);
    assert_eq!((first.status, first.header("cache-control")), (200, "no-store"));
    let password = text(&first);
    assert!(!password.contains(&api.token) && password != secret);
    let second = ask(&api, "POST", "/ui/sign-in", &[], secret);
    assert_eq!(second.status, 403);
    assert!(text(&second).contains("This link was used already"));
    let signed = [("authorization", &*basic(&password))];
    assert_eq!(ask(&api, "GET", "/ui/", &signed, "").status, 200);
    // The password is one of the page, not of the API, and the link's secret is none.
    assert_eq!(
        api.request("GET", "/v1/queue", Some(&format!("Bearer {password}")), "", "").status,
        401
    );
    assert_eq!(ask(&api, "GET", "/ui/", &[("authorization", &basic(secret))], "").status, 401);
    let log = service.read("service.log");
    assert!(!log.contains(secret) && !log.contains(&password));
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
fn attempts_are_counted_once_and_an_end_without_one_is_none() {
    let service = Service::start(
        "[retry]\ninitial_interval = \"300ms\"\nmultiplier = 1\njitter = 0\nmax_age = \"1s\"",
    );
    let api = service.api();
    let busy = Receiver::answering(vec![], Answer::Status(503));
    let id = api.accept(&event("job_sending", "1", &busy.url("/")));
    let ended = api.wait_for_state(&id, "failed");
    assert_eq!(ended["lastError"]["kind"], "expired");
    let page = text(&view(&api, "/ui/destinations"));
    let counted = format!("0 Delivered, {} Failed attempts", busy.count());
    assert!(page.contains(&counted), "{counted}: {page}");
}

/// Passwords would cross the network in plain text. It wants an address that other machines could reach.
#[test]
#[ignore = "wants a network: cargo test --test it -- --ignored beyond_this_machine"]
fn beyond_this_machine_the_page_needs_tls() {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    // Nothing is sent; the system chooses the address.
    socket.connect("192.0.2.1:9").unwrap();
    let own = socket.local_addr().unwrap().ip();
    assert!(!own.is_loopback());
    let mut service = Service::prepare("[api]\nlisten = \"0.0.0.0:0\"");
    service.serve();
    let mut api = service.api();
    let (local, port) = (api.address, api.address.port());
    for path in ["/ui/", "/ui/sign-in", "/ui/callbacks"] {
        api.address = (own, port).into();
        let refused = view(&api, path);
        assert_eq!(refused.status, 403, "{path}");
        assert!(text(&refused).contains("api.tls_cert_file"), "{path}");
        api.address = local;
        assert_eq!(view(&api, path).status, 200, "{path}");
    }
}
