//! A PostgreSQL server of this process, which the first test that needs it starts. It ends with the process,
//! however that ends.

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
    time::Duration,
};

use seal_dpf_urlcallback::outbox::postgres::Settings;
use tokio_postgres::{Client, NoTls};

use super::eventually;

/// Makes a cluster and serves it until standard input is closed.
const SERVE: &str = r#"
    "$BIN/initdb" -D "$DIR" -U postgres -A trust -E UTF8 --no-sync >"$DIR.log" 2>&1 || { cat "$DIR.log" >&2; exit 1; }
    "$BIN/postgres" -D "$DIR" -k "$DIR" -p "$PORT" -c listen_addresses=127.0.0.1 -c max_connections=200 >"$DIR.log" 2>&1 &
    cat >/dev/null
    kill -QUIT $!
    wait
    rm -rf "$DIR" "$DIR.log"
"#;

/// A server.
pub(crate) struct Server {
    port: u16,
    /// Closing its standard input ends it.
    _child: Child,
}

/// The server of this process.
pub(crate) fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(Server::start)
}

/// The folder with `initdb` and `postgres`.
fn binaries() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<_> = versions.map(|it| it.path().join("bin")).collect();
    found.sort();
    found.pop().expect("PostgreSQL is not installed (Debian: postgresql); tests/run installs it")
}

impl Server {
    fn start() -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let dir = std::env::temp_dir().join(format!("callback-postgres-{}", std::process::id()));
        // The server refuses to run as root.
        let is_root = Command::new("id").arg("-u").output().unwrap().stdout == b"0\n";
        let mut command = if is_root {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "sh"]);
            command
        } else {
            Command::new("sh")
        };
        let child = command
            .args(["-c", SERVE])
            .current_dir("/")
            .env("BIN", binaries())
            .env("DIR", &dir)
            .env("PORT", port.to_string())
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let server = Self { port, _child: child };
        eventually("PostgreSQL answers", || {
            std::net::TcpStream::connect(("127.0.0.1", port)).ok()?;
            server.run(async |_| Some(()))
        });
        server
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
                    let (client, serve) = loop {
                        match tokio_postgres::connect(&self.url(), NoTls).await {
                            Ok(connected) => break connected,
                            // It starts, or it is being used up by other tests.
                            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                        }
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

/// The schema of the test that has this folder.
pub(crate) fn schema_of(folder: &Path) -> String {
    folder.parent().unwrap().file_name().unwrap().to_string_lossy().into_owned()
}
