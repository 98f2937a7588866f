//! Migrates a store to the format of this version, forward only, with one file in `migrations/` for each
//! step.
//!
//! A step runs when the store is open and not in use. Before it writes anything, the new format number
//! and a row that marks the migration as incomplete are synced: from then on an older version refuses
//! the store. An interrupted step runs again and continues where it stopped. A store of a newer format
//! is refused before anything is changed.

use std::path::Path;

use sled::{Db, Tree};

use crate::outbox::{
    OutboxError,
    error::Result,
    sled::{fsync::sync_log, keys},
};

#[path = "../../../migrations/format_1.rs"]
pub(super) mod format_1;
#[path = "../../../migrations/m0001_first_format.rs"]
mod m0001_first_format;
#[path = "../../../migrations/m0002_shared_rows.rs"]
mod m0002_shared_rows;

/// One step. Its position in the list, from 1, is the format that it results in. It must call the
/// second argument, which syncs the changes so far, after each of its batches: sled reuses space that
/// was freed by writes which are not on the disk yet.
pub(super) type Migration = fn(&Tree, &dyn Fn() -> Result<()>) -> Result<()>;

/// All steps.
pub(super) const MIGRATIONS: &[Migration] = &[m0001_first_format::up, m0002_shared_rows::up];

/// Migrates an empty database to the latest format.
pub(super) fn init(db: &Db, dir: &Path) -> Result<()> {
    let sync = || sync(db, dir);
    MIGRATIONS.iter().try_for_each(|migration| migration(db, &sync))?;
    db.insert(keys::FORMAT, &latest(MIGRATIONS).to_be_bytes())?;
    sync()
}

/// The format of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// The format of this version.
    Latest,
    /// An older format.
    Older(u32),
    /// A migration from this format was interrupted: there are rows of both formats.
    Interrupted(u32),
}

/// Determines the format of a store. A newer or foreign format is an error.
pub(super) fn look(db: &Db, dir: &Path, migrations: &[Migration]) -> Result<Found> {
    let number = |key: &[u8]| -> Result<Option<u32>> {
        let row = db.get(key)?;
        row.map(|row| row.as_ref().try_into().map(u32::from_be_bytes).map_err(|_| foreign(dir)))
            .transpose()
    };
    let found = number(keys::FORMAT)?.ok_or_else(|| foreign(dir))?;
    let known = latest(migrations);
    if found > known {
        return Err(OutboxError::NewerFormat { dir: dir.to_owned(), found, known });
    }
    Ok(match number(keys::MIGRATING)? {
        Some(from) => Found::Interrupted(from),
        None if found < known => Found::Older(found),
        None => Found::Latest,
    })
}

/// Runs the missing steps.
pub(super) fn run(db: &Db, dir: &Path, found: Found, migrations: &[Migration]) -> Result<()> {
    let (Found::Older(from) | Found::Interrupted(from)) = found else { return Ok(()) };
    let sync = || sync(db, dir);
    for (format, migration) in (1_u32..).zip(migrations).skip(from as usize) {
        let mut begin = sled::Batch::default();
        begin.insert(keys::FORMAT, &format.to_be_bytes());
        begin.insert(keys::MIGRATING, &(format - 1).to_be_bytes());
        db.apply_batch(begin)?;
        sync()?;
        migration(db, &sync)?;
        sync()?;
        db.remove(keys::MIGRATING)?;
        sync()?;
    }
    Ok(())
}

fn latest(migrations: &[Migration]) -> u32 {
    u32::try_from(migrations.len()).unwrap_or(u32::MAX)
}

/// Syncs the changes so far. `flush()` alone is no barrier in sled 0.34.
fn sync(db: &Db, dir: &Path) -> Result<()> {
    db.flush()?;
    Ok(sync_log(dir)?)
}

fn foreign(dir: &Path) -> OutboxError {
    OutboxError::Damaged {
        dir: dir.to_owned(),
        reason: "it contains data without a format number: it is not an outbox, or it is damaged"
            .into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An empty database in a temporary folder.
    fn empty() -> (Db, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        (sled::Config::new().path(folder.path()).open().unwrap(), folder)
    }

    fn store() -> (Db, tempfile::TempDir) {
        let (db, folder) = empty();
        init(&db, folder.path()).unwrap();
        (db, folder)
    }

    fn third(tree: &Tree, _: &dyn Fn() -> Result<()>) -> Result<()> {
        tree.insert("third", "ran")?;
        Ok(())
    }

    fn interrupted(tree: &Tree, _: &dyn Fn() -> Result<()>) -> Result<()> {
        tree.insert("half", "done")?;
        Err(OutboxError::Closed)
    }

    fn with(last: Migration) -> [Migration; 3] {
        [MIGRATIONS[0], MIGRATIONS[1], last]
    }

    fn migrate(db: &Db, dir: &Path, migrations: &[Migration]) -> Result<()> {
        run(db, dir, look(db, dir, migrations)?, migrations)
    }

    fn format(db: &Db) -> u32 {
        u32::from_be_bytes(db.get(keys::FORMAT).unwrap().unwrap().as_ref().try_into().unwrap())
    }

    #[test]
    fn a_migration_keeps_the_salt() {
        let (db, folder) = store();
        let salt = db.get(keys::SALT).unwrap().unwrap();
        assert_eq!(format(&db), 2);
        migrate(&db, folder.path(), &with(third)).unwrap();
        assert_eq!(format(&db), 3);
        assert!(db.contains_key("third").unwrap());
        assert_eq!(db.get(keys::SALT).unwrap().unwrap(), salt);
    }

    #[test]
    fn an_interrupted_migration_is_refused_by_the_version_before_and_runs_again() {
        let (db, folder) = store();
        assert!(migrate(&db, folder.path(), &with(interrupted)).is_err());
        let error = migrate(&db, folder.path(), MIGRATIONS).unwrap_err().to_string();
        assert!(error.contains("format 3") && error.contains("supports up to 2"), "{error}");
        assert_eq!(look(&db, folder.path(), &with(third)).unwrap(), Found::Interrupted(2));
        migrate(&db, folder.path(), &with(third)).unwrap();
        assert!(db.contains_key("third").unwrap());
        assert_eq!(look(&db, folder.path(), &with(third)).unwrap(), Found::Latest);
    }

    #[test]
    fn a_newer_store_is_refused_unchanged_with_both_formats_named() {
        let (db, folder) = store();
        migrate(&db, folder.path(), &with(third)).unwrap();
        let rows = db.len();
        let error = migrate(&db, folder.path(), MIGRATIONS).unwrap_err().to_string();
        assert!(error.contains("format 3") && error.contains("supports up to 2"), "{error}");
        assert_eq!((db.len(), format(&db)), (rows, 3));
    }

    #[test]
    fn a_foreign_store_is_refused_unchanged() {
        for rows in [0, 1] {
            let (db, folder) = empty();
            if rows > 0 {
                db.insert("somebody", "else").unwrap();
            }
            assert!(migrate(&db, folder.path(), MIGRATIONS).is_err());
            assert_eq!(db.len(), rows);
        }
    }
}
