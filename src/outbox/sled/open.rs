//! Opening, creating and checking a store.

use std::{
    path::Path,
    sync::{Mutex, OnceLock},
    time::{Duration, Instant},
};

use sled::{Db, Tree};

use crate::{
    clock::{SharedClock, Timestamp},
    files,
    outbox::{
        Identity, OutboxError,
        error::Result,
        record,
        sled::{
            claim::queues::{self, Queues},
            fsync::{sync_dir, sync_log},
            guard::guarded,
            keys,
            migrate::{self, Found},
            rescue::{
                backup,
                precheck::{self, Precheck},
                verify,
                witness::{Witness, witness_record},
            },
            rows::{Totals, decode},
            shared::{
                barrier::Barrier,
                commit_timer::CommitTimer,
                store::{Settings, Store},
            },
        },
    },
};

/// How long to wait for sled's lock, and the interval between two attempts.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// Opens a store, after checking for damage that sled would discard silently. Also returns whether it
/// was migrated.
pub(super) fn open_checked(
    dir: &Path,
    settings: Settings,
    clock: SharedClock,
) -> Result<(Store, Witness, bool)> {
    if !dir.join("db").try_exists()? {
        if let Some(known) = witness_record(dir) {
            return Err(precheck::missing(dir, &known));
        }
        // A backup without a store belongs to a store that was removed.
        backup::forget(dir)?;
        create(dir, None)?;
    }
    let before = Precheck::look(dir)?;
    let opened = guarded(|| {
        let db = db(dir, settings.cache_bytes)?;
        let found = migrate::look(&db, dir, migrate::MIGRATIONS)?;
        check(&db, &before)?;
        // The following steps write only if there is something to migrate, and then the store is sound.
        let store = match found {
            Found::Latest => Ok(store(dir, db, settings, clock)?),
            older => Err((db, older, settings, clock)),
        };
        Ok(store)
    });
    match opened {
        Ok(store) => {
            // A killed process may have applied a batch without syncing it. The batch is visible now,
            // and must be durable before it is sent.
            sync_log(dir)?;
            // sled renames its new snapshot without syncing the folder, and then reuses space that the
            // old snapshot refers to.
            sync_dir(dir)?;
            // From here on, the backup is older than the store.
            before.done()?;
            match store {
                Ok(store) => {
                    let witness = Witness::open(dir, Identity(store.salt))?;
                    Ok((store, witness, false))
                }
                Err((db, older, settings, clock)) => guarded(|| {
                    // First, because from here on the store is no longer as it was closed.
                    let witness = Witness::open(dir, Identity(salt(&db)?))?;
                    migrate::run(&db, dir, older, migrate::MIGRATIONS)?;
                    Ok((self::store(dir, db, settings, clock)?, witness, true))
                }),
            }
        }
        Err(error) => {
            before.put_back()?;
            Err(error)
        }
    }
}

/// Checks that the store is the one of the witness and, if it may be damaged, verifies all its rows.
fn check(db: &Db, before: &Precheck) -> Result<()> {
    let totals: Totals = match db.get(keys::TOTALS)? {
        Some(bytes) => decode(keys::TOTALS, &bytes)?,
        None => Totals::default(),
    };
    before.compare(Identity(salt(db)?), totals.next_batch)?;
    if before.doubt.is_some() { verify::run(db) } else { Ok(()) }
}

fn salt(tree: &Tree) -> Result<[u8; 16]> {
    let salt = tree.get(keys::SALT)?.ok_or(OutboxError::Engine("it has no salt".into()))?;
    decode(keys::SALT, &salt)
}

fn store(dir: &Path, db: Db, settings: Settings, clock: SharedClock) -> Result<Store> {
    let tree = Tree::clone(&db);
    let salt = salt(&tree)?;
    let queues = queues::load(&tree)?;
    advance_next_seq(&queues, clock.now());
    Ok(Store {
        dir: dir.to_owned(),
        db,
        tree,
        salt,
        queues,
        barrier: Barrier::default(),
        commits: CommitTimer::default(),
        known_queues: Mutex::default(),
        clock,
        settings,
        unclosed: OnceLock::new(),
    })
}

/// Raises the next id to at least the clock. A store that was restored from a backup or export may have
/// assigned ids after the last one in it. With 65,536 ids per millisecond, no store can be ahead of the
/// clock.
fn advance_next_seq(queues: &Queues, now: Timestamp) {
    let mut inner = queues.lock();
    inner.totals.next_seq = inner.totals.next_seq.max(now.as_millis() << 16);
}

/// Creates an empty store under another name and renames it when it is complete. Therefore a store
/// without a format number is never an unfinished one: it is damaged or foreign.
///
/// With an identity, the callbacks of the store with this identity can be imported with their ids.
pub(super) fn create(dir: &Path, identity: Option<Identity>) -> Result<()> {
    let parent = dir.parent().unwrap_or(Path::new("."));
    let mut name = dir.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = parent.join(name);
    if new.try_exists()? {
        files::remove_folder(&new)?;
    }
    let db = db(&new, Settings::default().cache_bytes)?;
    migrate::init(&db, &new)?;
    if let Some(Identity(salt)) = identity {
        db.insert(keys::SALT, record::encode(&salt)?)?;
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
        // Fails unless the folder is empty.
        std::fs::remove_dir(dir)?;
    }
    files::rename(&new, dir)?;
    Ok(sync_dir(parent)?)
}

fn db(dir: &Path, cache_bytes: u64) -> Result<Db> {
    let config = sled::Config::new()
        .path(dir)
        // sled counts the size of pages on disk; in memory they are at least twice as large.
        .cache_capacity(cache_bytes / 2)
        // The committer flushes; a flush in the background would only compete with it.
        .flush_every_ms(None)
        .mode(sled::Mode::HighThroughput);
    let give_up = Instant::now() + LOCK_PATIENCE;
    loop {
        match config.open() {
            // sled's threads release a store shortly after this process has closed it.
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
