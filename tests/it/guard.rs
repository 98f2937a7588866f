//! Limits on unauthenticated connections, and the permissions of files.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
};

use crate::support::{Receiver, Service, event, eventually};

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[cfg(unix)]
#[test]
fn a_data_directory_is_private_and_not_a_symbolic_link() {
    use std::os::unix::fs::PermissionsExt as _;

    let service = Service::prepare("");
    fs::create_dir(service.path("data")).unwrap();
    fs::set_permissions(service.path("data"), fs::Permissions::from_mode(0o755)).unwrap();
    assert!(service.run(&["inspect-queue"]).status.success());
    let mode = |name: &str| fs::metadata(service.path(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("data"), 0o700);

    fs::rename(service.path("data"), service.path("elsewhere")).unwrap();
    std::os::unix::fs::symlink(service.path("elsewhere"), service.path("data")).unwrap();
    for command in ["serve", "inspect-queue", "status"] {
        let output = service.run(&[command]);
        assert_eq!(output.status.code(), Some(1), "{command}");
        assert!(text(&output.stderr).contains("is a symbolic link"), "{output:?}");
    }
}

#[cfg(unix)]
#[test]
fn the_token_file_is_private() {
    use std::os::unix::fs::PermissionsExt as _;

    let service = Service::start("");
    let mode = fs::metadata(service.path("data/api-token")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

/// Opens many unauthenticated connections that send nothing, or send slowly.
#[test]
fn unauthenticated_connections_are_closed_and_others_kept() {
    const STRANGERS: usize = 300;
    let service = Service::start("");
    let api = service.api();
    let mut known = TcpStream::connect(api.address).unwrap();
    let ask = |known: &mut TcpStream| {
        let token = &api.token;
        write!(known, "GET /v1/queue HTTP/1.1\r\nhost: h\r\nauthorization: Bearer {token}\r\n\r\n")
            .unwrap();
        let mut answer = [0; 4096];
        let n = known.read(&mut answer).unwrap();
        assert!(answer[..n].starts_with(b"HTTP/1.1 200"));
    };
    ask(&mut known);
    let mut strangers: Vec<_> = (0..STRANGERS)
        .map(|at| {
            let mut stranger = TcpStream::connect(api.address).unwrap();
            if at % 2 == 0 {
                stranger.write_all(b"GET /healthz HTTP/1.1\r\nx-slow: ").unwrap();
            }
            stranger
        })
        .collect();
    ask(&mut known);
    // A new connection with the token is accepted as soon as the first unauthenticated ones are closed.
    assert_eq!(api.get("/v1/queue").status, 200);
    for stranger in &mut strangers {
        stranger.set_read_timeout(Some(crate::support::DEADLINE)).unwrap();
        let mut rest = Vec::new();
        // Closed, cleanly or with an error.
        drop(stranger.read_to_end(&mut rest));
    }
    ask(&mut known);
}

#[test]
fn sighup_rereads_the_token() {
    let service = Service::start("");
    let old = service.api();
    let other = "another-token-of-some-length";
    fs::write(service.path("data/api-token"), other).unwrap();
    assert_eq!(old.get("/v1/queue").status, 200, "not before it is told");
    service.signal("HUP");
    eventually("the old one is out", || (old.get("/v1/queue").status == 401).then_some(()));
    assert_eq!(service.api().get("/v1/queue").status, 200);
    let kept = service.api();
    fs::write(service.path("data/api-token"), "short").unwrap();
    service.signal("HUP");
    eventually("it complains", || {
        let complains = |line: &serde_json::Value| {
            line["log.level"] == "error" && line["event.action"] == "settings-reloaded"
        };
        service.log().iter().any(complains).then_some(())
    });
    assert_eq!(kept.get("/v1/queue").status, 200);
}

#[test]
fn a_stalled_request_gets_408_with_the_outcomes_so_far() {
    let service = Service::start("[api]\nlisten = \"127.0.0.1:0\"\nidle_timeout = \"200ms\"");
    let (api, receiver) = (service.api(), Receiver::start());
    let post = |kind: &str, length: u32, body: &str| {
        let mut client = TcpStream::connect(api.address).unwrap();
        write!(
            client,
            "POST /v1/events HTTP/1.1\r\nhost: h\r\nauthorization: Bearer {}\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n\r\n{body}",
            api.token
        )
        .unwrap();
        client.set_read_timeout(Some(crate::support::DEADLINE)).unwrap();
        let mut answer = Vec::new();
        // Closed, cleanly or with an error.
        drop(client.read_to_end(&mut answer));
        text(&answer)
    };
    let answer = post("application/json", 60_000, "{\"event\":");
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("api.idle_timeout"), "{answer}");
    let lines: String = (0..300)
        .map(|job| event("job_sending", &job.to_string(), &receiver.url("/")).to_string() + "\n")
        .collect();
    let answer = post("application/x-ndjson", 1_000_000, &lines);
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert_eq!(answer.matches("\"accepted\"").count(), 256, "{answer}");
    receiver.wait_for(256);
}

#[test]
fn a_head_that_is_too_long_closes_only_its_connection() {
    let service = Service::start("");
    let api = service.api();
    let mut client = TcpStream::connect(api.address).unwrap();
    client.set_read_timeout(Some(crate::support::DEADLINE)).unwrap();
    drop(client.write_all(b"GET /healthz HTTP/1.1\r\nx-long: "));
    let written = (0..50_000).take_while(|_| client.write_all(&[b'x'; 4096]).is_ok()).count();
    assert!(written < 50_000, "it continues to read");
    assert_eq!(api.get("/healthz").status, 200);
}

#[test]
fn an_unauthenticated_body_is_not_read() {
    let service = Service::start("");
    let api = service.api();
    let mut stranger = TcpStream::connect(api.address).unwrap();
    stranger.set_read_timeout(Some(crate::support::DEADLINE)).unwrap();
    stranger
        .write_all(b"POST /v1/events HTTP/1.1\r\nhost: h\r\ncontent-type: application/json\r\ncontent-length: 60000\r\n\r\n")
        .unwrap();
    let mut answer = Vec::new();
    drop(stranger.read_to_end(&mut answer));
    let answer = text(&answer);
    assert!(answer.starts_with("HTTP/1.1 401 ") && answer.contains("www-authenticate: Bearer"));
    for secret in ["version", "seal", "pending", &api.token] {
        assert!(!answer.contains(secret), "{answer}");
    }
}

#[test]
fn many_unauthenticated_connections_do_not_block_clients_with_the_token() {
    let service = Service::start("");
    let api = service.api();
    let crowd =
        || -> Vec<_> { (0..300).map(|_| TcpStream::connect(api.address).unwrap()).collect() };
    let first = crowd();
    for _ in 0..3 {
        let more = crowd();
        let asked = std::time::Instant::now();
        assert_eq!(api.get("/v1/queue").status, 200);
        assert!(
            asked.elapsed() < std::time::Duration::from_secs(8),
            "an unauthenticated connection has 10 s"
        );
        assert!(service.run(&["status"]).status.success());
        drop(more);
    }
    drop(first);
}

#[cfg(unix)]
#[test]
fn a_trailing_slash_does_not_hide_a_symbolic_link() {
    let service = Service::prepare("");
    fs::create_dir(service.path("elsewhere")).unwrap();
    std::os::unix::fs::symlink(service.path("elsewhere"), service.path("data")).unwrap();
    for data_dir in ["data/", "data/.", "./data//"] {
        service.configure(&format!("data_dir = \"{data_dir}\""));
        let output = service.run(&["inspect-queue"]);
        assert_eq!(output.status.code(), Some(1), "{data_dir}");
        assert!(text(&output.stderr).contains("is a symbolic link"), "{output:?}");
    }
}

#[cfg(unix)]
#[test]
fn files_of_other_users_in_a_data_directory_are_refused() {
    let service = Service::prepare("");
    fs::write(service.path("victim"), "as it was").unwrap();
    for name in ["lock", "api-token", "outbox"] {
        fs::create_dir(service.path("data")).unwrap();
        std::os::unix::fs::symlink("../victim", service.path("data").join(name)).unwrap();
        for command in ["serve", "inspect-queue"] {
            let output = service.run(&[command]);
            assert_eq!(output.status.code(), Some(1), "{command} {name}");
            assert!(text(&output.stderr).contains(name), "{output:?}");
        }
        fs::remove_dir_all(service.path("data")).unwrap();
    }
    assert_eq!(service.read("victim"), "as it was");
}
