//! The egress policy with a proxy: the target is checked as far as possible before the request to the proxy.

use std::{
    io::{Read as _, Write as _, copy},
    net::{IpAddr, Shutdown, TcpListener, TcpStream},
    sync::{Arc, Mutex},
};

use crate::support::{Answer, RawReceiver, Receiver, Service, event, read_request};

type Asked = Arc<Mutex<Vec<String>>>;

/// A proxy for plain HTTP that records its requests and responds with 200.
fn http_proxy() -> (RawReceiver, Asked) {
    let asked = Asked::default();
    let noted = Arc::clone(&asked);
    let proxy = RawReceiver::start(move |mut stream| {
        let request = read_request(&mut stream);
        noted.lock().unwrap().push(request);
        drop(
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"),
        );
    });
    (proxy, asked)
}

/// A SOCKS5 proxy (RFC 1928) that records its requests and connects only to addresses.
fn socks_proxy() -> (RawReceiver, Asked) {
    let asked = Asked::default();
    let noted = Arc::clone(&asked);
    let proxy = RawReceiver::start(move |mut stream| {
        let mut head = [0; 2];
        stream.read_exact(&mut head).unwrap();
        let mut methods = vec![0; head[1].into()];
        stream.read_exact(&mut methods).unwrap();
        stream.write_all(&[5, 0]).unwrap();
        let mut request = [0; 4];
        stream.read_exact(&mut request).unwrap();
        let mut host = vec![0; [0, 4, 0, 1, 16][usize::from(request[3])]];
        stream.read_exact(&mut host).unwrap();
        if request[3] == 3 {
            host = vec![0; host[0].into()];
            stream.read_exact(&mut host).unwrap();
            noted.lock().unwrap().push(String::from_utf8(host).unwrap());
            drop(stream.write_all(&[5, 4, 0, 1, 0, 0, 0, 0, 0, 0]));
            return;
        }
        let mut port = [0; 2];
        stream.read_exact(&mut port).unwrap();
        let address = match <[u8; 4]>::try_from(&*host) {
            Ok(v4) => IpAddr::from(v4),
            Err(_) => IpAddr::from(<[u8; 16]>::try_from(host).unwrap()),
        };
        let target = (address, u16::from_be_bytes(port));
        noted.lock().unwrap().push(address.to_string());
        let Ok(there) = TcpStream::connect(target) else { return };
        stream.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).unwrap();
        let (mut from, mut to) = (stream.try_clone().unwrap(), there.try_clone().unwrap());
        std::thread::spawn(move || {
            drop(copy(&mut from, &mut to));
            drop(to.shutdown(Shutdown::Write));
        });
        drop(copy(&mut { there }, &mut stream));
    });
    (proxy, asked)
}

#[test]
fn all_allowed_callbacks_go_through_the_proxy() {
    let (proxy, asked) = http_proxy();
    let settings = format!("egress.proxy = \"http://{}\"", proxy.address);
    let service = Service::start(&settings);
    let api = service.api();
    // Names that only the proxy can resolve are not checked.
    let id = api.accept(&event("job_sending", "1", "http://known-to-the-proxy.invalid/x"));
    api.wait_for_state(&id, "delivered");
    let request = asked.lock().unwrap()[0].clone();
    assert!(
        request.starts_with("PUT http://known-to-the-proxy.invalid/x HTTP/1.1\r\n"),
        "{request}"
    );
    for url in ["http://169.254.169.254/", "http://0xa9fea9fe/"] {
        let answer = api.post("/v1/events", &event("job_sending", "2", url));
        assert_eq!(answer.status, 422, "{url}");
    }
    // The service's own API, by a name that resolves here.
    let url = format!("http://localhost:{}/", api.address.port());
    let id = api.accept(&event("job_sending", "3", &url));
    let failed = api.wait_for_state(&id, "failed");
    assert_eq!(failed["lastError"]["kind"], "egress", "{failed}");
    assert_eq!(asked.lock().unwrap().len(), 1);
}

#[test]
fn proxies_of_the_environment_are_ignored() {
    let (proxy, asked) = http_proxy();
    let mut service = Service::prepare("");
    let address = format!("http://{}", proxy.address);
    let names = ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "HTTPS_PROXY"];
    service.serve_with(&names.map(|name| (name, address.as_str())));
    let receiver = Receiver::start();
    let id = service.api().accept(&event("job_sending", "1", &receiver.url("/")));
    service.api().wait_for_state(&id, "delivered");
    assert_eq!((receiver.count(), asked.lock().unwrap().len()), (1, 0));
}

