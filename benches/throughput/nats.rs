//! Events from NATS JetStream, with a separate server on the same machine (`NATS_SERVER`, or `nats-server` in
//! the path).

use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use async_nats::jetstream::{
    self, Context,
    consumer::{AckPolicy, pull},
    stream,
};

use crate::{
    clock::eventually,
    fill::url,
    producer::event,
    receiver::rate,
    service::Service,
    stage::{DEAD, Events, produce},
    table::{Figures, mib},
};

/// How long the service runs before its memory is measured.
const SETTLES: Duration = Duration::from_secs(30);

/// A server with an empty stream.
struct Server {
    _folder: tempfile::TempDir,
    port: u16,
    child: Child,
}

impl Server {
    fn start() -> anyhow::Result<Self> {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let program = std::env::var("NATS_SERVER").unwrap_or_else(|_| "nats-server".into());
        let mut command = Command::new(&program);
        command.args(["-js", "-a", "127.0.0.1", "-p", &port.to_string(), "-sd"]).arg(folder.path());
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().context(program)?;
        let server = Self { _folder: folder, port, child };
        eventually("NATS answers", || Ok(server.run(async |context| create(context).await).ok()))?;
        Ok(server)
    }

    /// Runs something on a separate connection.
    fn run<T>(&self, run: impl AsyncFnOnce(&Context) -> anyhow::Result<T>) -> anyhow::Result<T> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let client = async_nats::connect(format!("127.0.0.1:{}", self.port)).await?;
            run(&jetstream::new(client)).await
        })
    }

    /// Publishes this many events.
    fn publish(&self, count: usize) -> anyhow::Result<()> {
        self.run(async |context| {
            let mut stored = Vec::new();
            for job in 0..count {
                let mut text = String::new();
                event(&mut text, job, 0, &url(DEAD, 0, job));
                stored.push(context.publish("jobs.new", text.into()).await?);
                if stored.len() >= 1000 {
                    for one in stored.drain(..) {
                        one.await?;
                    }
                }
            }
            for one in stored {
                one.await?;
            }
            Ok(())
        })
    }

    /// An instance that pulls its events.
    fn instance(&self, settings: &str) -> anyhow::Result<Service> {
        Service::prepare_with(&format!(
            "{settings}nats.servers = [\"nats://127.0.0.1:{}\"]\nnats.stream = \"JOBS\"\n\
             nats.consumer = \"callbacks\"\n",
            self.port
        ))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

async fn create(context: &Context) -> anyhow::Result<()> {
    let subjects = vec!["jobs.>".to_owned()];
    let stream = stream::Config { name: "JOBS".into(), subjects, ..stream::Config::default() };
    let consumer = pull::Config {
        durable_name: Some("callbacks".into()),
        ack_policy: AckPolicy::Explicit,
        max_deliver: -1,
        ..pull::Config::default()
    };
    context.create_stream(stream).await?.create_consumer(consumer).await?;
    Ok(())
}

/// Intake from a stream, and memory while the stream has far more events than the outbox accepts.
pub(crate) fn run(figures: &mut Figures) -> anyhow::Result<()> {
    const COUNT: usize = 100_000;
    const BEHIND: usize = 1_000_000;
    let mut service = Service::prepare()?;
    service.start()?;
    let events =
        Events { port: DEAD, destinations: 1, connections: 4, count: COUNT, rate: 0, lines: 1000 };
    let report = produce(&service, events)?;
    service.stop()?;
    let over_http = rate(report.accepted, report.micros);

    let server = Server::start()?;
    server.publish(COUNT)?;
    let mut service = server.instance("")?;
    service.start()?;
    let begin = Instant::now();
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    eventually("all are acknowledged", || {
        let acknowledged = service.metric("urlcallback_nats_acknowledged_total")?;
        Ok((acknowledged >= COUNT as f64).then_some(()))
    })?;
    let from_stream = rate(COUNT as u64, u64::try_from(begin.elapsed().as_micros())?);
    service.stop()?;
    figures.add(
        &format!("NATS: {COUNT} events from a stream, acknowledged"),
        format!("{from_stream:.0}/s"),
        format!("{:.2} of {over_http:.0}/s as NDJSON", from_stream / over_http),
        "≥ 0.5",
    );

    server.publish(BEHIND)?;
    let mut service = server.instance("outbox.max_pending = 1000\n")?;
    service.start()?;
    std::thread::sleep(SETTLES);
    let behind = service.metric("urlcallback_nats_behind")?;
    let usage = service.usage()?;
    service.stop()?;
    figures.add(
        &format!("NATS: memory with {behind:.0} events in the stream and a full outbox"),
        mib(usage.resident),
        format!("{} at most", mib(usage.highest)),
        "",
    );
    Ok(())
}
