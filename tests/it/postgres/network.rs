//! The network between instances and database: poolers, slow and interrupted connections, lost notifications.

use std::{
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{
    alone,
    fleet::{assert_found_by_polling, halves, hand_in, receivers, seen, shards, within},
};
use crate::support::{
    Answer, Forwarder, Receiver, Response, Service, event, eventually, postgres, preloaded,
    unused_address,
};

/// `PgBouncer` in front of the server of this process. It ends when its standard input is closed.
struct Bouncer {
    _dir: tempfile::TempDir,
    port: u16,
    child: Child,
}

impl Bouncer {
    fn start(mode: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = unused_address().port();
        let server = postgres::server().port();
        // With `any`, all clients connect as the user in the database's line.
        let settings = format!(
            "[databases]\n* = host=127.0.0.1 port={server} user=postgres\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nunix_socket_dir =\nauth_type = any\npool_mode = {mode}\n\
             default_pool_size = 5\nuser = postgres\n"
        );
        std::fs::write(dir.path().join("pgbouncer.ini"), settings).unwrap();
        let script = r#"cd "$0"; chmod 755 .; chmod 644 pgbouncer.ini; pgbouncer -q pgbouncer.ini >log 2>&1 & cat >/dev/null; kill $!"#;
        let child = Command::new("sh")
            .args(["-c", script])
            .arg(dir.path())
            .env("PATH", format!("{}:/usr/sbin", std::env::var("PATH").unwrap()))
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        eventually("PgBouncer listens", || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
        Self { _dir: dir, port, child }
    }

    fn url(&self) -> String {
        format!("postgresql://postgres@127.0.0.1:{}/postgres?sslmode=disable", self.port)
    }
}

impl Drop for Bouncer {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        drop(self.child.wait());
    }
}

/// The settings of [`alone`] with another URL.
fn through(settings: &str, url: &str) -> String {
    settings.replace(&postgres::server().url(), url)
}

#[test]
#[ignore = "needs PostgreSQL: tests/run"]
fn reads_work_through_a_pooler_in_transaction_mode() {
    let bouncer = Bouncer::start("transaction");
    let (mut service, settings) = alone();
    let pooled = through(&settings, &bouncer.url());
    let direct = format!("outbox.postgres.session_url = \"{}\"\n", postgres::server().url());
    service.configure(&(pooled.clone() + &direct));
    service.serve();
    let receiver = Receiver::answering(vec![Answer::Status(410)], Answer::Status(200));
    let api = service.api();
    let failed = api.accept(&event("job_sending", "1", &receiver.url("/")));
    api.wait_for_state(&failed, "failed");
    // Many concurrent reads, so that they run on different connections of the pooler.
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..10 {
                    let listed = api.get("/v1/callbacks?state=failed&jobId=1").json();
                    assert_eq!(listed["callbacks"][0]["id"], failed.as_str(), "{listed}");
                    assert_eq!(api.queue()["failed"], 1);
                }
            });
        }
    });
    assert_eq!(service.terminate(), Some(0));
    for args in [&["inspect-queue", "--state", "failed"][..], &["replay-failed", "--all"]] {
        let output = service.run(args);
        assert!(output.status.success(), "{output:?}");
    }

    // Without the other URL, session locks would have no owner.
    service.configure(&pooled);
    let refused = service.run(&["serve"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("outbox.postgres.session_url"), "{said}");
    let checked = service.run(&["check-config"]);
    let said = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert!(!checked.status.success() && said.contains("outbox.postgres.session_url"), "{said}");
}

#[test]
#[ignore = "needs PostgreSQL: tests/run"]
fn a_pooler_in_session_mode_is_enough() {
    let bouncer = Bouncer::start("session");
    let (mut service, settings) = alone();
    service.configure(&through(&settings, &bouncer.url()));
    service.serve();
    let receiver = Receiver::start();
    let api = service.api();
    let id = api.accept(&event("job_sending", "1", &receiver.url("/")));
    api.wait_for_state(&id, "delivered");
}

/// An instance behind a simulated network, and one with a direct connection.
fn behind(settings_more: &str) -> (Service, Forwarder, Service, String) {
    let (mut near, settings) = alone();
    near.configure(&format!("{settings}{settings_more}"));
    let schema = near.folder().file_name().unwrap().to_string_lossy().into_owned();
    near.serve();
    let forwarder = Forwarder::to(([127, 0, 0, 1], postgres::server().port()).into());
    let url = postgres::server().url();
    let (before, rest) = url.split_once("127.0.0.1:").unwrap();
    let (_, after) = rest.split_once('/').unwrap();
    let url = format!("{before}{}/{after}", forwarder.address);
    let mut far = Service::prepare(&format!("{}{settings_more}", through(&settings, &url)));
    far.serve();
    halves(&schema);
    (near, forwarder, far, schema)
}

