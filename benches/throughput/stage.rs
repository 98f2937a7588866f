//! The processes of one measurement, and their common parameters.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use anyhow::{Context as _, ensure};

use crate::{clock::eventually, producer, receiver, service::Service};

/// The service's limits of attempts in flight, to one destination and in total (its defaults).
const PER_DESTINATION: usize = 16;
const CONCURRENCY: usize = 256;

/// Number of PUTs that the raw loop makes next to a figure.
const RAW: usize = 100_000;

/// A port on which nothing listens.
pub(crate) const DEAD: u16 = 1;

/// The receiver's process.
pub(crate) struct Receiver {
    child: Child,
    asks: ChildStdin,
    says: BufReader<ChildStdout>,
    pub(crate) port: u16,
    /// The port of the black hole.
    pub(crate) hole: u16,
}

impl Receiver {
    pub(crate) fn start() -> anyhow::Result<Self> {
        let mut child = this("receiver")?.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let asks = child.stdin.take().context("the receiver's input")?;
        let mut says = BufReader::new(child.stdout.take().context("the receiver's output")?);
        let mut line = String::new();
        says.read_line(&mut line)?;
        let (port, hole) = line.trim().split_once(' ').context("the receiver's ports")?;
        let (port, hole) = (port.parse()?, hole.parse()?);
        Ok(Self { child, asks, says, port, hole })
    }

    fn ask(&mut self, what: &str) -> anyhow::Result<String> {
        writeln!(self.asks, "{what}")?;
        let mut line = String::new();
        self.says.read_line(&mut line)?;
        Ok(line)
    }

    /// Returns and resets its counters.
    pub(crate) fn report(&mut self) -> anyhow::Result<receiver::Report> {
        Ok(serde_json::from_str(&self.ask("report")?)?)
    }

    /// Waits until this many PUTs have been received.
    pub(crate) fn wait_for(&mut self, count: u64) -> anyhow::Result<()> {
        eventually("all callbacks come", || {
            let seen: u64 = self.ask("count")?.trim().parse()?;
            Ok((seen >= count).then_some(()))
        })
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// This program in another role.
fn this(role: &str) -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["as", role]);
    Ok(command)
}

fn said(command: &mut Command) -> anyhow::Result<String> {
    let output = command.stderr(Stdio::inherit()).output()?;
    ensure!(output.status.success(), "{command:?} ended with {}", output.status);
    Ok(String::from_utf8(output.stdout)?)
}

/// PUTs a second of the raw loop.
pub(crate) fn raw(
    port: u16,
    destinations: usize,
    in_flight: usize,
    count: usize,
) -> anyhow::Result<f64> {
    let numbers = [port.into(), destinations, in_flight, count].map(|it| it.to_string());
    Ok(said(this("raw")?.args(numbers))?.trim().parse()?)
}

/// Callbacks to be put into a store: the first job's number, the port, how many destinations,
/// how many callbacks.
pub(crate) type Kind = (usize, u16, usize, usize);

/// Puts a backlog into the store of a service that does not run: in its data directory, or in this database.
pub(crate) fn fill(
    service: &Service,
    database: Option<&str>,
    kinds: &[Kind],
) -> anyhow::Result<()> {
    let data = service.data();
    std::fs::create_dir_all(&data)?;
    #[cfg(unix)]
    std::fs::set_permissions(&data, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    let mut command = this("fill")?;
    command.arg(data.join("outbox")).arg(database.unwrap_or_default());
    for (first, port, destinations, count) in kinds {
        let numbers = [*first, (*port).into(), *destinations, *count];
        command.args(numbers.map(|it| it.to_string()));
    }
    said(&mut command).map(drop)
}

/// The submitted events, and the way in which they are submitted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Events {
    pub(crate) port: u16,
    pub(crate) destinations: usize,
    pub(crate) connections: usize,
    pub(crate) count: usize,
    /// Events a second; 0 is as fast as they are accepted.
    pub(crate) rate: usize,
    /// Lines of a batch; 0 is single events.
    pub(crate) lines: usize,
}

/// Submits events.
pub(crate) fn produce(service: &Service, events: Events) -> anyhow::Result<producer::Report> {
    let (address, token) = service.api()?;
    let Events { port, destinations, connections, count, rate, lines } = events;
    let mut command = this("producer")?;
    command.args([address, token]);
    command.args(
        [port.into(), destinations, connections, count, rate, lines].map(|it| it.to_string()),
    );
    Ok(serde_json::from_str(&said(&mut command)?)?)
}

fn in_flight(destinations: usize) -> usize {
    (PER_DESTINATION * destinations).min(CONCURRENCY)
}

/// Runs raw loops directly before and after a measurement, and returns their mean.
pub(crate) fn beside<T>(
    receiver: &mut Receiver,
    destinations: usize,
    measure: impl FnOnce(&mut Receiver) -> anyhow::Result<T>,
) -> anyhow::Result<(T, f64)> {
    let before = raw(receiver.port, destinations, in_flight(destinations), RAW)?;
    receiver.report()?;
    let measured = measure(receiver)?;
    let after = raw(receiver.port, destinations, in_flight(destinations), RAW)?;
    receiver.report()?;
    Ok((measured, f64::midpoint(before, after)))
}

/// Waits until every stored callback is recorded as delivered.
pub(crate) fn all_delivered(service: &Service, count: usize) -> anyhow::Result<()> {
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let count = count as f64;
    eventually("all are settled", || {
        let delivered = service.metric("urlcallback_callbacks_ended_total{state=\"delivered\"}")?;
        ensure!(delivered <= count, "{delivered} of {count} were delivered");
        Ok((delivered >= count).then_some(()))
    })
}
