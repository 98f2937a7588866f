//! The database goes away and comes back.

use super::settings;
use crate::support::{Receiver, Service, event, eventually, postgres::Server};

#[test]
#[ignore = "needs PostgreSQL: tests/run"]
fn a_database_that_is_away_means_not_ready_but_alive_and_nothing_accepted_is_lost() {
    let mut server = Server::start();
    let mut service = Service::prepare(&settings(&server, "callbacks"));
    service.serve();
    let receiver = Receiver::start();
    let api = service.api();
    let mut accepted = Vec::new();
    for round in 0..3 {
        for job in 0..20 {
            let job = format!("{round}-{job}");
            accepted.push(api.accept(&event("job_sending", &job, &receiver.url("/"))));
        }
        server.crash();
        eventually("it is not ready", || (api.get("/readyz").status == 503).then_some(()));
        assert_eq!(api.get("/healthz").status, 200);
        let refused = api.post("/v1/events", &event("job_sending", "refused", &receiver.url("/")));
        assert_eq!(refused.status, 503);
        server.restart();
        eventually("it is ready again", || (api.get("/readyz").status == 200).then_some(()));
    }
    for id in &accepted {
        api.wait_for_state(id, "delivered");
    }
    let away =
        service.log().iter().filter(|line| line["event.action"] == "store-disconnected").count();
    assert_eq!(away, 3);
    assert_eq!(service.terminate(), Some(0));
}
