//! Authentication and permissions: passwords, tokens, keys and certificates.

use async_nats::ConnectOptions;
use nkeys::KeyPair;

use super::{SLOW, check, numbered, wait_for};
use crate::{
    support::{PASSWORD, Service, eventually, nats::Server},
    tls::receiver::Authority,
};

/// A service with these files, which pulls from the server.
fn service(server: &Server, more: &str, files: &[(&str, &str)]) -> Service {
    let mut service = Service::prepare("");
    for (name, text) in files {
        std::fs::write(service.path(name), text).unwrap();
    }
    service.configure(&format!("{SLOW}{}", server.toml(more)));
    service.serve();
    service
}

/// Checks that one more event arrives.
fn works(server: &Server, service: &Service, n: usize) {
    server.publish([numbered(n)]);
    server.wait_until_empty();
    check(service, n);
}

#[test]
#[ignore = "needs nats-server: tests/run"]
fn user_and_password_are_read_again_on_reload() {
    let options =
        |password: &str| ConnectOptions::with_user_and_password("dpf".into(), password.to_owned());
    let settings =
        |password: &str| format!("authorization {{ user: dpf, password: \"{password}\" }}");
    let mut server = Server::with(&settings(PASSWORD), options(PASSWORD));
    server.prepare();
    let more = "user = \"dpf\"\npassword_file = \"password\"";
    let service = service(&server, more, &[("password", "wrong-one")]);
    wait_for(&service, "waiting", "authorization violation");
    std::fs::write(service.path("password"), format!("{PASSWORD}\n")).unwrap();
    service.signal("HUP");
    works(&server, &service, 1);
    // It is changed at the server first, which ends the connection.
    server.reconfigure(&settings("another"), options("another"));
    wait_for(&service, "waiting", "not connected");
    std::fs::write(service.path("password"), "another").unwrap();
    service.signal("HUP");
    works(&server, &service, 2);
    // A file that cannot be used changes nothing.
    std::fs::remove_file(service.path("password")).unwrap();
    service.signal("HUP");
    eventually("it is reported", || {
        let log = service.log();
        let of_nats = |line: &&serde_json::Value| {
            line["event.action"] == "settings-reloaded" && line["event.outcome"] == "failure"
        };
        log.iter().any(|line| of_nats(&line)).then_some(())
    });
    server.publish([numbered(3)]);
    server.wait_until_empty();
    let output = service.run(&["check-config"]);
    assert!(!output.status.success());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("nats.password_file") && said.contains("cannot use password"), "{said}");
}

#[test]
#[ignore = "needs nats-server: tests/run"]
fn a_token_authenticates() {
    let options = ConnectOptions::with_token(PASSWORD.into());
    let server = Server::with(&format!("authorization {{ token: \"{PASSWORD}\" }}"), options);
    server.prepare();
    let service = service(&server, "token_file = \"token\"", &[("token", PASSWORD)]);
    works(&server, &service, 1);
    let said = service.run(&["check-config"]);
    let said = String::from_utf8(said.stdout).unwrap();
    assert!(said.contains("# nats: consumer callbacks of stream JOBS: 0 messages"), "{said}");
    assert!(!said.contains(PASSWORD), "{said}");
}

#[test]
#[ignore = "needs nats-server: tests/run"]
fn an_nkey_is_read_again_on_reload() {
    let settings =
        |key: &KeyPair| format!("authorization {{ users: [ {{ nkey: {} }} ] }}", key.public_key());
    let options = |key: &KeyPair| ConnectOptions::with_nkey(key.seed().unwrap());
    let [first, second] = [KeyPair::new_user(), KeyPair::new_user()];
    let mut server = Server::with(&settings(&first), options(&first));
    server.prepare();
    let seed = first.seed().unwrap();
    let service = service(&server, "nkey_file = \"nkey\"", &[("nkey", &seed)]);
    works(&server, &service, 1);
    server.reconfigure(&settings(&second), options(&second));
    wait_for(&service, "waiting", "not connected");
    std::fs::write(service.path("nkey"), second.seed().unwrap()).unwrap();
    service.signal("HUP");
    works(&server, &service, 2);
}

