//! NATS servers, which end with the test.

use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use async_nats::{
    ConnectOptions,
    jetstream::{
        self, Context,
        consumer::{AckPolicy, pull},
        stream,
    },
};
use tempfile::TempDir;

use super::{eventually, unused_address};

/// The server program: `NATS_SERVER`, or the one in the path.
fn program() -> String {
    std::env::var("NATS_SERVER").unwrap_or_else(|_| "nats-server".into())
}

/// A server.
pub(crate) struct Server {
    dir: TempDir,
    port: u16,
    settings: String,
    options: ConnectOptions,
    child: Option<Child>,
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::with("", ConnectOptions::new())
    }

    /// A server with these settings, and the options with which tests connect to it.
    pub(crate) fn with(settings: &str, options: ConnectOptions) -> Self {
        let mut server = Self::prepared(settings, options);
        server.restart();
        server
    }

    /// A server that has not started.
    fn prepared(settings: &str, options: ConnectOptions) -> Self {
        let dir = tempfile::Builder::new().prefix("callback-nats").tempdir().unwrap();
        Self { dir, port: unused_address().port(), settings: settings.into(), options, child: None }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Replaces the settings and makes the server reload them.
    pub(crate) fn reconfigure(&mut self, settings: &str, options: ConnectOptions) {
        settings.clone_into(&mut self.settings);
        self.options = options;
        self.write_settings();
        self.signal("HUP");
    }

    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.as_ref().unwrap().id().to_string();
        let sent = Command::new("kill").args([&format!("-{name}"), &pid]).status();
        assert!(sent.unwrap().success());
    }

    /// Whether it has ended by itself.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| child.try_wait().unwrap().is_some())
    }

    fn write_settings(&self) {
        let store = self.path("store").display().to_string();
        let text = format!(
            "listen: \"127.0.0.1:{}\"\njetstream {{ store_dir: \"{store}\" }}\n{}\n",
            self.port, self.settings
        );
        std::fs::write(self.path("server.conf"), text).unwrap();
    }

    /// Starts it again.
    pub(crate) fn restart(&mut self) {
        self.spawn();
        self.wait();
    }

    fn spawn(&mut self) {
        self.write_settings();
        let mut command = Command::new(program());
        command.arg("-c").arg(self.path("server.conf")).arg("-l").arg(self.path("server.log"));
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.child = Some(child.spawn().unwrap());
    }

    fn wait(&self) {
        eventually("NATS answers", || {
            std::net::TcpStream::connect(("127.0.0.1", self.port)).ok()?;
            self.try_run(async |context| context.query_account().await.ok().map(drop))?
        });
    }

    /// Kills it.
    pub(crate) fn crash(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Settings of a service that pulls from the stream `JOBS` with the consumer `callbacks`.
    pub(crate) fn toml(&self, more: &str) -> String {
        Self::toml_of(&[self], more)
    }

    fn toml_of(servers: &[&Self], more: &str) -> String {
        let urls: Vec<_> = servers.iter().map(|it| format!("\"{}\"", it.url())).collect();
        let urls = urls.join(", ");
        format!("[nats]\nservers = [{urls}]\nstream = \"JOBS\"\nconsumer = \"callbacks\"\n{more}\n")
    }

    /// Runs something on a separate connection.
    pub(crate) fn run<T: Send>(&self, run: impl AsyncFnOnce(Context) -> T + Send) -> T {
        self.try_run(run).unwrap()
    }

    fn try_run<T: Send>(&self, run: impl AsyncFnOnce(Context) -> T + Send) -> Option<T> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let client = self.options.clone().connect(self.url()).await.ok()?;
            Some(run(jetstream::new(client)).await)
        })
    }

    /// The stream `JOBS` of the subjects `jobs.>`, and its consumer.
    pub(crate) fn prepare(&self) {
        self.prepare_with(stream::Config::default(), consumer());
    }

    /// The same with other properties.
    pub(crate) fn prepare_with(&self, stream: stream::Config, consumer: pull::Config) {
        self.run(async |context| {
            let subjects = vec!["jobs.>".to_owned()];
            let stream = stream::Config { name: "JOBS".into(), subjects, ..stream };
            let stream = context.create_stream(stream).await.unwrap();
            stream.create_consumer(consumer).await.unwrap();
        });
    }

    /// Publishes messages on the subject `jobs.new`, in order.
    pub(crate) fn publish(&self, payloads: impl IntoIterator<Item = String> + Send) {
        self.run(async |context| {
            let mut stored = Vec::new();
            for payload in payloads {
                stored.push(context.publish("jobs.new", payload.into()).await.unwrap());
            }
            for one in stored {
                one.await.unwrap();
            }
        });
    }

    /// The numbers of messages that the consumer has not delivered, and that are not acknowledged.
    pub(crate) fn left(&self) -> (u64, usize) {
        // A cluster may be about to choose a leader.
        eventually("the consumer's leader answers", || {
            self.run(async |context| {
                let consumer: jetstream::consumer::PullConsumer =
                    context.get_consumer_from_stream("callbacks", "JOBS").await.ok()?;
                let info = consumer.cached_info();
                Some((info.num_pending, info.num_ack_pending))
            })
        })
    }

    /// Waits until the consumer has nothing left.
    pub(crate) fn wait_until_empty(&self) {
        eventually("every message is acknowledged", || (self.left() == (0, 0)).then_some(()));
    }
}