#[test]
fn socks5_gets_a_checked_address_and_socks5h_the_name() {
    let receiver = Receiver::start();
    let url = format!("http://localhost:{}/", receiver.address.port());
    let (proxy, asked) = socks_proxy();
    // If `localhost` resolves to both, the proxy of this test knows only one of them.
    let deny = "egress.deny = [\"::1\"]";
    let service = Service::start(&format!("{deny}\negress.proxy = \"socks5://{}\"", proxy.address));
    let id = service.api().accept(&event("job_sending", "1", &url));
    service.api().wait_for_state(&id, "delivered");
    assert_eq!(*asked.lock().unwrap(), ["127.0.0.1"]);

    let (proxy, asked) = socks_proxy();
    let settings =
        format!("retry.max_attempts = 1\negress.proxy = \"socks5h://{}\"", proxy.address);
    let service = Service::start(&settings);
    let id = service.api().accept(&event("job_sending", "1", &url));
    service.api().wait_for_state(&id, "failed");
    assert_eq!(*asked.lock().unwrap(), ["localhost"]);
}

#[cfg(target_os = "linux")]
#[test]
fn dns_rebinding_is_denied_with_a_socks5_proxy() {
    let (proxy, asked) = socks_proxy();
    let settings =
        format!("egress.deny = [\"127.0.0.2\"]\negress.proxy = \"socks5://{}\"", proxy.address);
    // The check before the request to the proxy gets the first answer, the connection the second.
    let service = super::names::serve(&settings, "127.0.0.1\n127.0.0.2\n");
    let id = service.api().accept(&event("job_sending", "1", "http://rebind.test:9/"));
    let failed = service.api().wait_for_state(&id, "failed");
    assert_eq!(failed["lastError"]["kind"], "egress", "{failed}");
    assert!(asked.lock().unwrap().is_empty());
}

#[test]
fn ipv6_addresses_work_with_proxies_except_for_https() {
    let listener = TcpListener::bind("[::1]:0").unwrap();
    let receiver = Receiver::listening(listener, vec![], Answer::Status(200));
    let (socks, asked) = socks_proxy();
    let (http, asked_http) = http_proxy();
    for proxy in [format!("socks5://{}", socks.address), format!("http://{}", http.address)] {
        let service = Service::start(&format!("egress.proxy = \"{proxy}\""));
        let api = service.api();
        let id = api.accept(&event("job_sending", "1", &receiver.url("/")));
        api.wait_for_state(&id, "delivered");
        let id = api.accept(&event("job_sending", "2", "https://[::1]:9/"));
        let failed = api.wait_for_state(&id, "failed");
        let said = failed["lastError"]["message"].as_str().unwrap();
        assert!(said.contains("IPv6") && said.contains("egress.proxy"), "{said}");
        assert_eq!(failed["lastError"]["kind"], "invalid_url");
    }
    assert_eq!((asked.lock().unwrap().clone(), receiver.count()), (vec!["::1".to_owned()], 1));
    assert!(asked_http.lock().unwrap()[0].starts_with(&format!("PUT {}", receiver.url("/"))));
    // Checked by the policy.
    let settings =
        format!("egress.deny = [\"::1\"]\negress.proxy = \"socks5://{}\"", socks.address);
    let service = Service::start(&settings);
    let refused = service.api().post("/v1/events", &event("job_sending", "3", &receiver.url("/")));
    assert_eq!(refused.status, 422);
}

#[test]
fn proxy_credentials_that_are_not_utf_8_are_sent_unchanged() {
    let (proxy, asked) = http_proxy();
    let address = proxy.address;
    let service = Service::start(&format!("egress.proxy = \"http://j%FCrgen:p%E4ss@{address}\""));
    let id = service.api().accept(&event("job_sending", "1", "http://known-to-the-proxy.invalid/"));
    service.api().wait_for_state(&id, "delivered");
    let expected = data_encoding::BASE64.encode(b"j\xfcrgen:p\xe4ss");
    let request = asked.lock().unwrap()[0].clone();
    assert!(request.contains(&format!("proxy-authorization: Basic {expected}\r\n")), "{request}");
}

#[test]
fn socks_credentials_that_are_not_utf_8_are_an_error() {
    for (user, good) in [("j%FCrgen:p", false), ("u:p%E4ss", false), ("j%C3%BCrgen:p", true)] {
        for scheme in ["socks5", "socks5h"] {
            let proxy = format!("{scheme}://{user}@127.0.0.1:9");
            let service = Service::prepare(&format!("egress.proxy = \"{proxy}\""));
            let checked = service.run(&["check-config"]);
            let said = String::from_utf8(checked.stderr).unwrap();
            assert_eq!(checked.status.success(), good, "{proxy}: {said}");
            assert!(good || said.contains("egress.proxy") && said.contains("UTF-8"), "{said}");
            assert!(!said.contains("E4ss"), "{said}");
        }
    }
}
