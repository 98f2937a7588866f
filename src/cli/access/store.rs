//! The store, opened by the command because no service runs.

use std::{path::Path, sync::Arc};

use super::listing::Listing;
use crate::{
    api::{
        action_view::ActionRequest,
        destination_view::DestinationView,
        view::{CallbackView, LineView, PageView, QueueView, Terms},
    },
    callback::CallbackId,
    cli::{
        output::say,
        temporary::{TMPDIR, Temporary},
    },
    clock::{SharedClock, SystemClock},
    config::Config,
    datadir::DataDir,
    event::{Given, Malformed},
    intake::Intake,
    outbox::{Criteria, ListedState, Outbox, OutboxError, Query, Sequence, store::CopyError},
    select::{self, Action, ActionResult},
};

pub(in crate::cli) struct Store {
    outbox: Arc<dyn Outbox>,
    intake: Intake,
    clock: SharedClock,
    terms: Terms,
    max_event_bytes: usize,
    lock: DataDir,
    /// The folder of a private copy, removed after the store is closed.
    _aside: Option<Temporary>,
}

impl Store {
    pub(super) fn open(config: &Config, lock: DataDir) -> anyhow::Result<Self> {
        let outbox = open(config, &lock.outbox())?;
        Ok(Self::new(config, lock, outbox, None))
    }

    /// Opens the store for reading. If it cannot be written, a private copy of it is opened.
    pub(super) fn open_to_look(config: &Config, lock: DataDir) -> anyhow::Result<Self> {
        if !lock.is_writable() {
            let (outbox, aside) = open_copy(config, &lock)?;
            return Ok(Self::new(config, lock, outbox, Some(aside)));
        }
        match open(config, &lock.outbox()) {
            // On a full disk the lock can be taken, but the store cannot be opened.
            Err(first @ OutboxError::CannotOpen { .. }) => match open_copy(config, &lock) {
                Ok((outbox, aside)) => Ok(Self::new(config, lock, outbox, Some(aside))),
                Err(_) => Err(first.into()),
            },
            opened => Ok(Self::new(config, lock, opened?, None)),
        }
    }

    fn new(
        config: &Config,
        lock: DataDir,
        outbox: Arc<dyn Outbox>,
        aside: Option<Temporary>,
    ) -> Self {
        let intake = Intake::new(
            Arc::clone(&outbox),
            config.egress.clone(),
            config.tracker_template.as_deref(),
        );
        Self {
            intake,
            clock: outbox.clock(),
            outbox,
            terms: config.terms(),
            max_event_bytes: config.api.max_event_bytes,
            lock,
            _aside: aside,
        }
    }

    /// The store.
    pub(in crate::cli) fn outbox(&self) -> &Arc<dyn Outbox> {
        &self.outbox
    }

    /// Closes the store and keeps the lock on the data directory.
    pub(in crate::cli) fn close(self) -> DataDir {
        self.lock
    }

    pub(super) async fn submit(&self, lines: &[Vec<u8>]) -> anyhow::Result<Vec<LineView>> {
        let blank = |line: &[u8]| line.iter().all(u8::is_ascii_whitespace);
        let numbered: Vec<_> = (1_u64..).zip(lines).filter(|(_, line)| !blank(line)).collect();
        let prepared = numbered
            .iter()
            .map(|(_, line)| {
                if line.len() > self.max_event_bytes {
                    Intake::refuse(Malformed::TooLong(self.max_event_bytes))
                } else {
                    self.intake.prepare(line, Given::default())
                }
            })
            .collect();
        let outcomes = self.intake.take(prepared, Sequence::default()).await?;
        let lines = numbered.into_iter().zip(&outcomes);
        Ok(lines.map(|((line, _), outcome)| LineView { line, outcome: outcome.into() }).collect())
    }

    pub(super) async fn queue(&self) -> anyhow::Result<QueueView> {
        let now = self.clock.now();
        Ok(QueueView::new(self.outbox.summary(now).await?, &self.terms, now))
    }

    pub(super) async fn list(&self, listing: &Listing) -> anyhow::Result<PageView> {
        let criteria = listing.selectors.clone().parse(self.clock.now())?;
        let state = listing.state.as_deref().map(select::parse_state).transpose()?;
        let query = Query {
            state: state.map(ListedState::state),
            criteria: Criteria { stage: state.and_then(ListedState::stage), ..criteria },
            cursor: listing.cursor.as_deref().map(str::parse).transpose()?,
            limit: listing.limit,
            oldest_first: false,
        };
        Ok(PageView::new(&self.outbox.list(query).await?, &self.terms))
    }

    pub(super) async fn one(&self, id: CallbackId) -> anyhow::Result<Option<CallbackView>> {
        let found = self.outbox.get(id).await?;
        Ok(found.map(|detail| CallbackView::detailed(detail, &self.terms)))
    }

    pub(super) async fn act<T: From<ActionResult>>(
        &self,
        action: Action,
        request: &ActionRequest,
    ) -> anyhow::Result<T> {
        let selection = request.filter.selection(self.clock.now())?;
        Ok(select::act(&*self.outbox, action, &selection, request.limits()?).await?.into())
    }

    pub(super) async fn pause(
        &self,
        destination: &str,
        paused: bool,
    ) -> anyhow::Result<DestinationView> {
        let destination = select::parse_callable(destination)?;
        let now = self.clock.now();
        Ok(select::pause(&*self.outbox, &destination, paused, now).await?.into())
    }

    pub(super) async fn cancel(&self, id: CallbackId) -> anyhow::Result<()> {
        Ok(select::cancel(&*self.outbox, id).await??)
    }
}

fn open(config: &Config, dir: &Path) -> Result<Arc<dyn Outbox>, OutboxError> {
    let opened = config.outbox.open_for_command(dir, Arc::new(SystemClock))?;
    if opened.migrated {
        say(format_args!(
            "the store {} was migrated to the format of this version; older versions cannot open it",
            dir.display()
        ));
    }
    Ok(opened.outbox)
}

/// Opens a private copy of the store. Errors refer to the store, not to the copy.
fn open_copy(config: &Config, lock: &DataDir) -> anyhow::Result<(Arc<dyn Outbox>, Temporary)> {
    let dir = lock.outbox();
    let aside = Temporary::folder()?;
    let copy = aside.path().join("outbox");
    config.outbox.copy(&dir, &copy).map_err(|error| match error {
        CopyError::Read { .. } => {
            OutboxError::Damaged { dir: dir.clone(), reason: error.to_string().into() }.into()
        }
        CopyError::Write { .. } => anyhow::anyhow!(
            "{} is not writable, so it has to be copied to be read, and there is no space for the copy: set {TMPDIR} to a folder with as much free space as the store takes: {error}",
            dir.display()
        ),
    })?;
    let outbox = open(config, &copy).map_err(|error| error.said_of(&dir, &copy))?;
    Ok((outbox, aside))
}
