//! The service over PostgreSQL, with the server's default durability and on the same machine: intake, drain,
//! latency, several instances, and a snapshot that is held open.

use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use tokio_postgres::{Client, NoTls};

use crate::{
    clock::{Latency, eventually},
    fill::SCHEMA,
    receiver::rate,
    service::Service,
    stage::{DEAD, Events, Receiver, all_delivered, beside, fill, produce},
    table::{Figures, ms},
};

/// Serves a cluster until its standard input is closed.
const SERVE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/postgres/serve");

/// How long a snapshot is held open.
const HELD: Duration = Duration::from_mins(10);

/// A server with an empty database.
struct Server {
    _folder: tempfile::TempDir,
    port: u16,
    child: Child,
}

impl Server {
    fn start() -> anyhow::Result<Self> {
        // The server's user must have access, so it is not in the project's folder.
        let folder = tempfile::tempdir_in("/var/tmp")?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let child = Command::new(SERVE)
            .arg(folder.path())
            .arg(port.to_string())
            .stdin(Stdio::piped())
            .spawn()
            .context(SERVE)?;
        let server = Self { _folder: folder, port, child };
        eventually("PostgreSQL answers", || Ok(server.run(async |_| Ok(())).ok()))?;
        Ok(server)
    }

    fn url(&self) -> String {
        format!("postgresql://postgres@127.0.0.1:{}/postgres?sslmode=disable", self.port)
    }

    /// An instance over its database.
    fn instance(&self) -> anyhow::Result<Service> {
        Service::prepare_with(&format!(
            "outbox.postgres.url = \"{}\"\noutbox.postgres.schema = \"{SCHEMA}\"\n",
            self.url()
        ))
    }

