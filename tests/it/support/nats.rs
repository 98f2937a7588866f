//! NATS servers, which end with the test.

use std::{
    net::TcpListener,
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

use super::eventually;

/// The server: `NATS_SERVER`, or the one in the path.
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

    /// A server with these settings, and the way in which tests connect to it.
    pub(crate) fn with(settings: &str, options: ConnectOptions) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let dir = tempfile::Builder::new().prefix("callback-nats").tempdir().unwrap();
        let mut server = Self { dir, port, settings: settings.into(), options, child: None };
        server.restart();
        server
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Replaces the settings and has the server read them.
    pub(crate) fn reconfigure(&mut self, settings: &str, options: ConnectOptions) {
        settings.clone_into(&mut self.settings);
        self.options = options;
        self.write_settings();
        let pid = self.child.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args(["-HUP", &pid]).status().unwrap().success());
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
        self.write_settings();
        let mut command = Command::new(program());
        command.arg("-c").arg(self.path("server.conf")).arg("-l").arg(self.path("server.log"));
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.child = Some(child.spawn().unwrap());
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
        let url = self.url();
        format!(
            "[nats]\nservers = [\"{url}\"]\nstream = \"JOBS\"\nconsumer = \"callbacks\"\n{more}\n"
        )
    }

    /// Runs something on a connection of its own.
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

    /// How many messages the consumer has to deliver, and how many are not acknowledged.
    pub(crate) fn left(&self) -> (u64, usize) {
        self.run(async |context| {
            let consumer: jetstream::consumer::PullConsumer =
                context.get_consumer_from_stream("callbacks", "JOBS").await.unwrap();
            let info = consumer.cached_info();
            (info.num_pending, info.num_ack_pending)
        })
    }

    /// Waits until the consumer has nothing left.
    pub(crate) fn wait_until_empty(&self) {
        eventually("every message is acknowledged", || (self.left() == (0, 0)).then_some(()));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.crash();
    }
}

/// A consumer as the service needs it.
pub(crate) fn consumer() -> pull::Config {
    pull::Config {
        durable_name: Some("callbacks".into()),
        ack_policy: AckPolicy::Explicit,
        ack_wait: std::time::Duration::from_secs(10),
        max_deliver: -1,
        ..pull::Config::default()
    }
}
