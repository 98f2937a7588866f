//! Denied callback URLs: the settings `egress.*`.

#[cfg(target_os = "linux")]
mod names;
mod proxies;

use crate::support::{PASSWORD, Receiver, Service, event};

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn a_denied_address_is_refused_in_every_spelling() {
    let service = Service::start("");
    let api = service.api();
    let link_local = "169.254.0.0/16";
    for (job, (host, rule)) in [
        ("169.254.169.254", link_local),
        ("169.254.169.254.", link_local),
        ("2852039166", link_local),
        ("025177524776", link_local),
        ("0xa9fea9fe", link_local),
        ("0xA9FEA9FE", link_local),
        ("0251.0376.0251.0376", link_local),
        ("0xa9.0376.43518", link_local),
        ("169.254.43518", link_local),
        ("169.16689662", link_local),
        ("169%2e254%2e169%2e254", link_local),
        ("１６９．２５４．１６９．２５４", link_local),
        ("[::ffff:169.254.169.254]", link_local),
        ("[::ffff:a9fe:a9fe]", link_local),
        ("[0:0:0:0:0:ffff:169.254.169.254]", link_local),
        ("[::169.254.169.254]", link_local),
        ("[::ffff:0:a9fe:a9fe]", link_local),
        ("[64:ff9b::169.254.169.254]", link_local),
        ("[64:ff9b:1::a9fe:a9fe]", link_local),
        ("[64:ff9b:1:a9fe:a9:fe00::]", link_local),
        ("[2002:a9fe:a9fe::]", link_local),
        ("[2001:0:102:304::5601:5601]", link_local),
        ("[fe80::1]", "fe80::/10"),
        ("[FEBF::1]", "fe80::/10"),
        ("100.100.100.200", "100.100.100.200/32"),
        ("168.63.129.16", "168.63.129.16/32"),
        ("192.0.0.192", "192.0.0.192/32"),
        ("[fd00:ec2::254]", "fd00:ec2::254/128"),
        ("[fd20:ce::254]", "fd20:ce::254/128"),
        ("0.0.0.0", "0.0.0.0/8"),
        ("0", "0.0.0.0/8"),
        ("0x0", "0.0.0.0/8"),
        ("[::]", "::/128"),
        ("[::ffff:0.0.0.0]", "0.0.0.0/8"),
        ("224.0.0.1", "224.0.0.0/4"),
        ("[ff02::1]", "ff00::/8"),
        ("255.255.255.255", "255.255.255.255/32"),
    ]
    .into_iter()
    .enumerate()
    {
        for url in [
            format!("http://{host}/latest/meta-data/"),
            format!("https://u:{PASSWORD}@{host}:8443/"),
        ] {
            let answer = api.post("/v1/events", &event("job_sending", &job.to_string(), &url));
            assert_eq!(answer.status, 422, "{url}: {}", text(&answer.body));
            let answer = answer.json();
            assert_eq!(answer["outcome"], "failed", "{url}");
            let failed = api.callback(answer["id"].as_str().unwrap());
            assert_eq!(failed["lastError"]["kind"], "egress", "{url}");
            let message = failed["lastError"]["message"].as_str().unwrap();
            assert!(message.contains(rule) && message.contains("egress.deny"), "{url}: {message}");
        }
    }
}

#[test]
fn an_invalid_host_is_an_invalid_url() {
    let service = Service::start("");
    let api = service.api();
    for host in
        ["[fe80::1%25eth0]", "[fe80::1%eth0]", "256.1.1.1", "1.2.3.4.5", "[::1", "a b", "%00"]
    {
        let answer =
            api.post("/v1/events", &event("job_sending", host, &format!("http://{host}/")));
        assert_eq!(answer.status, 422, "{host}: {}", text(&answer.body));
        let failed = api.callback(answer.json()["id"].as_str().unwrap());
        assert_eq!(failed["lastError"]["kind"], "invalid_url", "{host}");
    }
}

