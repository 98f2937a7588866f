//! `serve` in a temporary folder, and any other command there.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

use super::{
    Api, PASSWORD,
    command::{binary, to_its_end},
    ecs, eventually, postgres, process,
};

/// A folder with settings, in which a service can run.
pub(crate) struct Service {
    folder: TempDir,
    child: Option<Child>,
    /// Environment of all commands.
    pub(super) env: Vec<(&'static str, String)>,
}

impl Service {
    /// A folder with these settings and those of all tests; nothing runs yet.
    pub(crate) fn prepare(settings: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("urlcallback").tempdir().unwrap();
        let service = Self { folder, child: None, env: Vec::new() };
        service.configure(settings);
        service
    }

    /// A running service with fast retries and these settings.
    pub(crate) fn start(settings: &str) -> Self {
        let mut service = Self::prepare(settings);
        service.serve();
        service
    }

    /// Replaces the settings.
    pub(crate) fn configure(&self, settings: &str) {
        let mut text = String::new();
        if !settings.contains("[api]") {
            text.push_str("api.listen = \"127.0.0.1:0\"\n");
        }
        if !settings.contains("[retry]") && !settings.contains("retry.") {
            text.push_str("retry.initial_interval = \"50ms\"\nretry.max_interval = \"200ms\"\n");
        }
        if !settings.contains("outbox.min_free_bytes") && !postgres::is_default() {
            text.push_str("outbox.min_free_bytes = 0\n");
        }
        if postgres::is_default() && !settings.contains("outbox.postgres") {
            let schema = self.folder().file_name().unwrap().to_string_lossy();
            text.push_str(&postgres::server().toml(&schema));
        }
        text.push_str(if settings.contains("data_dir") { "" } else { "data_dir = \"data\"\n" });
        // This machine may have DPF's log folder, which must not be used.
        text.push_str("log.file = \"service.log\"\n");
        fs::write(self.path("config.toml"), text + settings).unwrap();
    }

    /// Starts the service and waits until it accepts events.
    pub(crate) fn serve(&mut self) {
        self.serve_with(&[]);
    }

    /// The same, with these variables in its environment.
    pub(crate) fn serve_with(&mut self, env: &[(&str, &str)]) {
        let mut command = binary();
        command.arg("serve").envs(env.iter().copied());
        self.spawn(command);
    }

    /// The same through another program, which gets the binary's path as its last argument.
    pub(crate) fn serve_by(&mut self, program: &[&str]) {
        let binary = binary().get_program().to_owned();
        let mut command = Command::new(program[0]);
        command.args(&program[1..]).arg(binary);
        self.spawn(command);
    }

    /// Starts the service and does not wait for it.
    pub(crate) fn launch(&mut self) {
        let mut command = binary();
        command.arg("serve");
        self.run_beside(command);
    }

    fn run_beside(&mut self, mut command: Command) {
        assert!(self.child.is_none(), "it runs already");
        drop(fs::remove_file(self.note()));
        let stderr = fs::File::create(self.path("stderr")).unwrap();
        self.at_home(&mut command).stdout(Stdio::null()).stderr(stderr);
        self.child = Some(command.spawn().unwrap());
    }

    fn spawn(&mut self, command: Command) {
        self.run_beside(command);
        eventually("the service starts", || {
            let child = self.child.as_mut().unwrap();
            if let Some(status) = child.try_wait().unwrap() {
                panic!("serve ended with {status}: {}", self.read("stderr"));
            }
            let listening = self.read("stderr").contains("listening on");
            (listening && self.note().exists()).then_some(())
        });
    }

    // `ProgramData` is where Windows has data, settings and log by default.
    fn at_home<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        let env = self.env.iter().map(|(name, value)| (name, value));
        command.current_dir(self.folder()).env("ProgramData", self.folder()).envs(env)
    }

    fn note(&self) -> PathBuf {
        self.path("data/service.json")
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// The lines of the log, without a line that is just being written.
    pub(crate) fn log(&self) -> Vec<Value> {
        let text = self.read("service.log");
        let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        whole.map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    pub(crate) fn pid(&self) -> i32 {
        self.child.as_ref().unwrap().id().try_into().unwrap()
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, name: &str) {
        process::send(name, self.child.as_ref().unwrap(), self.folder());
    }

    /// Sends SIGKILL.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Sends SIGTERM and returns the exit code.
    pub(crate) fn terminate(&mut self) -> Option<i32> {
        self.signal("TERM");
        self.wait()
    }

    /// Waits for the end of the service.
    pub(crate) fn wait(&mut self) -> Option<i32> {
        let mut child = self.child.take().unwrap();
        eventually("the service ends", || child.try_wait().unwrap()).code()
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Another command in the same folder.
    pub(crate) fn run(&self, args: &[&str]) -> Output {
        self.run_with_input(args, b"")
    }

    /// The same, with these variables in its environment.
    pub(crate) fn run_with_env(&self, args: &[&str], env: &[(&str, &str)]) -> Output {
        to_its_end(self.at_home(&mut binary()).envs(env.iter().copied()).args(args), b"")
    }

    /// The same, with something on standard input.
    pub(crate) fn run_with_input(&self, args: &[&str], input: &[u8]) -> Output {
        to_its_end(self.at_home(&mut binary()).args(args), input)
    }

    /// The JSON that a command prints.
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// The API of the running service.
    pub(crate) fn api(&self) -> Api {
        let note: Value = serde_json::from_str(&self.read("data/service.json")).unwrap();
        Api {
            address: note["address"].as_str().unwrap().parse().unwrap(),
            certificate: note["certificate"].as_str().map(str::to_owned),
            token: self.read("data/api-token").trim().to_owned(),
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
        let secret = PASSWORD.as_bytes();
        let shows =
            |name: &str| self.read(name).as_bytes().windows(secret.len()).any(|it| it == secret);
        let said = ["stderr", "service.log"].into_iter().any(shows);
        assert!(!said || std::thread::panicking(), "a password in the log or on standard error");
        if std::thread::panicking() {
            eprintln!("--- stderr of the service\n{}", self.read("stderr"));
            let log = self.read("service.log");
            let lines: Vec<_> = log.lines().collect();
            let last = &lines[lines.len().saturating_sub(40)..];
            eprintln!("--- the last lines of the service's log\n{}", last.join("\n"));
        } else {
            ecs::check(&self.read("service.log"));
        }
    }
}
