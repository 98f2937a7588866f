//! `POST /v1/export`: exports the store to a file in the data directory.

use std::{
    io::BufWriter,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{Json, extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};

use super::{problem::Problem, state::Shared};
use crate::{
    archive::{ArchiveError, Writer},
    datadir::cannot_write,
    files::create_private,
    outbox::OutboxError,
};

/// How long a finished export is kept for the client.
const LEFT: Duration = Duration::from_mins(10);

/// A finished export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ExportView {
    /// Path of the file. Only the service's user can read it. The caller must remove it.
    pub file: String,
    /// Number of callbacks in it.
    pub callbacks: u64,
}

/// Export the store to a file.
///
/// The file is created in the data directory: it contains the passwords of callback URLs, which the API
/// never sends. The command `export` moves it to its destination.
#[utoipa::path(
    post, operation_id = "exportStore", path = "/v1/export", tag = "callbacks",
    responses((status = 200, body = ExportView), (status = 401, body = Problem), (status = 403, body = Problem), (status = 500, body = Problem)),
)]
pub(super) async fn post(State(shared): State<Shared>) -> Result<Json<ExportView>, Problem> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = format!("{}{}-{number}.ndjson", crate::datadir::EXPORT, std::process::id());
    let path = shared.data_dir.join(name);
    let (outbox, to) = (Arc::clone(&shared.outbox), path.clone());
    // Dropped if the client disconnects; the export then stops and removes its file.
    let connected = Arc::new(());
    let client = Arc::downgrade(&connected);
    let handle = tokio::runtime::Handle::current();
    let written = tokio::task::spawn_blocking(move || {
        let unfinished = Unfinished(to);
        let file = BufWriter::new(create_private(&unfinished.0)?);
        let mut writer = Writer::begin(file, Some(outbox.identity()))?;
        // Stop when disk space runs low; the store needs the rest.
        let room = async |_| match outbox.ready().await {
            _ if client.strong_count() == 0 => Err(OutboxError::Closed),
            Err(low @ OutboxError::DiskLow { .. }) => Err(low),
            _ => Ok(()),
        };
        handle.block_on(writer.add_all(&*outbox, room))?;
        // The guard is returned with the result; if the task is cancelled, it removes the file.
        Ok((writer.end()?, unfinished))
    })
    .await
    .unwrap_or_else(|error| Err(ArchiveError::Io(std::io::Error::other(error))));
    drop(connected);
    match written {
        Ok((callbacks, finished)) => {
            let file = std::path::absolute(&path).unwrap_or_else(|_| path.clone());
            std::mem::forget(finished);
            tokio::spawn(remove_if_left(path));
            Ok(Json(ExportView { file: file.display().to_string(), callbacks }))
        }
        Err(error) => {
            let stop = match &error {
                ArchiveError::Io(error) if cannot_write(error) => {
                    "; stop the service and run `export` again: it then reads the store directly"
                }
                _ => "",
            };
            Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}{stop}")))
        }
    }
}

/// An unfinished export, removed on drop.
struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        remove(&self.0);
    }
}

/// The client normally fetches the file immediately; if it never does, the file is removed later.
async fn remove_if_left(path: PathBuf) {
    tokio::time::sleep(LEFT).await;
    remove(&path);
}

fn remove(path: &Path) {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(error.message = %error, "an export cannot be removed");
        }
        _ => {}
    }
}