#[test]
#[ignore = "needs nats-server: tests/run"]
fn the_permission_to_create_is_not_needed_and_missing_ones_are_named() {
    let users = |publish: &str| {
        format!(
            "authorization {{ users: [ {{ user: admin, password: admin }}, \
             {{ user: dpf, password: \"{PASSWORD}\", permissions: {{ \
             publish: [ {publish} ], subscribe: [ \"_INBOX.>\" ] }} }} ] }}"
        )
    };
    let admin = || ConnectOptions::with_user_and_password("admin".into(), "admin".into());
    let needed = "\"$JS.API.STREAM.INFO.JOBS\", \"$JS.API.CONSUMER.INFO.JOBS.callbacks\", \
                  \"$JS.API.CONSUMER.MSG.NEXT.JOBS.callbacks\", \"$JS.ACK.JOBS.callbacks.>\"";
    let mut server = Server::with(&users(needed), admin());
    server.prepare();
    let more = "user = \"dpf\"\npassword_file = \"password\"";
    let service = service(&server, more, &[("password", PASSWORD)]);
    works(&server, &service, 1);
    server.reconfigure(&users("\"$JS.API.STREAM.INFO.JOBS\""), admin());
    wait_for(&service, "waiting", "$JS.API.CONSUMER.INFO.JOBS.callbacks");
    server.reconfigure(&users(needed), admin());
    works(&server, &service, 2);
}

#[test]
#[ignore = "needs nats-server: tests/run"]
fn certificates_of_both_sides_are_checked() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let authority = Authority::new();
    authority.write(&file("ca.pem"));
    for name in ["127.0.0.1", "dpf"] {
        let identity = authority.identity(name);
        identity.write(&file(&format!("{name}.pem")), &file(&format!("{name}.key")));
    }
    let path = |name: &str| file(name).display().to_string();
    let settings = format!(
        "tls {{ cert_file: \"{}\", key_file: \"{}\", ca_file: \"{}\", verify: true }}",
        path("127.0.0.1.pem"),
        path("127.0.0.1.key"),
        path("ca.pem")
    );
    let options = ConnectOptions::new()
        .add_root_certificates(file("ca.pem"))
        .add_client_certificate(file("dpf.pem"), file("dpf.key"));
    let server = Server::with(&settings, options);
    server.prepare();
    let ca = format!("ca_file = \"{}\"\n", path("ca.pem"));
    let own = format!(
        "client_cert_file = \"{}\"\nclient_key_file = \"{}\"\n",
        path("dpf.pem"),
        path("dpf.key")
    );
    let with_both = service(&server, &format!("{ca}{own}"), &[]);
    works(&server, &with_both, 1);
    drop(with_both);
    for lacks in [&ca, &own] {
        let service = service(&server, lacks, &[]);
        wait_for(&service, "waiting", "not connected to nats://");
        assert!(!service.run(&["check-config"]).status.success());
    }
    // All certificates are replaced by those of another authority.
    let mut server = server;
    let again = service(&server, &format!("{ca}{own}"), &[]);
    works(&server, &again, 1);
    server.crash();
    let authority = Authority::new();
    authority.write(&file("ca.pem"));
    for name in ["127.0.0.1", "dpf"] {
        let identity = authority.identity(name);
        identity.write(&file(&format!("{name}.pem")), &file(&format!("{name}.key")));
    }
    server.restart();
    again.signal("HUP");
    works(&server, &again, 2);
}

#[test]
#[ignore = "needs nats-server: tests/run"]
fn tls_can_begin_before_the_server_speaks() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let authority = Authority::new();
    authority.write(&path("ca.pem"));
    authority.identity("127.0.0.1").write(&path("cert.pem"), &path("key.pem"));
    let settings = format!(
        "tls {{ cert_file: \"{}\", key_file: \"{}\", handshake_first: true }}",
        path("cert.pem").display(),
        path("key.pem").display()
    );
    let options = ConnectOptions::new().add_root_certificates(path("ca.pem")).tls_first();
    let server = Server::with(&settings, options);
    server.prepare();
    let ca = format!("ca_file = \"{}\"\n", path("ca.pem").display());
    let first = service(&server, &format!("{ca}tls_first = true"), &[]);
    works(&server, &first, 1);
    drop(first);
    // Otherwise, each side waits for the other one to speak first.
    let other = service(&server, &ca, &[]);
    wait_for(&other, "waiting", "not connected to nats://");
}
