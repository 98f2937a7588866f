//! Notices between instances: NOTIFY, on a connection that also listens. They only reduce latency: polling
//! finds what a lost notice announced.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::sync::mpsc;
use tokio_postgres::types::ToSql;

use super::session::Connector;
use crate::outbox::ids::QueueKey;

/// How long notices are collected. NOTIFY holds a lock of the whole database until it is committed.
const COLLECTED: Duration = Duration::from_millis(10);

/// Pause between two attempts to connect.
const RECONNECT_PAUSE: Duration = Duration::from_secs(1);

/// Maximum number of destinations or callbacks in one notice: PostgreSQL limits it to 8000 bytes.
const KEYS: usize = 400;

/// A notice to the owners of shards.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Notice {
    /// Rows of this destination have changed.
    Changed(QueueKey),
    /// The callback with this seq is active.
    Active(i64),
    /// A question was asked or answered.
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

/// Exchanges notices on one connection until it breaks.
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

/// The notices as text: `asked`; or `changed` or `active`, and the keys of queues or seqs in hexadecimal.
fn payloads(notices: &BTreeSet<Notice>) -> Vec<String> {
    let keys = |kind: &str, of: fn(&Notice) -> Option<String>| -> Vec<String> {
        let all: Vec<_> = notices.iter().filter_map(of).collect();
        all.chunks(KEYS).map(|some| format!("{kind} {}", some.join(" "))).collect()
    };
    let mut payloads = keys("changed", |notice| match notice {
        Notice::Changed(key) => Some(format!("{:x}", key.0)),
        _ => None,
    });
    payloads.extend(keys("active", |notice| match notice {
        Notice::Active(seq) => Some(format!("{seq:x}")),
        _ => None,
    }));
    if notices.contains(&Notice::Asked) {
        payloads.push("asked".to_owned());
    }
    payloads
}

fn parse(payload: &str) -> Vec<Notice> {
    let mut words = payload.split(' ');
    let kind = words.next().unwrap_or_default();
    let notice = |word| match kind {
        "changed" => Some(Notice::Changed(QueueKey(u64::from_str_radix(word, 16).ok()?))),
        "active" => Some(Notice::Active(i64::from_str_radix(word, 16).ok()?)),
        _ => None,
    };
    match kind {
        "asked" => vec![Notice::Asked],
        _ => words.filter_map(notice).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notices_round_trip_and_respect_the_size_limit() {
        let keys = (0..1000).map(|key| Notice::Changed(QueueKey(u64::MAX - key)));
        let seqs = (0..1000).map(|seq| Notice::Active(i64::MAX - seq));
        let told: BTreeSet<_> = keys.chain(seqs).chain([Notice::Asked]).collect();
        let payloads = payloads(&told);
        assert!(payloads.iter().all(|it| it.len() < 8000));
        let heard: BTreeSet<_> = payloads.iter().flat_map(|it| parse(it)).collect();
        assert_eq!(heard, told);
        // Notices of newer versions are ignored.
        assert!(parse("something else").is_empty());
    }
}
