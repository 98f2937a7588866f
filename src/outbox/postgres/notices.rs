//! Notices between instances: NOTIFY, on a connection that also listens. They only make things faster; what
//! gets lost is found by looking again.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::sync::mpsc;
use tokio_postgres::types::ToSql;

use super::session::Connector;
use crate::outbox::ids::QueueKey;

/// How long notices are collected. NOTIFY holds a lock of the whole database until it is committed.
const COLLECTED: Duration = Duration::from_millis(10);

/// Pause between two attempts to connect.
const RECONNECT_PAUSE: Duration = Duration::from_secs(1);

/// Maximum number of destinations in one notice: PostgreSQL limits it to 8000 bytes.
const QUEUES: usize = 400;

/// What is told to the owners of shards.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Notice {
    /// Rows of this destination have changed.
    Changed(QueueKey),
    /// Something was asked, or answered.
    Asked,
}

/// The ends of the channels to the task of the notices.
pub(super) struct Notices {
    pub(super) send: mpsc::UnboundedSender<Notice>,
    pub(super) receive: mpsc::UnboundedReceiver<Notice>,
}

/// Starts the task, which ends when both ends are dropped.
pub(super) fn start(connector: Arc<Connector>) -> Notices {
    let (send, to_send) = mpsc::unbounded_channel();
    let (received, receive) = mpsc::unbounded_channel();
    tokio::spawn(run(connector, to_send, received));
    Notices { send, receive }
}

async fn run(
    connector: Arc<Connector>,
    mut to_send: mpsc::UnboundedReceiver<Notice>,
    received: mpsc::UnboundedSender<Notice>,
) {
    while !received.is_closed() {
        exchange(&connector, &mut to_send, &received).await.unwrap_or_default();
        tokio::time::sleep(RECONNECT_PAUSE).await;
    }
}

/// Exchanges notices on one connection, until it breaks.
async fn exchange(
    connector: &Connector,
    to_send: &mut mpsc::UnboundedReceiver<Notice>,
    received: &mpsc::UnboundedSender<Notice>,
) -> Option<()> {
    let (client, mut messages) = connector.listen().await.ok()?;
    let channel = connector.channel();
    client.batch_execute(&format!("LISTEN \"{channel}\"")).await.ok()?;
    loop {
        tokio::select! {
            message = messages.recv() => {
                let payload = message?;
                for notice in parse(&payload) {
                    received.send(notice).ok()?;
                }
            }
            notice = to_send.recv() => {
                let mut all = BTreeSet::from([notice?]);
                tokio::time::sleep(COLLECTED).await;
                while let Ok(more) = to_send.try_recv() {
                    all.insert(more);
                }
                for payload in payloads(&all) {
                    let args: [&(dyn ToSql + Sync); 2] = [&channel, &payload];
                    client.execute("SELECT pg_notify($1, $2)", &args).await.ok()?;
                }
            }
        }
    }
}

/// The notices as text: `asked`, or the keys of queues in hexadecimal.
fn payloads(notices: &BTreeSet<Notice>) -> Vec<String> {
    let keys: Vec<_> = notices
        .iter()
        .filter_map(|notice| match notice {
            Notice::Changed(key) => Some(format!("{:x}", key.0)),
            Notice::Asked => None,
        })
        .collect();
    let mut payloads: Vec<_> = keys.chunks(QUEUES).map(|some| some.join(" ")).collect();
    if notices.contains(&Notice::Asked) {
        payloads.push("asked".to_owned());
    }
    payloads
}

fn parse(payload: &str) -> Vec<Notice> {
    if payload == "asked" {
        return vec![Notice::Asked];
    }
    let key = |word| Some(Notice::Changed(QueueKey(u64::from_str_radix(word, 16).ok()?)));
    payload.split(' ').filter_map(key).collect()
}
