//! `inspect-queue`: shows what waits or fails, why, and what happens next.

use std::{
    io::{self, BufWriter, Write},
    time::Duration,
};

use super::{
    access::{Access, Listing, Purpose},
    output::{Exit, Output, Usage},
    screen::{LiveView, Screen, Tone},
    selectors::SelectorArgs,
    table, text, timeline,
};
use crate::{
    api::view::CallbackView,
    callback::CallbackId,
    clock::{Clock as _, SystemClock},
    config::Config,
    outbox::ListedState,
    select::Selectors,
};

/// Number of callbacks that are requested at a time.
const PAGE: usize = 1000;

/// Show the queue: counts first, then the destinations, then the callbacks, newest first
///
/// Works whether or not the service runs. Times are in UTC.
///
/// Examples:
///   seal-dpf-urlcallback inspect-queue --state pending
///   seal-dpf-urlcallback inspect-queue --destination http://callbackhost:8080 --since 2h
///   seal-dpf-urlcallback inspect-queue --job-id-fs 201602231834182304
///   seal-dpf-urlcallback inspect-queue --id 06h1kuqc7g0003796ovvvcapps
///   seal-dpf-urlcallback inspect-queue --state failed --limit 1000000 --output ndjson
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Args {
    /// Only callbacks in this state; due, waiting and in_flight are parts of pending
    #[arg(long, value_parser = ListedState::NAMES)]
    state: Option<String>,
    #[command(flatten)]
    selectors: SelectorArgs,
    /// Only this callback, with its body and its attempts (the latest thousand)
    #[arg(long, conflicts_with_all = [
        "state", "destination", "job_id", "job_id_fs", "error_kind", "since", "until", "ended_since", "ended_until",
        "limit", "cursor",
    ])]
    id: Option<CallbackId>,
    /// Maximum number of callbacks; 0 for the counts only
    #[arg(long, default_value_t = 50)]
    limit: usize,
    /// Continue at the `nextCursor` of another listing
    #[arg(long)]
    cursor: Option<CallbackId>,
    /// Output format
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// Refresh in place until Ctrl-C; `--watch=10s` sets the interval
    #[arg(long, value_name = "INTERVAL", num_args = 0..=1, require_equals = true,
        default_missing_value = "2s", value_parser = humantime::parse_duration)]
    watch: Option<Duration>,
}

pub(super) async fn run(config: &Config, args: Args) -> anyhow::Result<Exit> {
    let selectors = Selectors::from(args.selectors.clone());
    selectors.parse(SystemClock.now()).map_err(|error| Usage(error.to_string()))?;
    if let Some(interval) = args.watch {
        if args.output != Output::Table {
            return Err(Usage("--watch is only available for tables".into()).into());
        }
        return watch(config, &args, interval.max(Duration::from_millis(100))).await;
    }
    let access = find(config).await?;
    let mut out = BufWriter::new(io::stdout().lock());
    match (args.id, args.output) {
        (Some(id), Output::Json | Output::Ndjson) => {
            let callback = one(&access, id).await?;
            writeln!(out, "{}", text::json(&callback)?)?;
        }
        (None, Output::Json) => json(&access, &args, &mut out).await?,
        (None, Output::Ndjson) => {
            let mut pages = Pages::new(&args);
            while let Some(callbacks) = pages.next(&access).await? {
                for callback in callbacks {
                    write!(out, "{}", text::json(&callback)?)?;
                    out.write_all(b"\n")?;
                }
            }
        }
        (_, Output::Table) => {
            let mut put = |line: String| writeln!(out, "{line}");
            show(&access, &args, Screen::now(), &mut put).await?;
        }
    }
    out.flush()?;
    Ok(Exit::Done)
}

async fn find(config: &Config) -> anyhow::Result<Access> {
    Access::find(config, "inspect-queue", Purpose::Look).await
}

async fn one(access: &Access, id: CallbackId) -> anyhow::Result<CallbackView> {
    access.one(id).await?.ok_or_else(|| anyhow::anyhow!("there is no callback {id}"))
}

/// A listing, page by page, in bounded memory.
struct Pages {
    listing: Listing,
    left: usize,
    begun: bool,
}

