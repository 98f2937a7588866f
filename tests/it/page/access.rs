//! Access to the page: forms of other sites, tokens, one-time links, and TLS.

use std::fs;

use super::{ask, basic, failed, forms, text, view, views};
use crate::support::{Answer, Receiver, Service, event, eventually};

#[test]
fn a_form_of_another_site_is_refused() {
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
        // A matching `Origin` does not help if `Sec-Fetch-Site` differs.
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
    // It cannot create a link that signs in with more rights.
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
    // The password is valid for the page only, and the link's secret is not a password.
    assert_eq!(
        api.request("GET", "/v1/queue", Some(&format!("Bearer {password}")), "", "").status,
        401
    );
    assert_eq!(ask(&api, "GET", "/ui/", &[("authorization", &basic(secret))], "").status, 401);
    let log = service.read("service.log");
    assert!(!log.contains(secret) && !log.contains(&password));
}

/// Passwords would cross the network in plain text. This test requires an address that other machines could
/// reach.
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