/// Three servers.
pub(crate) struct Cluster {
    pub(crate) servers: Vec<Server>,
}

impl Cluster {
    pub(crate) fn start() -> Self {
        let ports = [(); 3].map(|()| unused_address().port());
        let routes = ports.map(|port| format!("\"nats://127.0.0.1:{port}\"")).join(", ");
        let server = |(n, port)| {
            let settings = format!(
                "server_name: n{n}\nlame_duck_duration: \"30s\"\nlame_duck_grace_period: \"1s\"\n\
                 cluster {{ name: test, listen: \"127.0.0.1:{port}\", routes: [{routes}] }}"
            );
            Server::prepared(&settings, ConnectOptions::new())
        };
        let mut servers: Vec<_> = ports.into_iter().enumerate().map(server).collect();
        // A single server does not answer.
        servers.iter_mut().for_each(Server::spawn);
        servers.iter().for_each(Server::wait);
        Self { servers }
    }

    /// The stream `JOBS` with three replicas, and its consumer.
    pub(crate) fn prepare(&self) {
        // The servers answer before they have all found each other.
        eventually("there are three for three replicas", || {
            self.servers[0].run(async |context| {
                let subjects = vec!["jobs.>".to_owned()];
                let stream = stream::Config {
                    name: "JOBS".into(),
                    subjects,
                    num_replicas: 3,
                    ..stream::Config::default()
                };
                let stream = context.get_or_create_stream(stream).await.ok()?;
                stream.create_consumer(consumer()).await.ok().map(drop)
            })
        });
    }

    /// Settings of a service that pulls from it.
    pub(crate) fn toml(&self) -> String {
        Server::toml_of(&self.servers.iter().collect::<Vec<_>>(), "")
    }

    /// Waits until every server has all messages of the stream `JOBS`.
    pub(crate) fn wait_until_whole(&self) {
        eventually("the stream has three replicas", || {
            self.servers[0].try_run(async |context| {
                let info = context.get_stream("JOBS").await.ok()?.cached_info().clone();
                let cluster = info.cluster?;
                let current = cluster.replicas.iter().filter(|it| it.current && !it.offline);
                (cluster.leader.is_some() && current.count() == 2).then_some(())
            })?
        });
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.crash();
    }
}

/// A consumer that the service accepts.
pub(crate) fn consumer() -> pull::Config {
    pull::Config {
        durable_name: Some("callbacks".into()),
        ack_policy: AckPolicy::Explicit,
        ack_wait: std::time::Duration::from_secs(10),
        max_deliver: -1,
        ..pull::Config::default()
    }
}
