//! PostgreSQL servers: a shared one for all tests of a process, and separate ones. They end with the process,
//! however it ends.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    sync::OnceLock,
    time::Instant,
};

use seal_dpf_urlcallback::outbox::{Common, postgres::Settings};
use tempfile::TempDir;
use tokio_postgres::{Client, NoTls};

use super::{DEADLINE, PAUSE, eventually, unused_address};

/// Serves a cluster until standard input is closed.
const SERVE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/postgres/serve");

/// A server.
pub(crate) struct Server {
    dir: TempDir,
    port: u16,
    /// Arguments of the server.
    options: Vec<String>,
    /// The port of its primary, if it is a standby.
    primary: Option<u16>,
    /// Whether the server removes its files itself, because the process has ended by then.
    is_shared: bool,
    is_frozen: bool,
    /// Closing this ends the server.
    child: Option<Child>,
}

/// Whether services without a configured store use PostgreSQL, so that tests for the embedded store also run
/// with it: `CALLBACK_TESTS=postgres`.
pub(crate) fn is_default() -> bool {
    std::env::var_os("CALLBACK_TESTS").is_some_and(|it| it == "postgres")
}

/// The server of this process.
pub(crate) fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| Server::make(&[], None, true))
}

impl Server {
    /// A separate server.
    pub(crate) fn start() -> Self {
        Self::with(&[])
    }

    /// The same with settings such as `synchronous_commit=local`.
    pub(crate) fn with(settings: &[&str]) -> Self {
        Self::make(settings, None, false)
    }

    /// A standby of this server, with the name `standby`.
    pub(crate) fn standby(&self) -> Self {
        Self::make(&[], Some(self.port), false)
    }

    fn make(settings: &[&str], primary: Option<u16>, is_shared: bool) -> Self {
        let port = unused_address().port();
        let dir = tempfile::Builder::new().prefix("callback-postgres").tempdir().unwrap();
        let options = settings.iter().flat_map(|it| ["-c".to_owned(), (*it).to_owned()]).collect();
        let mut server =
            Self { dir, port, options, primary, is_shared, is_frozen: false, child: None };
        server.restart();
        server
    }

    /// Starts it again.
    pub(crate) fn restart(&mut self) {
        let mut command = Command::new(SERVE);
        command.arg(self.dir.path()).arg(self.port.to_string()).args(&self.options);
        command.env("PG_PRIMARY", self.primary.map(|port| port.to_string()).unwrap_or_default());
        command.env("PG_REMOVE", if self.is_shared { "1" } else { "" });
        self.child = Some(command.stdin(Stdio::piped()).spawn().unwrap());
        eventually("PostgreSQL answers", || {
            std::net::TcpStream::connect(("127.0.0.1", self.port)).ok()?;
            self.run(async |_| Some(()))
        });
    }

    /// Ends it at once, as if it had crashed.
    pub(crate) fn crash(&mut self) {
        if self.is_frozen {
            self.freeze(false);
        }
        if let Some(mut child) = self.child.take() {
            drop(child.stdin.take());
            child.wait().unwrap();
        }
    }

    /// Suspends all its processes, as on a machine that hangs, or resumes them.
    pub(crate) fn freeze(&mut self, frozen: bool) {
        self.is_frozen = frozen;
        let note = std::fs::read_to_string(self.dir.path().join("cluster/postmaster.pid")).unwrap();
        let main = note.lines().next().unwrap();
        let children = Command::new("pgrep").args(["-P", main]).output().unwrap();
        let children = String::from_utf8(children.stdout).unwrap();
        let signal = if frozen { "-STOP" } else { "-CONT" };
        let pids = children.split_whitespace().chain([main]);
        assert!(Command::new("kill").arg(signal).args(pids).status().unwrap().success());
    }

    /// The settings of a store in this schema.
    pub(crate) fn settings(&self, schema: &str, max_pending: u64) -> Settings {
        Settings {
            url: self.url().into(),
            session_url: None,
            password_file: None,
            ca_file: None,
            identity: None,
            schema: schema.to_owned(),
            common: Common { max_pending, ..Common::default() },
        }
    }

    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    /// Promotes a standby.
    pub(crate) fn promote(&self) {
        eventually("the standby is promoted", || {
            self.run(async |client| {
                // It may have been promoted already.
                drop(client.batch_execute("SELECT pg_promote(false)").await);
                let sql = "SELECT NOT pg_is_in_recovery()";
                let is_primary = client.query_one(sql, &[]).await.is_ok_and(|row| row.get(0));
                is_primary.then_some(())
            })
        });
    }

    /// The URL of these servers. The primary is used.
    pub(crate) fn url_with(&self, other: &Self) -> String {
        let (one, other) = (self.port, other.port);
        format!(
            "postgresql://postgres@127.0.0.1:{one},127.0.0.1:{other}/postgres?sslmode=disable&\
             target_session_attrs=read-write"
        )
    }

    /// The settings of a service over this schema.
    pub(crate) fn toml(&self, schema: &str) -> String {
        let url = self.url();
        format!("outbox.postgres.url = \"{url}\"\noutbox.postgres.schema = \"{schema}\"\n")
    }

    /// The URL of its database.
    pub(crate) fn url(&self) -> String {
        format!("postgresql://postgres@127.0.0.1:{}/postgres?sslmode=disable", self.port)
    }

    /// Runs something on a separate connection.
    pub(crate) fn run<T: Send>(&self, run: impl AsyncFnOnce(Client) -> T + Send) -> T {
        // The caller may be in a runtime.
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let runtime =
                    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    let end = Instant::now() + DEADLINE;
                    let (client, serve) = loop {
                        match tokio_postgres::connect(&self.url(), NoTls).await {
                            Ok(connected) => break connected,
                            // It is starting, or other tests use all its connections.
                            Err(error) => assert!(Instant::now() < end, "{error}"),
                        }
                        tokio::time::sleep(PAUSE).await;
                    };
                    let serve = tokio::spawn(serve);
                    let result = run(client).await;
                    serve.abort();
                    result
                })
            });
            thread.join().unwrap()
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.crash();
    }
}

/// The schema of the test in this folder.
pub(crate) fn schema_of(folder: &Path) -> String {
    folder.parent().unwrap().file_name().unwrap().to_string_lossy().into_owned()
}