    /// Runs something on a separate connection.
    fn run<T>(&self, run: impl AsyncFnOnce(&Client) -> anyhow::Result<T>) -> anyhow::Result<T> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let (client, serve) = tokio_postgres::connect(&self.url(), NoTls).await?;
            tokio::spawn(serve);
            run(&client).await
        })
    }

    /// How long a commit of one row takes.
    fn commit(&self) -> anyhow::Result<Latency> {
        self.run(async |client| {
            client.batch_execute("CREATE TABLE IF NOT EXISTS probe (at bigint)").await?;
            let insert = client.prepare("INSERT INTO probe VALUES ($1)").await?;
            let mut took = Vec::new();
            for at in 0..500_i64 {
                let begin = Instant::now();
                client.execute(&insert, &[&at]).await?;
                took.push(u32::try_from(begin.elapsed().as_micros())?);
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            Ok(Latency::of(took))
        })
    }

    /// The number of bytes of its log (WAL) that it has written so far.
    fn wal(&self) -> anyhow::Result<f64> {
        self.run(async |client| {
            let sql = "SELECT (pg_current_wal_lsn() - '0/0'::pg_lsn)::float8";
            Ok(client.query_one(sql, &[]).await?.get(0))
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        drop(self.child.wait());
    }
}

/// Intake, latency and drain with one instance.
pub(crate) fn run(figures: &mut Figures) -> anyhow::Result<()> {
    intake(figures)?;
    latency(figures)?;
    drain(figures)
}

fn intake(figures: &mut Figures) -> anyhow::Result<()> {
    for (lines, connections, count, kind, target) in
        [(0, 64, 40_000, "single events", ""), (1000, 4, 100_000, "NDJSON", "≥ 8000/s")]
    {
        let server = Server::start()?;
        let mut service = server.instance()?;
        service.start()?;
        let events = Events { port: DEAD, destinations: 1, connections, count, rate: 0, lines };
        let before = server.wal()?;
        let report = produce(&service, events)?;
        let wal = server.wal()? - before;
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let each = wal / count as f64;
        figures.add(
            &format!("PostgreSQL: intake of {kind}"),
            format!("{:.0}/s", rate(report.accepted, report.micros)),
            format!("{each:.0} bytes of WAL each"),
            target,
        );
        service.stop()?;
    }
    Ok(())
}

fn latency(figures: &mut Figures) -> anyhow::Result<()> {
    let server = Server::start()?;
    let mut receiver = Receiver::start()?;
    let mut service = server.instance()?;
    service.start()?;
    let port = receiver.port;
    let first = Events { port, destinations: 50, connections: 8, count: 200, rate: 100, lines: 0 };
    produce(&service, first)?;
    receiver.wait_for(200)?;
    receiver.report()?;
    let before = server.commit()?;
    let accepted = produce(&service, Events { count: 2_000, ..first })?.latency;
    receiver.wait_for(2_000)?;
    let came = receiver.report()?.latency;
    let after = server.commit()?;
    let commit = before.p99.midpoint(after.p99);
    let both = |of: &Latency| format!("{} / {}", ms(of.p50), ms(of.p99));
    figures.plain("PostgreSQL: its own commit, p50 / p99", both(&before), "");
    figures.add(
        "PostgreSQL: 100 events a second, accepted: p50 / p99",
        both(&accepted),
        format!(
            "{:+.1} ms over the commit's p99",
            (f64::from(accepted.p99) - f64::from(commit)) / 1e3
        ),
        "p99 ≤ +10 ms",
    );
    figures.plain("PostgreSQL: 100 events a second, at the receiver: p50 / p99", both(&came), "");
    service.stop()
}

fn drain(figures: &mut Figures) -> anyhow::Result<()> {
    const COUNT: usize = 100_000;
    for destinations in [1, 50] {
        let server = Server::start()?;
        let mut receiver = Receiver::start()?;
        let mut service = server.instance()?;
        fill(&service, Some(&server.url()), &[(0, receiver.port, destinations, COUNT)])?;
        let ((seen, wal), raw) = beside(&mut receiver, destinations, |receiver| {
            let before = server.wal()?;
            service.start()?;
            receiver.wait_for(COUNT as u64)?;
            let seen = receiver.report()?.rate();
            all_delivered(&service, COUNT)?;
            let wal = server.wal()? - before;
            service.stop()?;
            Ok((seen, wal))
        })?;
        let what = format!("PostgreSQL: drain of {COUNT}, {destinations} destination(s)");
        figures.rate(&what, seen, raw, "≥ 4000/s");
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let each = wal / COUNT as f64;
        figures.plain("PostgreSQL: WAL of a delivery", format!("{each:.0} bytes"), "");
    }
    Ok(())
}

/// The same backlog, drained by one, two and three instances.
pub(crate) fn scaling(figures: &mut Figures) -> anyhow::Result<()> {
    const COUNT: usize = 100_000;
    const DESTINATIONS: usize = 100;
    for instances in [1, 2, 3] {
        let server = Server::start()?;
        let mut receiver = Receiver::start()?;
        let mut services =
            (0..instances).map(|_| server.instance()).collect::<anyhow::Result<Vec<_>>>()?;
        for service in &mut services {
            service.start()?;
        }
        eventually("each has its shards", || {
            let sql = format!("SELECT count(DISTINCT owner) FROM {SCHEMA}.shard WHERE NOT clean");
            let owners = server
                .run(async |client| Ok(client.query_one(&sql, &[]).await?.get::<_, i64>(0)))?;
            Ok((owners == instances).then_some(()))
        })?;
        let begin = Instant::now();
        let at_once = COUNT / usize::try_from(instances)?;
        let events = Events {
            port: receiver.port,
            destinations: DESTINATIONS,
            connections: 4,
            count: at_once,
            rate: 0,
            lines: 1000,
        };
        let produced: Vec<_> = std::thread::scope(|scope| {
            let all: Vec<_> =
                services.iter().map(|service| scope.spawn(|| produce(service, events))).collect();
            all.into_iter().map(|it| it.join()).collect()
        });
        for it in produced {
            it.map_err(|_| anyhow::anyhow!("a producer panicked"))??;
        }
        let count = (at_once * usize::try_from(instances)?) as u64;
        receiver.wait_for(count)?;
        let micros = u64::try_from(begin.elapsed().as_micros())?;
        figures.plain(
            &format!("PostgreSQL: NDJSON to the receivers, {DESTINATIONS} destinations, {instances} instance(s)"),
            format!("{:.0}/s", rate(count, micros)),
            "",
        );
        for service in &mut services {
            service.stop()?;
        }
    }
    Ok(())
}

/// Intake and delivery while a snapshot is held open, as by a backup.
pub(crate) fn snapshot(figures: &mut Figures) -> anyhow::Result<()> {
    const COUNT: usize = 40_000;
    let server = Server::start()?;
    let mut receiver = Receiver::start()?;
    let mut service = server.instance()?;
    service.start()?;
    let mut measure = |count| {
        let events = Events {
            port: receiver.port,
            destinations: 50,
            connections: 4,
            count,
            rate: 0,
            lines: 1000,
        };
        receiver.report()?;
        let begin = Instant::now();
        produce(&service, events)?;
        receiver.wait_for(count as u64)?;
        anyhow::Ok(rate(count as u64, u64::try_from(begin.elapsed().as_micros())?))
    };
    measure(COUNT)?;
    let before = measure(COUNT)?;
    let (first, last, count) = server.run(async |client| {
        client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1").await?;
        let begin = Instant::now();
        let (mut first, mut last, mut count) = (None, 0.0, 0);
        while begin.elapsed() < HELD {
            last = measure(COUNT)?;
            first.get_or_insert(last);
            count += COUNT;
        }
        client.batch_execute("ROLLBACK").await?;
        Ok((first.unwrap_or(last), last, count))
    })?;
    let what = "PostgreSQL: events to the receiver";
    figures.plain(&format!("{what}, without a snapshot held"), format!("{before:.0}/s"), "");
    figures.plain(
        &format!("{what}, when a snapshot begins to be held"),
        format!("{first:.0}/s"),
        "",
    );
    figures.add(
        &format!("{what}, after {} minutes and {count} callbacks", HELD.as_secs() / 60),
        format!("{last:.0}/s"),
        format!("{:.2} of that without", last / before),
        "≥ 0.8",
    );
    service.stop()
}
