//! Salvage: reading callbacks from a store that cannot be opened.
//!
//! The log is read message by message, skipping what is damaged. A page is its latest complete version
//! with the changes after it. The latest version of a callback is used. A callback that is found only
//! in an overwritten or removed version is *uncertain*: it may have been delivered and purged since, or
//! the page with its later version may be damaged.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io,
    path::Path,
};

use crate::{
    files,
    outbox::{
        Attempt, Entry, Identity, Record, StateName, record,
        sled::{
            blocks::{self, PROGRESS, Pending, RECORDS},
            keys,
            migrate::format_1,
            rescue::log_file::{
                LogFile, MessageBody, MessageKind, Messages, Piece, take_byte, take_bytes,
                take_number,
            },
        },
    },
};

/// The result of a salvage.
pub struct Salvage {
    /// The key of the store's ids, if it could be read.
    pub identity: Option<Identity>,
    /// Number of damaged places in the log. Free space that was being overwritten is also counted, so a
    /// few are normal.
    pub broken: u64,
    log: LogFile,
    /// By seq: the callbacks, and their progress.
    callbacks: BTreeMap<u64, Location>,
    progress: BTreeMap<u64, Location>,
    /// Callbacks that are pending according to a current set.
    pending: HashSet<u64>,
    /// Keys of rows whose current version was found, or that were removed.
    current: HashSet<Vec<u8>>,
    /// Attempts before the last one, by the callback's seq.
    attempts: HashMap<u64, BTreeMap<u32, Location>>,
}

/// Location of a row's value.
#[derive(Debug, Clone, Copy)]
struct Location {
    lsn: u64,
    body: MessageBody,
    at: usize,
    len: usize,
    uncertain: bool,
    /// Whether a later version would replace all of it, as in format 1.
    whole: bool,
}

/// The messages about one page.
#[derive(Default)]
struct PageVersions {
    /// Complete versions; without a body if the page was freed.
    bases: Vec<(u64, Option<MessageBody>)>,
    links: Vec<(u64, MessageBody)>,
}

/// A message, and whether it is part of the page's current version.
struct LogPages {
    lsn: u64,
    body: MessageBody,
    /// For a change: the page that it applies to.
    changes: Option<MessageBody>,
    now: bool,
}

impl Salvage {
    /// Reads the log in `dir` without changing anything.
    pub fn read(dir: &Path) -> io::Result<Self> {
        // sled's threads release a store shortly after it was closed.
        files::wait_until_readable(&dir.join("db"))?;
        let mut log = LogFile::open(dir)?;
        let mut pages: HashMap<u64, PageVersions> = HashMap::new();
        let beheaded = log.beheaded()?;
        let mut broken = beheaded.len() as u64;
        for segment in log.segments()?.into_iter().chain(beheaded) {
            let bytes = log.read_segment(segment)?;
            for piece in Messages::new(&bytes, segment, log.segment_size) {
                let Piece::Message(message) = piece else {
                    broken += 1;
                    continue;
                };
                let page = pages.entry(message.page).or_default();
                match message.kind {
                    MessageKind::Node => page.bases.push((message.lsn, Some(message.body))),
                    MessageKind::Free => page.bases.push((message.lsn, None)),
                    MessageKind::Link => page.links.push((message.lsn, message.body)),
                    MessageKind::Cap | MessageKind::Other => {}
                }
            }
        }
        let mut salvage = Self {
            identity: None,
            broken,
            log,
            callbacks: BTreeMap::new(),
            progress: BTreeMap::new(),
            pending: HashSet::new(),
            current: HashSet::new(),
            attempts: HashMap::new(),
        };
        for source in order(pages) {
            salvage.take(&source);
        }
        Ok(salvage)
    }

    /// Number of callbacks found.
    pub fn len(&self) -> usize {
        self.callbacks.len()
    }

    /// Whether none was found.
    pub fn is_empty(&self) -> bool {
        self.callbacks.is_empty()
    }

    /// The callbacks, in order of acceptance; `None` for a callback that can no longer be read.
    pub fn entries(mut self) -> impl Iterator<Item = Option<Entry>> {
        let callbacks = std::mem::take(&mut self.callbacks);
        callbacks.into_iter().map(move |(seq, place)| self.entry(seq, place))
    }

    fn entry(&mut self, seq: u64, place: Location) -> Option<Entry> {
        let record: Record = self.value(place)?;
        let mut uncertain = place.uncertain;
        let record = match self.progress.get(&seq).copied() {
            Some(progress) => {
                uncertain |= progress.uncertain;
                record.with(Some(self.value(progress)?))
            }
            None => {
                // If it is not in a set, its progress may be lost.
                let pending = record.state_name() == StateName::Pending;
                uncertain |= pending && !place.whole && !self.pending.contains(&seq);
                record
            }
        };
        let mut attempts: Vec<Attempt> = self
            .attempts
            .remove(&seq)
            .into_iter()
            .flat_map(BTreeMap::into_values)
            .filter_map(|place| self.value(place))
            .filter(|it: &Attempt| it.number < record.attempt_count)
            .collect();
        attempts.extend(record.last_attempt.clone());
        Some(Entry { record, attempts, uncertain })
    }

    fn value<T: serde::de::DeserializeOwned>(&mut self, place: Location) -> Option<T> {
        let body = self.log.read_body(place.body).ok()?;
        record::decode(body.get(place.at..place.at + place.len)?).ok()
    }