impl Pages {
    fn new(args: &Args) -> Self {
        let listing = Listing {
            state: args.state.clone(),
            selectors: args.selectors.clone().into(),
            cursor: args.cursor.map(|id| id.to_string()),
            limit: 0,
        };
        Self { listing, left: args.limit, begun: false }
    }

    async fn next(&mut self, access: &Access) -> anyhow::Result<Option<Vec<CallbackView>>> {
        if self.left == 0 || (self.begun && self.listing.cursor.is_none()) {
            return Ok(None);
        }
        self.begun = true;
        self.listing.limit = self.left.min(PAGE);
        let page = access.list(&self.listing).await?;
        self.left = self.left.saturating_sub(page.callbacks.len());
        self.listing.cursor = page.next_cursor;
        Ok(Some(page.callbacks))
    }

    /// The cursor of the remaining callbacks, if there are any.
    fn rest(&self) -> Option<&str> {
        self.listing.cursor.as_deref().filter(|_| self.begun)
    }
}

async fn json(access: &Access, args: &Args, out: &mut impl Write) -> anyhow::Result<()> {
    let queue = access.queue().await?;
    write!(out, "{{\"queue\":{},\"callbacks\":[", text::json(&queue)?)?;
    let mut pages = Pages::new(args);
    let mut separator = "";
    while let Some(callbacks) = pages.next(access).await? {
        for callback in callbacks {
            write!(out, "{separator}{}", text::json(&callback)?)?;
            separator = ",";
        }
    }
    writeln!(out, "],\"nextCursor\":{}}}", text::json(&pages.rest())?)?;
    Ok(())
}

/// Prints the tables line by line.
async fn show(
    access: &Access,
    args: &Args,
    screen: Screen,
    put: &mut impl FnMut(String) -> io::Result<()>,
) -> anyhow::Result<()> {
    let queue = access.queue().await?;
    let now = SystemClock.now();
    if let Some(id) = args.id {
        let callback = one(access, id).await?;
        timeline::lines(&callback, &queue, screen, now).into_iter().try_for_each(put)?;
        return Ok(());
    }
    table::head(&queue, screen, now).into_iter().try_for_each(&mut *put)?;
    let destinations = table::destinations(&queue, screen, now);
    if !destinations.is_empty() {
        put(String::new())?;
        destinations.into_iter().try_for_each(&mut *put)?;
    }
    let mut pages = Pages::new(args);
    let mut first = true;
    while let Some(callbacks) = pages.next(access).await? {
        if callbacks.is_empty() {
            continue;
        }
        if first {
            put(String::new())?;
        }
        let lines = table::callbacks(&callbacks, &queue, screen, now, first);
        lines.into_iter().try_for_each(&mut *put)?;
        first = false;
    }
    if let Some(cursor) = pages.rest() {
        put(String::new())?;
        put(screen.line(
            Tone::Plain,
            &format!("there are more: use a larger --limit, or --cursor {cursor}"),
        ))?;
    }
    Ok(())
}

/// Refreshes the table. It finds the service each time, because the service may be stopped and started again,
/// and this command must not prevent its start.
async fn watch(config: &Config, args: &Args, interval: Duration) -> anyhow::Result<Exit> {
    // Report an initial error before taking over the terminal.
    drop(find(config).await?);
    let mut view = LiveView::begin()?;
    let watching = async {
        loop {
            let screen = Screen::now();
            let title = format!(
                "{} every {}, Ctrl-C ends",
                text::moment(SystemClock.now()),
                humantime::format_duration(interval)
            );
            let mut lines = vec![screen.line(Tone::Head, &title), String::new()];
            let shown = async {
                let access = find(config).await?;
                show(&access, args, screen, &mut |line| {
                    lines.push(line);
                    Ok(())
                })
                .await
            };
            if let Err(error) = shown.await {
                lines.push(screen.line(Tone::Bad, &format!("error: {error:#}")));
            }
            view.draw(&lines)?;
            tokio::time::sleep(interval).await;
        }
    };
    let ended: anyhow::Result<()> = tokio::select! {
        ended = watching => ended,
        interrupted = tokio::signal::ctrl_c() => interrupted.map_err(Into::into),
    };
    ended.map(|()| Exit::Done)
}