fn disconnected(service: &Service) -> usize {
    let lines = service.log();
    lines.iter().filter(|line| line["event.action"] == "store-disconnected").count()
}

/// A single instance whose network can lose answers.
struct Lossy {
    service: Service,
    network: Forwarder,
    schema: String,
}

impl Lossy {
    fn start() -> Self {
        let (mut near, network, service, schema) = behind("");
        assert_eq!(near.terminate(), Some(0));
        within(Duration::from_secs(30), "the one far away has all shards", || {
            (shards(&schema).values().copied().max() == Some(64)).then_some(())
        });
        Self { service, network, schema }
    }

    fn stored(&self) -> usize {
        self.count("*")
    }

    fn count(&self, what: &str) -> usize {
        let count = format!("SELECT count({what}) FROM \"{}\".callback", self.schema);
        let count: i64 = postgres::server()
            .run(async |client| client.query_one(&count, &[]).await.unwrap().get(0));
        usize::try_from(count).unwrap()
    }

    /// Submits events without an `eventId`, so that only the service can recognize a repeated one, until the
    /// answer to a committed one is lost. Then calls a function, and returns the answer to the event.
    fn lose_an_answer(&self, url: &str, then: impl Fn()) -> Response {
        let api = self.service.api();
        let lost = (0..10).find_map(|job| {
            let before = self.stored();
            let event = event("job_sending", &job.to_string(), url);
            self.network.swallow(true);
            std::thread::scope(|scope| {
                let submitted = scope.spawn(|| api.post("/v1/events", &event));
                let end = Instant::now() + Duration::from_secs(3);
                while self.stored() == before && Instant::now() < end {
                    std::thread::park_timeout(Duration::from_millis(5));
                }
                let is_committed = self.stored() > before;
                if is_committed {
                    then();
                }
                self.network.swallow(false);
                self.network.cut();
                let answer = submitted.join().unwrap();
                if !is_committed {
                    // The answer to another call was lost first, and the event was not sent.
                    within(Duration::from_mins(1), "it is ready again", || {
                        (api.get("/readyz").status == 200).then_some(())
                    });
                }
                is_committed.then_some(answer)
            })
        });
        lost.expect("no answer was lost")
    }

    fn all_arrive_once(&self, receiver: &Receiver) {
        within(Duration::from_mins(1), "all have arrived", || {
            (receiver.count() >= self.stored()).then_some(())
        });
        assert_eq!(self.stored(), self.count("DISTINCT job"), "one was stored twice");
        assert_eq!(receiver.count(), self.stored());
    }
}

#[test]
#[ignore = "needs PostgreSQL: tests/run"]
fn an_event_with_a_late_commit_answer_is_stored_once_and_acknowledged() {
    let (lossy, receiver) = (Lossy::start(), Receiver::start());
    let answer = lossy.lose_an_answer(&receiver.url("/"), || {});
    assert_eq!(answer.status, 202, "{answer:?}");
    lossy.service.api().wait_for_state(answer.json()["id"].as_str().unwrap(), "delivered");
    lossy.all_arrive_once(&receiver);
}

#[test]
#[ignore = "needs PostgreSQL: tests/run"]
fn a_repeated_call_that_hangs_ends_its_session_and_is_answered() {
    // This is longer than the time-out of a call, and shorter than two of them.
    const HELD: Duration = Duration::from_secs(22);
    let (lossy, receiver) = (Lossy::start(), Receiver::start());
    // No other call uses this table.
    let lock = format!("BEGIN; LOCK TABLE \"{}\".stored IN ACCESS EXCLUSIVE MODE", lossy.schema);
    let answer = lossy.lose_an_answer(&receiver.url("/"), || {
        let (lock, (locked, is_locked)) = (lock.clone(), std::sync::mpsc::channel());
        std::thread::spawn(move || {
            postgres::server().run(async |client| {
                client.batch_execute(&lock).await.unwrap();
                locked.send(()).unwrap();
                tokio::time::sleep(HELD).await;
            });
        });
        is_locked.recv().unwrap();
    });
    assert_eq!(answer.status, 503, "{answer:?}");
    lossy.all_arrive_once(&receiver);
}

#[test]
#[ignore = "needs PostgreSQL: tests/run"]
fn a_slow_database_delays_and_breaks_nothing() {
    let (near, forwarder, far, schema) = behind("");
    forwarder.delay(Duration::from_millis(500));
    let (services, receivers) = ([near, far], receivers());
    hand_in(&services, &receivers, 0..12);
    eventually("everything has arrived", || {
        (receivers.iter().map(Receiver::count).sum::<usize>() >= 24).then_some(())
    });
    for (job, states) in seen(&receivers) {
        assert_eq!(states, ["SENDING", "FINISHED"], "of job {job}");
    }
    // Neither instance lost its session, and no shard has moved.
    assert!(services.iter().all(|service| disconnected(service) == 0));
    assert!(shards(&schema).values().eq([32, 32].iter()));
}

