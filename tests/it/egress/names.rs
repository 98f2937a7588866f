//! Names whose addresses change between two look-ups, with a resolver that the tests provide.

use std::net::TcpListener;

use crate::support::{Answer, Receiver, Service, event, eventually, preloaded};

/// A service whose resolver returns the next of these answers for each look-up of a `.test` name.
pub(super) fn serve(settings: &str, answers: &str) -> Service {
    let mut service = Service::prepare(settings);
    std::fs::write(service.path("answers"), answers).unwrap();
    let answers = service.path("answers");
    service.serve_with(&[
        ("LD_PRELOAD", &preloaded("resolver.c")),
        ("RESOLVER_ANSWERS", answers.to_str().unwrap()),
    ]);
    service
}

/// One listener at 127.0.0.1 and one at 127.0.0.2, with the same port.
fn twins() -> [TcpListener; 2] {
    eventually("a port that is free at both addresses", || {
        let one = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = one.local_addr().unwrap().port();
        Some([one, TcpListener::bind(("127.0.0.2", port)).ok()?])
    })
}

const DENY: &str = "egress.deny = [\"127.0.0.2\"]\ndelivery.per_destination = 1";

#[test]
fn dns_rebinding_is_denied() {
    const CALLBACKS: usize = 40;
    let answers = "127.0.0.1\n127.0.0.2\n".repeat(20 * CALLBACKS);
    let service = serve(DENY, &answers);
    let [allowed, denied] = twins();
    // Every callback needs a separate connection, and therefore a look-up.
    let close = Answer::With(200, vec![("connection", "close".into())]);
    let (allowed, denied) = (
        Receiver::listening(allowed, vec![], close),
        Receiver::listening(denied, vec![], Answer::Status(200)),
    );
    let url = format!("http://rebind.test:{}/", allowed.address.port());
    let api = service.api();
    // They are sent one after the other. Only answers of slow look-ups are cached, which may happen on
    // a busy machine.
    eventually("each look-up counts where look-ups are quick", || {
        let ids: Vec<_> = (0..CALLBACKS)
            .map(|job| api.accept(&event("job_sending", &job.to_string(), &url)))
            .collect();
        eventually("all have ended", || (api.queue()["pending"] == 0).then_some(()));
        let delivered: Vec<_> = ids
            .iter()
            .map(|id| {
                let callback = api.callback(id);
                let is_delivered = callback["state"] == "delivered";
                if is_delivered {
                    assert_eq!(callback["attempts"][0]["peer"], allowed.address.to_string());
                } else {
                    assert_eq!(callback["lastError"]["kind"], "egress", "{callback}");
                }
                is_delivered
            })
            .collect();
        let changes = delivered.windows(2).filter(|two| two[0] != two[1]).count();
        (changes >= CALLBACKS / 2).then_some(())
    });
    assert_eq!(denied.connections(), 0);
}

#[test]
fn only_allowed_addresses_of_a_name_are_called() {
    let service = serve(DENY, "127.0.0.2 127.0.0.1\n");
    let [allowed, denied] = twins();
    let (allowed, denied) = (
        Receiver::listening(allowed, vec![], Answer::Status(200)),
        Receiver::listening(denied, vec![], Answer::Status(200)),
    );
    let url = format!("http://both.test:{}/", allowed.address.port());
    let id = service.api().accept(&event("job_sending", "1", &url));
    service.api().wait_for_state(&id, "delivered");
    assert_eq!((allowed.count(), denied.connections()), (1, 0));
}

#[test]
fn a_connection_to_a_checked_address_is_reused() {
    let service = serve(DENY, "127.0.0.1\n127.0.0.2\n");
    let receiver = Receiver::start();
    let url = format!("http://pooled.test:{}/", receiver.address.port());
    for job in ["1", "2", "3"] {
        let id = service.api().accept(&event("job_sending", job, &url));
        service.api().wait_for_state(&id, "delivered");
    }
    assert_eq!((receiver.count(), receiver.connections()), (3, 1));
}

#[test]
fn an_unknown_name_is_retried_as_dns() {
    let service = serve("", "\n");
    let id = service.api().accept(&event("job_sending", "1", "http://nowhere.test/"));
    let callback = eventually("an attempt", || {
        Some(service.api().callback(&id)).filter(|it| it["attemptCount"] != 0)
    });
    assert_eq!(callback["lastError"]["kind"], "dns");
    assert_eq!(callback["state"], "pending");
}
