//! PostgreSQL servers: one for all tests of a process, and others. They end with the process, however that
//! ends.

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

use seal_dpf_urlcallback::outbox::postgres::Settings;
use tempfile::TempDir;
use tokio_postgres::{Client, NoTls};

use super::{DEADLINE, PAUSE, eventually};

/// Makes a cluster.
const MAKE: &str =
    r#"exec "$BIN/initdb" -D "$DIR" -U postgres -A trust -E UTF8 --no-sync >/dev/null"#;

/// Serves a cluster until standard input is closed.
const SERVE: &str = r#"
    "$BIN/postgres" -D "$DIR" -k "$DIR" -p "$PORT" -c listen_addresses=127.0.0.1 -c max_connections=200 >"$DIR/log" 2>&1 &
    cat >/dev/null
    kill -QUIT $!
    wait
    [ -z "$REMOVE" ] || rm -rf "$DIR"
"#;

/// A server.
pub(crate) struct Server {
    dir: TempDir,
    port: u16,
    /// Whether its files are removed by itself, because nothing is left that could do it.
    is_shared: bool,
    is_frozen: bool,
    /// Closing its standard input ends it.
    child: Option<Child>,
}

/// The server of this process.
pub(crate) fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| Server::make(true))
}

/// The folder with `initdb` and `postgres`.
fn binaries() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<_> = versions.map(|it| it.path().join("bin")).collect();
    found.sort();
    found.pop().expect("PostgreSQL is not installed (Debian: postgresql); tests/run installs it")
}

impl Server {
    /// A server of its own.
    pub(crate) fn start() -> Self {
        Self::make(false)
    }

    fn make(is_shared: bool) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let dir = tempfile::Builder::new().prefix("callback-postgres").tempdir().unwrap();
        let mut server = Self { dir, port, is_shared, is_frozen: false, child: None };
        // The server refuses to run as root.
        if is_root() {
            let owned = Command::new("chown").arg("postgres").arg(server.dir.path()).status();
            assert!(owned.unwrap().success());
        }
        assert!(server.shell(MAKE).status().unwrap().success());
        server.restart();
        server
    }

    /// Starts it again.
    pub(crate) fn restart(&mut self) {
        let child = self.shell(SERVE).stdin(Stdio::piped()).spawn().unwrap();
        self.child = Some(child);
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

    /// Stops all its processes, as on a machine that hangs, or lets them go on.
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

    fn shell(&self, script: &str) -> Command {
        let mut command = if is_root() {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "sh"]);
            command
        } else {
            Command::new("sh")
        };
        command
            .args(["-c", script])
            .current_dir("/")
            .env("BIN", binaries())
            .env("DIR", self.dir.path().join("cluster"))
            .env("PORT", self.port.to_string())
            .env("REMOVE", if self.is_shared { "1" } else { "" });
        command
    }

    /// The settings of a store in this schema.
    pub(crate) fn settings(&self, schema: &str, max_pending: u64) -> Settings {
        Settings {
            url: self.url().into(),
            password_file: None,
            ca_file: None,
            identity: None,
            schema: schema.to_owned(),
            max_pending,
            longest_pause: Duration::MAX,
        }
    }

    /// The URL of its database.
    pub(crate) fn url(&self) -> String {
        format!("postgresql://postgres@127.0.0.1:{}/postgres?sslmode=disable", self.port)
    }

    /// Runs something on a connection of its own.
    pub(crate) fn run<T: Send>(&self, run: impl AsyncFnOnce(Client) -> T + Send) -> T {
        // Also where a runtime is running.
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let runtime =
                    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    let end = Instant::now() + DEADLINE;
                    let (client, serve) = loop {
                        match tokio_postgres::connect(&self.url(), NoTls).await {
                            Ok(connected) => break connected,
                            // It starts, or other tests have all its connections.
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

fn is_root() -> bool {
    Command::new("id").arg("-u").output().unwrap().stdout == b"0\n"
}

/// The schema of the test that has this folder.
pub(crate) fn schema_of(folder: &Path) -> String {
    folder.parent().unwrap().file_name().unwrap().to_string_lossy().into_owned()
}
