//! Fills a store that no service has open with a backlog, through the outbox.

use std::{path::Path, sync::Arc};

use anyhow::{Context as _, bail};
use seal_dpf_urlcallback::{
    callback::{Body, Destination, JobState, parse_url},
    clock::SystemClock,
    outbox::{
        Common, NewCallback, Outbox, Sequence,
        postgres::{self, PostgresOutbox},
        sled::{Settings, SledOutbox},
    },
};

const BATCH: usize = 2048;

/// The schema of a store in a database.
pub(crate) const SCHEMA: &str = "urlcallback";

/// The job of a callback, as long as DPF's are.
pub(crate) fn body(job: usize, directory: String) -> Body {
    Body {
        job_id: job.to_string(),
        job_id_fs: directory,
        job_state: JobState::Finished,
        exit_status: Some("OK".into()),
        error_reason: None,
        dpf_tracker_url: Some(format!("http://dpfsrv03:9125/cgi-bin/dpftracker?job=2016{job:014}")),
    }
}

/// The directory of a job in a backlog.
pub(crate) fn directory(job: usize) -> String {
    format!("d2016{job:014}")
}

/// A URL of the n-th destination; each loopback address is a destination.
pub(crate) fn url(port: u16, destination: usize, job: usize) -> String {
    let [.., a, b] = (destination + 1).to_be_bytes();
    format!("http://127.0.{a}.{b}:{port}/ourjobmanager/ourjobno/{job}")
}

/// `<folder> <database or empty> {<first job> <port> <destinations> <count>}…`, one kind after the other.
pub(crate) fn run(args: &[&str]) -> anyhow::Result<()> {
    let [dir, database, kinds @ ..] = args else { bail!("a folder and a database first") };
    let dir = Path::new(dir);
    let outbox: Box<dyn Outbox> = if database.is_empty() {
        Box::new(SledOutbox::open(dir, Settings::default(), Arc::new(SystemClock))?)
    } else {
        Box::new(open(database, dir)?)
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    for kind in kinds.chunks(4) {
        let [first, port, destinations, count] = kind else { bail!("four numbers: {kind:?}") };
        let port = port.parse()?;
        let (first, destinations) = (first.parse::<usize>()?, destinations.parse::<usize>()?);
        let end = first + count.parse::<usize>()?;
        let mut under_way = None;
        for from in (first..end).step_by(BATCH) {
            let jobs = from..(from + BATCH).min(end);
            let batch: Vec<_> = jobs
                .map(|job| new(job, &url(port, job % destinations, job)))
                .collect::<anyhow::Result<_>>()?;
            if let Some(stored) = under_way.replace(outbox.enqueue(batch, Sequence::default())) {
                runtime.block_on(stored)?;
            }
        }
        if let Some(stored) = under_way {
            runtime.block_on(stored)?;
        }
    }
    outbox.close();
    Ok(())
}

fn new(job: usize, url: &str) -> anyhow::Result<NewCallback> {
    Ok(NewCallback {
        event_id: None,
        body: body(job, directory(job)),
        url: url.to_owned().into(),
        destination: Destination::of(&parse_url(url).context("a URL")?),
        trace: None,
        refusal: None,
    })
}

/// The store in a database. The folder with the identity of this program is next to `dir`.
fn open(url: &str, dir: &Path) -> anyhow::Result<PostgresOutbox> {
    let settings = postgres::Settings {
        url: url.to_owned().into(),
        session_url: None,
        password_file: None,
        ca_file: None,
        identity: None,
        schema: SCHEMA.to_owned(),
        common: Common::default(),
    };
    Ok(PostgresOutbox::open_for_command(settings, dir.parent().context("a folder")?)?)
}