#[test]
fn internal_http_needs_no_setting() {
    let (service, receiver) = (Service::start(""), Receiver::start());
    for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]"] {
        let url = format!("http://{host}:{}/", receiver.address.port());
        let id = service.api().accept(&event("job_sending", host, &url));
        service.api().wait_for_state(&id, "delivered");
    }
}

#[test]
fn https_only_fails_plain_http_as_egress() {
    let service = Service::start("egress.https_only = true");
    let answer = service.api().post("/v1/events", &event("job_sending", "1", "http://h/"));
    assert_eq!(answer.status, 422);
    assert!(text(&answer.body).contains("egress.https_only"), "{answer:?}");
}

#[test]
fn the_services_own_api_is_never_called() {
    // All addresses, so that it does not matter to which one `localhost` leads here.
    let service = Service::start("[api]\nlisten = \"0.0.0.0:0\"");
    let api = service.api();
    let port = api.address.port();
    for host in ["127.0.0.1", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]", "[::1]"] {
        let url = format!("http://{host}:{port}/v1/callbacks/replay");
        let answer = api.post("/v1/events", &event("job_sending", "1", &url));
        assert_eq!(answer.status, 422, "{host}");
        assert!(text(&answer.body).contains("own API"), "{answer:?}");
    }
    let id = api.accept(&event("job_sending", "2", &format!("http://localhost:{port}/")));
    let failed = api.wait_for_state(&id, "failed");
    assert_eq!(failed["lastError"]["kind"], "egress");
    assert_eq!(failed["attemptCount"], 1);
    let receiver = Receiver::start();
    let other = format!("http://localhost:{}/", receiver.address.port());
    let id = api.accept(&event("job_sending", "3", &other));
    api.wait_for_state(&id, "delivered");
}

#[test]
fn the_own_api_can_be_allowed() {
    let mut service = Service::start("");
    let api = service.api();
    let url = format!("http://{}/healthz", api.address);
    let refused = api.post("/v1/events", &event("job_sending", "1", &url)).json();
    let id = refused["id"].as_str().unwrap().to_owned();
    service.terminate();
    // The next service has another port, so this rule has no effect on it.
    service.configure("egress.allow = [\"127.0.0.1\"]\nretry.max_attempts = 1");
    service.serve();
    service.run(&["replay-failed", "--id", &id]);
    let failed = service.api().wait_for_state(&id, "failed");
    assert_eq!(failed["lastError"]["kind"], "exhausted", "it was tried: {failed}");
    assert_eq!(failed["replays"], 1);
}

#[test]
fn an_allow_entry_wins_over_a_deny_entry() {
    let service =
        Service::start("egress.deny = [\"127.0.0.0/8\"]\negress.allow = [\"127.0.0.1/32\"]");
    let receiver = Receiver::start();
    let id = service.api().accept(&event("job_sending", "1", &receiver.url("/")));
    service.api().wait_for_state(&id, "delivered");
    let other = format!("http://127.0.0.2:{}/", receiver.address.port());
    let answer = service.api().post("/v1/events", &event("job_sending", "2", &other));
    assert_eq!(answer.status, 422);
}

#[test]
fn a_name_with_a_denied_address_fails_as_egress() {
    let mut service = Service::start("egress.deny = [\"127.0.0.0/8\", \"::1\"]");
    let receiver = Receiver::start();
    let url = format!("http://localhost:{}/", receiver.address.port());
    let id = service.api().accept(&event("job_sending", "1", &url));
    let failed = service.api().wait_for_state(&id, "failed");
    assert_eq!(failed["lastError"]["kind"], "egress");
    assert!(failed["lastError"]["message"].as_str().unwrap().contains("egress.deny"), "{failed}");
    assert_eq!(receiver.connections(), 0);
    service.terminate();
    service.configure("");
    service.serve();
    assert!(service.run(&["replay-failed", "--id", &id]).status.success());
    service.api().wait_for_state(&id, "delivered");
    assert_eq!(receiver.count(), 1);
}