    /// Adds the rows of a message. Later messages are added first.
    fn take(&mut self, source: &LogPages) {
        let Ok(bytes) = self.log.read_body(source.body) else {
            self.broken += 1;
            return;
        };
        let rows = match source.changes {
            None => leaf(&bytes),
            Some(page) => {
                let page = self.log.read_body(page).unwrap_or_default();
                match prefix(&page).and_then(|prefix| link(&bytes, prefix)) {
                    Some(Link::Set(key, value)) => Some(vec![(key, value)]),
                    Some(Link::Removed(key)) => {
                        if source.now {
                            self.current.insert(key);
                        }
                        None
                    }
                    None => None,
                }
            }
        };
        for (key, value) in rows.unwrap_or_default() {
            let place = Location {
                lsn: source.lsn,
                body: source.body,
                at: value.as_ptr().addr() - bytes.as_ptr().addr(),
                len: value.len(),
                // Later versions come first.
                uncertain: !source.now || self.current.contains(&key),
                whole: format_1::is_record(&key),
            };
            self.row(&key, value, place);
            if source.now {
                self.current.insert(key);
            }
        }
    }

    fn row(&mut self, key: &[u8], value: &[u8], place: Location) {
        if place.whole {
            match record::decode::<Record>(value) {
                Ok(record) => add(&mut self.callbacks, keys::seq_of(record.id), place),
                Err(_) => self.broken += 1,
            }
        } else if let Some((seq, number)) = keys::attempt_of(key) {
            self.attempts.entry(seq).or_default().entry(number).or_insert(place);
        } else if key == keys::SALT && self.identity.is_none() {
            self.identity = record::decode(value).ok().map(Identity);
        } else if keys::is_entries(key) {
            let Ok(entries) = blocks::entries(key, value) else {
                self.broken += 1;
                return;
            };
            let (first, records) =
                (keys::last_number(key), key.starts_with(&[keys::RECORD_PREFIX]));
            let block = if records { RECORDS } else { PROGRESS };
            for entry in entries {
                let seq = first - first % block + u64::from(entry.offset);
                let place = Location { at: place.at + entry.begin, len: entry.len, ..place };
                if records {
                    match record::decode::<Record>(entry.of(value)) {
                        Ok(_) => add(&mut self.callbacks, seq, place),
                        Err(_) => self.broken += 1,
                    }
                } else if entry.len > 0 {
                    add(&mut self.progress, seq, place);
                }
            }
        } else if keys::is_large_progress(key) {
            add(&mut self.progress, keys::last_number(key), place);
        } else if keys::is_pending(key)
            && !place.uncertain
            && let Ok(pending) = Pending::decode(key, value)
        {
            self.pending.extend(pending.all().members(keys::last_number(key)));
        }
    }
}

/// Adds a version of a row: a certain version takes precedence over an uncertain one, and then the
/// latest.
fn add(known: &mut BTreeMap<u64, Location>, seq: u64, place: Location) {
    let known = known.entry(seq).or_insert(place);
    if (!known.uncertain, known.lsn) < (!place.uncertain, place.lsn) {
        *known = place;
    }
}

/// The messages: those of current versions of pages before those of earlier versions, and within each
/// group the latest first.
fn order(pages: HashMap<u64, PageVersions>) -> Vec<LogPages> {
    let mut sources = Vec::new();
    for mut page in pages.into_values() {
        page.bases.sort_by_key(|(lsn, _)| *lsn);
        let latest = page.bases.last().map_or(0, |(lsn, _)| *lsn);
        for (lsn, body) in page.links {
            let before = page.bases.partition_point(|(base, _)| *base < lsn);
            let changed = before.checked_sub(1).and_then(|at| page.bases[at].1);
            // Without the page, the prefix of the key is unknown.
            if let Some(changed) = changed {
                sources.push(LogPages { lsn, body, changes: Some(changed), now: lsn >= latest });
            }
        }
        for (lsn, body) in page.bases {
            if let Some(body) = body {
                sources.push(LogPages { lsn, body, changes: None, now: lsn == latest });
            }
        }
    }
    sources.sort_by_key(|source| std::cmp::Reverse((source.now, source.lsn)));
    sources
}

type Rows<'a> = Vec<(Vec<u8>, &'a [u8])>;

/// The common prefix of a page's keys, and the rest of the page.
fn begin<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    take_number(bytes)?; // next
    take_number(bytes)?; // merging child
    take_byte(bytes)?; // merging
    let len = usize::from(take_byte(bytes)?);
    let prefix = take_bytes(bytes)?.get(..len)?; // of the lowest key
    take_bytes(bytes)?; // highest key
    Some(prefix)
}

fn prefix(mut page: &[u8]) -> Option<&[u8]> {
    begin(&mut page)
}

/// A page's rows; `None` for an index page.
fn leaf(mut bytes: &[u8]) -> Option<Rows<'_>> {
    let prefix = begin(&mut bytes)?;
    if take_byte(&mut bytes)? != 0 {
        return None;
    }
    let rows = take_number(&mut bytes)?;
    let mut found = Vec::new();
    for _ in 0..rows {
        found.push(([prefix, take_bytes(&mut bytes)?].concat(), &[][..]));
    }
    for (_, value) in &mut found {
        *value = take_bytes(&mut bytes)?;
    }
    Some(found)
}

/// A change of a page.
enum Link<'a> {
    Set(Vec<u8>, &'a [u8]),
    Removed(Vec<u8>),
}

/// A change of one row; `None` for a change of the tree's structure.
fn link<'a>(mut bytes: &'a [u8], prefix: &[u8]) -> Option<Link<'a>> {
    let kind = take_byte(&mut bytes)?;
    if kind > 1 {
        return None;
    }
    let key = [prefix, take_bytes(&mut bytes)?].concat();
    Some(if kind == 0 { Link::Set(key, take_bytes(&mut bytes)?) } else { Link::Removed(key) })
}
