//! Opening a store, making one, and finding out whether it still is what it was.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use sled::{Db, Tree};

use crate::{
    clock::{SharedClock, Timestamp},
    outbox::{
        Identity, OutboxError,
        error::Result,
        record,
        sled::{
            claim::queues::{self, Queues},
            fsync::{sync_dir, sync_log},
            guard::guarded,
            keys, migrate,
            rescue::{
                backup,
                precheck::{self, Precheck},
                verify,
                witness::{Witness, witness_record},
            },
            rows::decode,
            shared::{
                backward::Backward,
                barrier::Barrier,
                moves::Moves,
                store::{Settings, Store},
            },
        },
    },
};

/// How long the engine's own lock is waited for, and how long between two looks.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// Opens a store, and finds out whether it still is what it was.
pub(super) fn watched(
    dir: &Path,
    settings: Settings,
    clock: SharedClock,
) -> Result<(Store, Witness)> {
    if !dir.join("db").try_exists()? {
        if let Some(known) = witness_record(dir) {
            return Err(precheck::missing(dir, &known));
        }
        // A copy that is left is of a store that is not here any more.
        backup::forget(dir)?;
        create(dir, None)?;
    }
    let before = Precheck::look(dir)?;
    let opened = guarded(|| {
        let store = store(dir, settings, clock)?;
        before.compare(Identity(store.salt), store.queues.lock().totals.next_batch)?;
        if before.doubt.is_some() {
            verify::run(&store.tree)?;
        }
        Ok(store)
    });
    match opened {
        Ok(store) => {
            // What a killed process had applied and not synced is read like all else, and must not be
            // sent before the disk has it.
            sync_log(dir)?;
            // sled gives its new snapshot the name without a sync of the folder, and then uses
            // space again that the old one still speaks of.
            sync_dir(dir)?;
            before.done()?;
            let witness = Witness::open(dir, Identity(store.salt))?;
            Ok((store, witness))
        }
        Err(error) => {
            before.put_back()?;
            Err(error)
        }
    }
}

fn store(dir: &Path, settings: Settings, clock: SharedClock) -> Result<Store> {
    let db = db(dir, settings.cache_bytes)?;
    migrate::run(&db, dir, migrate::MIGRATIONS)?;
    let tree = Tree::clone(&db);
    let salt = tree.get(keys::SALT)?.ok_or(OutboxError::Engine("it has no salt".into()))?;
    let salt = decode(keys::SALT, &salt)?;
    let queues = queues::load(&tree)?;
    begin_ids_anew(&queues, clock.now());
    let (barrier, commits) = (Barrier::default(), Barrier::default());
    let (moves, backward) = (Moves::default(), Backward::default());
    let dir = dir.to_owned();
    Ok(Store { dir, db, tree, salt, queues, barrier, commits, moves, backward, clock, settings })
}

/// Nobody knows which ids a store has given out that was put back from a copy or an export, after
/// the last one that is in it. So each time that it is opened, they go on at least where the clock
/// is: at 65,536 for each millisecond nobody can have gone further.
fn begin_ids_anew(queues: &Queues, now: Timestamp) {
    let mut inner = queues.lock();
    inner.totals.next_seq = inner.totals.next_seq.max(now.as_millis() << 16);
}

/// Makes an empty store under another name and moves it into place when it is whole. So a
/// store without a format number is never one that was being made: it is damaged or foreign.
///
/// With an identity, its ids go on where those of another store ended.
pub(super) fn create(dir: &Path, identity: Option<Identity>) -> Result<()> {
    let parent = dir.parent().unwrap_or(Path::new("."));
    let mut name = dir.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = parent.join(name);
    if new.try_exists()? {
        std::fs::remove_dir_all(&new)?;
    }
    let db = db(&new, Settings::default().cache_bytes)?;
    migrate::init(&db, &new)?;
    if let Some(Identity(salt)) = identity {
        db.insert(keys::SALT, record::encode_row(&salt)?)?;
        db.flush()?;
    }
    drop(db);
    for entry in std::fs::read_dir(&new)? {
        let path = entry?.path();
        if path.is_file() {
            std::fs::File::options().write(true).open(&path)?.sync_all()?;
        }
    }
    sync_dir(&new)?;
    if dir.try_exists()? {
        // Only an empty one goes; what somebody else put there stays.
        std::fs::remove_dir(dir)?;
    }
    std::fs::rename(&new, dir)?;
    Ok(sync_dir(parent)?)
}

fn db(dir: &Path, cache_bytes: u64) -> Result<Db> {
    let config = sled::Config::new()
        .path(dir)
        // It counts a page's bytes on the disk, which in memory are at least twice as many.
        .cache_capacity(cache_bytes / 2)
        // The committer flushes; a flush in the background would only compete with it.
        .flush_every_ms(None)
        .mode(sled::Mode::HighThroughput);
    let give_up = Instant::now() + LOCK_PATIENCE;
    loop {
        match config.open() {
            // A store that this process has just closed is let go by threads of the engine,
            // a moment later.
            Err(sled::Error::Io(error))
                if error.to_string().contains("could not acquire lock")
                    && Instant::now() < give_up =>
            {
                std::thread::sleep(LOCK_PAUSE);
            }
            opened => return Ok(opened?),
        }
    }
}
