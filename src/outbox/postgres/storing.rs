//! Callbacks that are about to be stored: the arguments of `enqueue_v1`.

use std::sync::atomic::Ordering;

use tokio_postgres::{Row, Statement, types::ToSql};

use super::{
    rows::{self, big, millis},
    writer::Writer,
};
use crate::{
    callback::CallbackId,
    clock::Timestamp,
    outbox::{NewCallback, Record, error::Result, transition},
};

/// Arguments of a call.
pub(super) type Args<'a> = Vec<&'a (dyn ToSql + Sync)>;

/// A callback to be stored, with its encoded bytes.
pub(super) struct Prepared {
    /// Its id is zero if it is not known yet.
    pub(super) record: Record,
    accepted: Vec<u8>,
    /// Its seq; `None`: the next one.
    given: Option<i64>,
    /// The callback whose outcome it reports; if that is not stored, this one is not stored either.
    about: Option<i64>,
}

impl Prepared {
    /// A callback that is stored at `now`, with the seq and id `given` if they are known.
    pub(super) fn new(
        new: &NewCallback,
        given: Option<CallbackId>,
        now: Timestamp,
    ) -> Result<Self> {
        let id = given.unwrap_or_else(|| CallbackId::from_u128(0));
        let record = match &new.refusal {
            Some(_) => transition::refuse(new.clone(), id, now),
            None => transition::accept(new.clone(), id, now, true),
        };
        let accepted = rows::accepted(&record)?;
        Ok(Self { record, accepted, given: given.map(|id| rows::parts(id).0), about: None })
    }
}

/// The arguments of `enqueue_v1` for callbacks.
pub(super) struct Storing<'a> {
    now: i64,
    slot: i32,
    max: i64,
    events: Vec<Option<&'a [u8]>>,
    jobs: Vec<&'a [u8]>,
    directories: Vec<&'a [u8]>,
    queues: Vec<i64>,
    names: Vec<&'a str>,
    refused: Vec<Option<i16>>,
    errors: Vec<Option<Vec<u8>>>,
    accepted: Vec<&'a [u8]>,
    token: Option<i64>,
    answered: i64,
    given: Vec<Option<i64>>,
    about: Vec<Option<i64>>,
}

impl<'a> Storing<'a> {
    /// `max`: how many may be pending. `token` identifies a call that may be repeated.
    pub(super) fn new(
        writer: &Writer,
        all: &'a [Prepared],
        now: Timestamp,
        max: u64,
        token: Option<i64>,
    ) -> Result<Self> {
        let text = |part: fn(&Record) -> &str| -> Vec<&'a [u8]> {
            all.iter().map(|it| part(&it.record).as_bytes()).collect()
        };
        let errors = all.iter().map(|it| rows::encoded(it.record.last_error.as_ref()));
        let records = || all.iter().map(|it| &it.record);
        Ok(Self {
            now: millis(now),
            slot: writer.slot,
            max: i64::try_from(max).unwrap_or(i64::MAX),
            events: records().map(|it| it.event_id.as_deref().map(str::as_bytes)).collect(),
            jobs: text(|it| &it.body.job_id),
            directories: text(|it| &it.body.job_id_fs),
            queues: records().map(|it| big(writer.queue(&it.destination).0)).collect(),
            names: records().map(|it| it.destination.as_str()).collect(),
            refused: records().map(rows::kind_of).collect(),
            errors: errors.collect::<Result<_>>()?,
            accepted: all.iter().map(|it| it.accepted.as_slice()).collect(),
            token,
            answered: writer.answered.load(Ordering::Relaxed),
            given: all.iter().map(|it| it.given).collect(),
            about: all.iter().map(|it| it.about).collect(),
        })
    }

    /// In the order of the function.
    pub(super) fn args(&self) -> Args<'_> {
        vec![
            &self.now,
            &self.slot,
            &self.max,
            &self.events,
            &self.jobs,
            &self.directories,
            &self.queues,
            &self.names,
            &self.refused,
            &self.errors,
            &self.accepted,
            &self.token,
            &self.answered,
            &self.given,
            &self.about,
        ]
    }
}

impl Writer {
    /// The outcome events for those of these callbacks that have ended.
    pub(super) fn events_about<'a>(
        &self,
        ended: impl Iterator<Item = &'a Record>,
        now: Timestamp,
    ) -> Result<Vec<Prepared>> {
        let Some(events) = &self.settings.common.outcome_events else { return Ok(Vec::new()) };
        let about = |record: &Record| Some((rows::parts(record.id).0, events.about(record)?));
        let prepared =
            |(seq, new)| Ok(Prepared { about: Some(seq), ..Prepared::new(&new, None, now)? });
        ended.filter_map(about).map(prepared).collect()
    }

    /// Makes a call with one of two statements: the first one, or the second one if outcome events must be
    /// stored with it. These are stored even if the limit of pending callbacks is reached.
    pub(super) async fn query_with_events(
        &self,
        (plain, with_events): (&Statement, &Statement),
        mut args: Args<'_>,
        events: &[Prepared],
        now: Timestamp,
    ) -> Result<Vec<Row>> {
        if events.is_empty() {
            return self.query(plain, &args).await;
        }
        let storing = Storing::new(self, events, now, u64::MAX, None)?;
        args.extend(storing.args());
        self.query(with_events, &args).await
    }
}