#[test]
#[ignore = "needs PostgreSQL: tests/run"]
fn an_instance_that_is_cut_off_stops_and_another_takes_over() {
    let retry = "retry.initial_interval = \"2s\"\nretry.max_interval = \"2s\"\n";
    let (near, forwarder, far, schema) = behind(retry);
    // All attempts fail, so that each owner tries its destinations every two seconds.
    let receivers: Vec<_> =
        (0..8).map(|_| Receiver::answering(Vec::new(), Answer::Status(503))).collect();
    for (job, receiver) in receivers.iter().enumerate() {
        near.api().accept(&event("job_sending", &job.to_string(), &receiver.url("/")));
    }
    receivers.iter().for_each(|receiver| drop(receiver.wait_for(2)));
    let attempts = || {
        let lines = far.log();
        lines.iter().filter(|line| line["event.action"] == "callback-retry").count()
    };
    assert!(attempts() > 0, "the one far away delivers to none of the destinations");
    forwarder.hang(true);
    let cut = Instant::now();
    within(Duration::from_secs(45), "the other has all shards", || {
        (shards(&schema).values().copied().max() == Some(64)).then_some(())
    });
    assert!(cut.elapsed() > Duration::from_secs(19), "an old owner may still send");
    let when_taken = attempts();
    let before: Vec<_> = receivers.iter().map(Receiver::count).collect();
    // Now only the instance with the direct connection tries all of them.
    for (receiver, before) in receivers.iter().zip(before) {
        receiver.wait_for(before + 2);
    }
    assert_eq!(attempts(), when_taken, "the disconnected one continues");
    assert_eq!(far.api().get("/readyz").status, 503);
    forwarder.hang(false);
    forwarder.cut();
    halves(&schema);
}

#[test]
#[ignore = "needs PostgreSQL: tests/run"]
fn without_notifications_and_with_a_held_snapshot_events_are_found_by_polling() {
    let (near, _, far, _) = behind("");
    let end = AtomicBool::new(false);
    let services = [near, far];
    std::thread::scope(|scope| {
        // Connections that listen or notify are closed repeatedly.
        scope.spawn(|| {
            postgres::server().run(async |client| {
                let old = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class";
                client.batch_execute(old).await.unwrap();
                while !end.load(Ordering::Relaxed) {
                    let sql = "SELECT pg_stat_clear_snapshot(); SELECT pg_terminate_backend(pid) \
                        FROM pg_stat_activity WHERE query LIKE 'LISTEN%' OR query = 'SELECT pg_notify($1, $2)'";
                    client.batch_execute(sql).await.unwrap();
                }
            });
        });
        assert_found_by_polling(&services);
        end.store(true, Ordering::Relaxed);
    });
}

#[test]
#[ignore = "needs PostgreSQL: tests/run"]
fn the_clocks_of_the_machines_do_not_matter() {
    let settings = "retry.initial_interval = \"3s\"\nretry.max_interval = \"3s\"\nretry.jitter = 0\n\
        retry.max_age = \"10m\"\n";
    let (first, base) = alone();
    let mut services = [first, Service::prepare("")];
    for (service, ahead) in services.iter_mut().zip(["3600", "-3600"]) {
        service.configure(&format!("{base}{settings}"));
        std::fs::write(service.path("ahead"), ahead).unwrap();
        let file = service.path("ahead").to_str().unwrap().to_owned();
        service.serve_with(&[("LD_PRELOAD", &preloaded("clock.c")), ("CLOCK_AHEAD", &file)]);
    }
    let schema = services[0].folder().file_name().unwrap().to_string_lossy().into_owned();
    halves(&schema);
    let receivers: Vec<_> = (0..8)
        .map(|_| Receiver::answering(vec![Answer::Status(503)], Answer::Status(200)))
        .collect();
    let ids: Vec<_> = receivers
        .iter()
        .enumerate()
        .map(|(job, receiver)| {
            let event = event("job_sending", &job.to_string(), &receiver.url("/"));
            services[job % 2].api().accept(&event)
        })
        .collect();
    for (id, receiver) in ids.iter().zip(&receivers) {
        let callback: Value = services[0].api().wait_for_state(id, "delivered");
        assert_eq!(callback["attemptCount"], 2, "{callback}");
        let puts = receiver.puts();
        let pause = puts[1].at.duration_since(puts[0].at);
        assert!(
            pause > Duration::from_millis(2900) && pause < Duration::from_secs(8),
            "the retry came after {pause:?}"
        );
    }
}
