//! Failures: nothing is lost, nothing is stored twice, and the order of each job's events is kept.

use std::time::Duration;

use super::{NOWHERE, SLOW, check, numbered, pulling, stored, wait_for};
use crate::support::{Forwarder, Service, event, eventually, nats::Server};

/// The settings for a server behind a network.
fn behind(server: &Server, network: &Forwarder) -> String {
    let direct = server.toml("");
    format!("{SLOW}{}", direct.replace(&server.url(), &format!("nats://{}", network.address)))
}

fn network(server: &Server) -> Forwarder {
    Forwarder::to(server.url().trim_start_matches("nats://").parse().unwrap())
}

#[test]
#[ignore = "needs nats-server: tests/run"]
fn a_kill_between_store_and_acknowledgement_stores_nothing_twice() {
    let server = Server::start();
    server.prepare();
    let network = network(&server);
    let mut service = Service::start(&behind(&server, &network));
    wait_for(&service, "pulling", "");
    eventually("it has asked for messages", || {
        server.publish([numbered(0)]);
        (!stored(&service).is_empty()).then_some(())
    });
    server.wait_until_empty();
    let before = stored(&service).values().map(Vec::len).sum::<usize>();
    network.mute();
    server.publish((before..before + 100).map(numbered));
    eventually("they are stored", || {
        let count = stored(&service).values().map(Vec::len).sum::<usize>();
        (count == before + 100).then_some(())
    });
    assert_eq!(server.left(), (0, 100), "none is acknowledged");
    service.kill();
    server.publish((before + 100..before + 150).map(numbered));
    service.configure(&format!("{SLOW}{}", server.toml("")));
    service.serve();
    server.wait_until_empty();
    let jobs = stored(&service);
    assert_eq!(jobs.values().map(Vec::len).sum::<usize>(), before + 150);
}

#[test]
#[ignore = "needs nats-server: tests/run"]
fn a_kill_before_the_store_loses_nothing_and_keeps_the_order() {
    let server = Server::start();
    server.prepare();
    let full = "outbox.max_pending = 1\n";
    let mut service = Service::prepare(&format!("{full}{SLOW}{}", server.toml("")));
    service.serve();
    service.api().accept(&event("job_sending", "other", NOWHERE));
    server.publish((0..100).map(numbered));
    wait_for(&service, "waiting", "outbox.max_pending");
    service.kill();
    // Newer messages must not overtake them.
    server.publish((100..200).map(numbered));
    service.configure(&format!("{SLOW}{}", server.toml("")));
    service.serve();
    wait_for(&service, "waiting", "were delivered and not acknowledged");
    server.wait_until_empty();
    check(&service, 201);
}

#[test]
#[ignore = "needs nats-server: tests/run"]
fn kills_with_a_backlog_lose_nothing_and_keep_the_order() {
    const COUNT: usize = 5_000;
    let server = Server::start();
    server.prepare();
    server.publish((0..COUNT).map(numbered));
    let mut service = Service::prepare(&format!("{SLOW}{}", server.toml("batch = 50")));
    for kill in 1..=3 {
        service.serve();
        let before = server.left().0;
        eventually("it pulls", || (server.left().0 < before).then_some(()));
        assert!(server.left().0 > 0, "kill {kill} came too late");
        service.kill();
    }
    service.serve();
    server.wait_until_empty();
    check(&service, COUNT);
}

#[test]
#[ignore = "needs nats-server: tests/run"]
fn a_restart_of_the_server_loses_nothing() {
    let mut server = Server::start();
    server.prepare();
    let service = pulling(&server, "");
    server.publish((0..100).map(numbered));
    server.wait_until_empty();
    server.crash();
    wait_for(&service, "waiting", "not connected to nats://127.0.0.1");
    assert_eq!(service.api().get("/readyz").status, 200, "HTTP continues");
    server.restart();
    let begin = std::time::Instant::now();
    server.publish((100..200).map(numbered));
    server.wait_until_empty();
    assert!(begin.elapsed() < Duration::from_secs(30), "{:?}", begin.elapsed());
    check(&service, 200);
}

#[test]
#[ignore = "needs nats-server: tests/run"]
fn a_connection_cut_repeatedly_loses_nothing_and_keeps_the_order() {
    const COUNT: usize = 5_000;
    let server = Server::start();
    server.prepare();
    let network = network(&server);
    let service = Service::start(&behind(&server, &network));
    server.publish((0..COUNT).map(numbered));
    for _ in 0..3 {
        let before = server.left().0;
        eventually("it continues", || {
            let left = server.left();
            (left.0 < before || left == (0, 0)).then_some(())
        });
        network.cut();
    }
    server.wait_until_empty();
    check(&service, COUNT);
}

#[test]
#[ignore = "needs nats-server: tests/run"]
fn the_source_waits_for_a_full_outbox_in_bounded_memory() {
    const COUNT: usize = 3_000;
    let server = Server::start();
    server.prepare();
    let settings = format!("outbox.max_pending = 1000\n{SLOW}{}", server.toml("batch = 400"));
    let service = Service::start(&settings);
    server.publish((0..COUNT).map(numbered));
    wait_for(&service, "waiting", "the outbox refuses");
    let (left, unacknowledged) = server.left();
    assert!(unacknowledged <= 800 && left >= 1_000, "{left}, {unacknowledged}");
    // Ten times as long as the server waits without a progress report.
    let end = std::time::Instant::now() + Duration::from_secs(105);
    eventually("nothing changes", || {
        assert_eq!(server.left(), (left, unacknowledged));
        (std::time::Instant::now() > end).then_some(())
    });
    let redelivered = server.run(async |context| {
        let consumer: async_nats::jetstream::consumer::PullConsumer =
            context.get_consumer_from_stream("callbacks", "JOBS").await.unwrap();
        consumer.cached_info().num_redelivered
    });
    assert_eq!(redelivered, 0);
    eventually("all are stored", || {
        let output = service.run(&["cancel", "--all"]);
        assert!(output.status.success(), "{output:?}");
        (server.left() == (0, 0)).then_some(())
    });
    check(&service, COUNT);
}

#[test]
#[ignore = "needs nats-server: tests/run"]
fn a_deleted_consumer_is_reported_and_found_again() {
    let server = Server::start();
    server.prepare();
    let service = pulling(&server, "");
    server.run(async |context| {
        context.delete_consumer_from_stream("callbacks", "JOBS").await.unwrap();
    });
    wait_for(&service, "waiting", "consumer callbacks (nats.consumer) does not exist");
    server.run(async |context| {
        let stream = context.get_stream("JOBS").await.unwrap();
        stream.create_consumer(crate::support::nats::consumer()).await.unwrap();
    });
    server.publish([numbered(1)]);
    server.wait_until_empty();
    check(&service, 1);
}

#[test]
#[ignore = "needs nats-server: tests/run"]
fn at_shutdown_every_message_held_is_stored_or_returned() {
    let server = Server::start();
    server.prepare();
    let mut service = Service::start(&format!("{SLOW}{}", server.toml("")));
    server.publish((0..3_000).map(numbered));
    eventually("it pulls", || (server.left().0 < 3_000).then_some(()));
    assert_eq!(service.terminate(), Some(0));
    service.serve();
    server.wait_until_empty();
    check(&service, 3_000);
}
