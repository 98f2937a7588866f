//! Requests to read the settings again.

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use utoipa::ToSchema;

use super::view::FaultView;

/// How many requests may wait for the one in progress.
const WAITING: usize = 16;

/// What a reload has changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReloadView {
    /// Keys whose values, or the content of whose files, are in effect now.
    pub changed: Vec<String>,
    /// Keys that have changed and are not in effect before the service is restarted.
    pub restart: Vec<String>,
    /// Settings that are valid and probably a mistake.
    pub warnings: Vec<String>,
}

/// What a reload has changed, or why it has changed nothing.
pub type Reloaded = Result<ReloadView, Vec<FaultView>>;

/// The requester of a reload, who receives the result.
pub type Waiting = oneshot::Sender<Reloaded>;

/// Asks for reloads, which are done one after the other.
#[derive(Debug, Clone)]
pub struct Reloads(mpsc::Sender<Waiting>);

impl Reloads {
    /// Requests, and their receiver for the task that reloads.
    pub fn new() -> (Self, mpsc::Receiver<Waiting>) {
        let (ask, asked) = mpsc::channel(WAITING);
        (Self(ask), asked)
    }

    /// Asks, and does not wait. If many wait already, one of these will do.
    pub fn ask(&self) {
        drop(self.0.try_send(oneshot::channel().0));
    }

    /// Reloads; `None` if the service is shutting down.
    pub(super) async fn wait(&self) -> Option<Reloaded> {
        let (tell, told) = oneshot::channel();
        self.0.send(tell).await.ok()?;
        told.await.ok()
    }
}
