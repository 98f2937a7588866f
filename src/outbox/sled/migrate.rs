//! Migrates a store to the format of this version, forward only, with one file in `migrations/` for each
//! step.
//!
//! A step runs when the store is open and not in use. The new format number is written and synced after
//! the writes of the step, so an interrupted step runs again from its beginning and has to handle what it
//! wrote before. A store of a newer format is refused before anything is changed.

use std::path::Path;

use sled::{Db, Tree};

use crate::outbox::{
    OutboxError,
    error::Result,
    sled::{fsync::sync_log, keys},
};

#[path = "../../../migrations/m0001_first_format.rs"]
mod m0001_first_format;

/// One step. Its position in the list, from 1, is the format that it leads to.
pub(super) type Migration = fn(&Tree) -> Result<()>;

/// All steps.
pub(super) const MIGRATIONS: &[Migration] = &[m0001_first_format::up];

/// Migrates an empty database to the latest format.
pub(super) fn init(db: &Db, dir: &Path) -> Result<()> {
    steps(db, dir, 0, MIGRATIONS)
}

/// Runs the steps that the store lacks.
pub(super) fn run(db: &Db, dir: &Path, migrations: &[Migration]) -> Result<()> {
    let known = u32::try_from(migrations.len()).unwrap_or(u32::MAX);
    let found = match db.get(keys::FORMAT)?.as_deref().map(TryInto::try_into) {
        Some(Ok(bytes)) => u32::from_be_bytes(bytes),
        Some(Err(_)) | None => return Err(foreign(dir)),
    };
    if found > known {
        return Err(OutboxError::NewerFormat { dir: dir.to_owned(), found, known });
    }
    steps(db, dir, found, migrations)
}

fn steps(db: &Db, dir: &Path, found: u32, migrations: &[Migration]) -> Result<()> {
    for (format, migration) in (1_u32..).zip(migrations).skip(found as usize) {
        migration(db)?;
        sync(db, dir)?;
        db.insert(keys::FORMAT, &format.to_be_bytes())?;
        sync(db, dir)?;
    }
    Ok(())
}

/// Syncs what was written so far. `flush()` alone is no barrier in sled 0.34.
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

    /// An empty database in a folder of its own.
    fn empty() -> (Db, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        (sled::Config::new().path(folder.path()).open().unwrap(), folder)
    }

    fn store() -> (Db, tempfile::TempDir) {
        let (db, folder) = empty();
        init(&db, folder.path()).unwrap();
        (db, folder)
    }

    fn second(tree: &Tree) -> Result<()> {
        tree.insert("second", "ran")?;
        Ok(())
    }

    fn interrupted(tree: &Tree) -> Result<()> {
        tree.insert("half", "done")?;
        Err(OutboxError::Closed)
    }

    fn format(db: &Db) -> u32 {
        u32::from_be_bytes(db.get(keys::FORMAT).unwrap().unwrap().as_ref().try_into().unwrap())
    }

    #[test]
    fn a_migration_keeps_the_salt() {
        let (db, folder) = store();
        let salt = db.get(keys::SALT).unwrap().unwrap();
        assert_eq!(format(&db), 1);
        run(&db, folder.path(), &[MIGRATIONS[0], second]).unwrap();
        assert_eq!(format(&db), 2);
        assert!(db.contains_key("second").unwrap());
        assert_eq!(db.get(keys::SALT).unwrap().unwrap(), salt);
    }

    #[test]
    fn an_interrupted_migration_runs_again() {
        let (db, folder) = store();
        assert!(run(&db, folder.path(), &[MIGRATIONS[0], interrupted]).is_err());
        assert_eq!(format(&db), 1);
        run(&db, folder.path(), &[MIGRATIONS[0], second]).unwrap();
        assert_eq!(format(&db), 2);
    }

    #[test]
    fn a_newer_store_is_refused_unchanged_with_both_formats_named() {
        let (db, folder) = store();
        run(&db, folder.path(), &[MIGRATIONS[0], second]).unwrap();
        let rows = db.len();
        let error = run(&db, folder.path(), MIGRATIONS).unwrap_err().to_string();
        assert!(error.contains("format 2") && error.contains("supports up to 1"), "{error}");
        assert_eq!((db.len(), format(&db)), (rows, 2));
    }

    #[test]
    fn a_foreign_store_is_refused_unchanged() {
        for rows in [0, 1] {
            let (db, folder) = empty();
            if rows > 0 {
                db.insert("somebody", "else").unwrap();
            }
            assert!(run(&db, folder.path(), MIGRATIONS).is_err());
            assert_eq!(db.len(), rows);
        }
    }
}
