//! Actions on selected callbacks: what `replay-failed`, `cancel` and `retry-now` share.

use anyhow::Context as _;
use futures_util::FutureExt as _;
use indicatif::{ProgressBar, ProgressStyle};
use serde::de::DeserializeOwned;

use super::{
    access::{Access, Purpose},
    output::{Exit, Usage, print},
    results::Results,
    selectors::SelectorArgs,
};
use crate::{
    api::action_view::{ActionRequest, CancelView, FilterView, ReplayView, RetryNowView},
    callback::CallbackId,
    clock::{Clock as _, SystemClock},
    config::Config,
    select::{Action, ActionResult, Selectors},
};

/// Number of callbacks changed by one request, which takes a fraction of a second.
const STEP: usize = 5000;

/// The selected callbacks.
#[derive(Debug, clap::Args)]
pub(super) struct ActionArgs {
    /// Only this callback; can be repeated
    #[arg(long)]
    pub(super) id: Vec<CallbackId>,
    #[command(flatten)]
    selectors: SelectorArgs,
    /// All callbacks to which the command applies (all failed, or all pending ones)
    #[arg(long)]
    all: bool,
    /// Only count the matching callbacks; change nothing
    #[arg(long)]
    pub(super) dry_run: bool,
}

impl ActionArgs {
    fn filter(self) -> FilterView {
        let ids = self.id.iter().map(ToString::to_string).collect();
        FilterView::new(ids, self.selectors.into(), self.all)
    }

    /// Whether ids are the only selectors.
    pub(super) fn only_ids(&self) -> bool {
        let selectors = Selectors::from(self.selectors.clone());
        selectors == Selectors::default() && !self.all && !self.id.is_empty()
    }
}

/// The sum of the results of an action's steps.
pub(super) trait Sum: DeserializeOwned + From<ActionResult> + Default {
    /// Adds the result of a step and returns the cursor of the next step.
    fn add(&mut self, step: Self) -> Option<String>;

    fn matched(&self) -> u64;

    /// The line that is printed.
    fn line(&self) -> String;
}

impl Sum for ReplayView {
    fn add(&mut self, step: Self) -> Option<String> {
        self.matched += step.matched;
        self.replayed += step.replayed;
        step.next_cursor
    }

    fn matched(&self) -> u64 {
        self.matched
    }

    fn line(&self) -> String {
        format!("matched {}, replayed {}", self.matched, self.replayed)
    }
}

impl Sum for CancelView {
    fn add(&mut self, step: Self) -> Option<String> {
        self.matched += step.matched;
        self.cancelled += step.cancelled;
        self.in_flight += step.in_flight;
        step.next_cursor
    }

    fn matched(&self) -> u64 {
        self.matched
    }

    fn line(&self) -> String {
        let Self { matched, cancelled, in_flight, .. } = self;
        format!("matched {matched}, cancelled {cancelled}, in flight {in_flight}")
    }
}

impl Sum for RetryNowView {
    fn add(&mut self, step: Self) -> Option<String> {
        self.matched += step.matched;
        self.due += step.due;
        step.next_cursor
    }

    fn matched(&self) -> u64 {
        self.matched
    }

    fn line(&self) -> String {
        format!("matched {}, due {}", self.matched, self.due)
    }
}

/// Applies an action for the subcommand `command`, with a progress bar.
pub(super) async fn run<T: Sum>(
    config: &Config,
    command: &str,
    action: Action,
    args: ActionArgs,
) -> anyhow::Result<Exit> {
    let dry_run = args.dry_run;
    let filter = args.filter();
    if filter == FilterView::default() {
        let message = "no selector; give --id, --destination, --job-id, --job-id-fs, --error-kind, \
                       --since, --until, --ended-since, --ended-until or --all";
        return Err(Usage(message.into()).into());
    }
    let now = SystemClock.now();
    filter.selection(now).map_err(|error| Usage(error.to_string()))?;
    let purpose = if dry_run { Purpose::Look } else { Purpose::Change };
    let access = Access::find(config, command, purpose).await?;
    let request = ActionRequest { filter, limit: Some(STEP), ..ActionRequest::default() };
    let counting = ProgressBar::new_spinner().with_message("counting");
    let count = ActionRequest { dry_run: true, ..request.clone() };
    let (found, Walk::Done) = walk::<T>(&access, action, count, &counting).await? else {
        anyhow::bail!("interrupted; nothing was changed");
    };
    if dry_run {
        print(found.line())?;
        return Ok(Exit::Done);
    }
    let bar = ProgressBar::new(found.matched()).with_style(
        ProgressStyle::with_template("{wide_bar} {human_pos} of {human_len}, {eta} left")
            .unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    let (done, walk) = walk::<T>(&access, action, request, &bar).await?;
    let mut results = Results::default();
    results.print(done.line());
    match walk {
        Walk::Done => {
            results.end()?;
            Ok(Exit::Done)
        }
        Walk::Interrupted => anyhow::bail!("interrupted; run it again for the rest"),
    }
}

enum Walk {
    Done,
    Interrupted,
}

/// Applies the action to everything selected, one step at a time, until the end or Ctrl-C.
async fn walk<T: Sum>(
    access: &Access,
    action: Action,
    mut request: ActionRequest,
    bar: &ProgressBar,
) -> anyhow::Result<(T, Walk)> {
    let mut sum = T::default();
    let interrupt = tokio::signal::ctrl_c();
    tokio::pin!(interrupt);
    loop {
        if (&mut interrupt).now_or_never().is_some() {
            bar.finish_and_clear();
            return Ok((sum, Walk::Interrupted));
        }
        // Wait for the step to finish; its result is not known before.
        let step: T = access.act(action, &request).await.with_context(|| {
            bar.finish_and_clear();
            format!("stopped after: {}; run it again for the rest", sum.line())
        })?;
        bar.inc(step.matched());
        request.cursor = sum.add(step);
        if request.cursor.is_none() {
            bar.finish_and_clear();
            return Ok((sum, Walk::Done));
        }
    }
}
