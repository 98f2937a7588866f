//! The service being measured: the real binary with its default settings.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};

use crate::{
    clock::{Latency, eventually},
    http,
};

/// A folder for the service, and the service while it runs.
pub(crate) struct Service {
    folder: tempfile::TempDir,
    child: Option<Child>,
}

/// Resource usage of a process as reported by the system.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usage {
    /// Processor time of all its threads.
    pub(crate) cpu: Duration,
    /// Number of wake-ups of all threads.
    pub(crate) wakeups: u64,
    /// Memory now and at its highest, in KiB.
    pub(crate) resident: u64,
    pub(crate) highest: u64,
}

impl Service {
    /// A folder on the disk of the project; a temporary folder may be in memory.
    pub(crate) fn prepare() -> anyhow::Result<Self> {
        Self::prepare_with("")
    }

    /// The same with more settings.
    pub(crate) fn prepare_with(settings: &str) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
        fs::write(
            folder.path().join("config.toml"),
            format!("api.listen = \"127.0.0.1:0\"\nlog.file = \"service.log\"\n{settings}"),
        )?;
        Ok(Self { folder, child: None })
    }

    /// Its data directory.
    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// How many bytes its store has on the disk.
    pub(crate) fn store_bytes(&self) -> anyhow::Result<u64> {
        Ok(fs::metadata(self.data().join("outbox/db"))?.len())
    }

    /// A folder on the same disk.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Starts it, and returns once it listens.
    pub(crate) fn start(&mut self) -> anyhow::Result<()> {
        ensure!(self.child.is_none(), "the service runs already");
        let stderr = self.folder.path().join("stderr");
        self.child = Some(
            Command::new(env!("CARGO_BIN_EXE_seal-dpf-urlcallback"))
                .arg("serve")
                .current_dir(self.folder.path())
                .stdout(Stdio::null())
                .stderr(fs::File::create(&stderr)?)
                .spawn()?,
        );
        eventually("the service listens", || {
            let said = fs::read_to_string(&stderr)?;
            if let Some(status) = self.child.as_mut().and_then(|it| it.try_wait().ok()?) {
                bail!("serve ended with {status}: {said}");
            }
            Ok(said.contains("listening on").then_some(()))
        })
    }

    /// Ends it as a supervisor does.
    pub(crate) fn stop(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.take() {
            let pid = rustix::process::Pid::from_child(&child);
            rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
            child.wait()?;
        }
        Ok(())
    }

    /// Kills it.
    pub(crate) fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Its address and token.
    pub(crate) fn api(&self) -> anyhow::Result<(String, String)> {
        let said = fs::read_to_string(self.folder.path().join("stderr"))?;
        let (_, rest) = said.split_once("listening on ").context("it says where it listens")?;
        let address = rest.split_whitespace().next().context("an address")?;
        let address = address.trim_start_matches("http://").to_owned();
        let token = fs::read_to_string(self.data().join("api-token"))?.trim().to_owned();
        Ok((address, token))
    }

    /// The value of one of its metrics.
    pub(crate) fn metric(&self, name: &str) -> anyhow::Result<f64> {
        let (address, token) = self.api()?;
        let metrics = http::get(&address, &token, "/metrics")?;
        let line = metrics
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
            .with_context(|| format!("no {name} among the metrics"))?;
        Ok(line.parse()?)
    }

    /// The resources used so far.
    pub(crate) fn usage(&self) -> anyhow::Result<Usage> {
        let pid = self.child.as_ref().context("the service runs")?.id();
        let proc = PathBuf::from(format!("/proc/{pid}"));
        let stat = fs::read_to_string(proc.join("stat"))?;
        let (_, fields) = stat.rsplit_once(") ").context("a process's state")?;
        let fields: Vec<_> = fields.split(' ').collect();
        let ticks = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
        let status = fs::read_to_string(proc.join("status"))?;
        let mut wakeups = 0;
        for task in fs::read_dir(proc.join("task"))? {
            let status = fs::read_to_string(task?.path().join("status"))?;
            wakeups += number(&status, "voluntary_ctxt_switches:")?;
        }
        Ok(Usage {
            // A tick is 10 ms wherever Linux runs.
            cpu: Duration::from_millis(ticks * 10),
            wakeups,
            resident: number(&status, "VmRSS:")?,
            highest: number(&status, "VmHWM:")?,
        })
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

fn number(status: &str, key: &str) -> anyhow::Result<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(key));
    let number = line.and_then(|rest| rest.split_whitespace().next());
    number.with_context(|| format!("no {key}"))?.parse().context("a number")
}

/// How long one write of a page with its sync takes on the disk under `folder`: the median
/// and the 99th percentile, in microseconds.
pub(crate) fn disk_sync(folder: &Path) -> anyhow::Result<Latency> {
    use std::io::Write as _;
    let mut file = fs::File::create(folder.join("sync"))?;
    let mut took = Vec::new();
    for _ in 0..500 {
        let begin = Instant::now();
        file.write_all(&[7; 4096])?;
        file.sync_data()?;
        took.push(u32::try_from(begin.elapsed().as_micros())?);
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(Latency::of(took))
}
