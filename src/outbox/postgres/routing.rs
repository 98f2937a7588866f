//! Routing of operator actions: each instance acts on its own destinations.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    command::{Action, Reply},
    outbox::PostgresOutbox,
    questions::{Answer, Question, misunderstood},
    shard::shard_of,
};
use crate::{
    callback::CallbackId,
    outbox::{OutboxFuture, ids},
};

impl PostgresOutbox {
    /// Acts on callbacks: directly for this instance's destinations, and through the owners of the others.
    /// Returns the result for each part.
    pub(super) fn routed<T: Send + 'static>(
        &self,
        ids: Vec<CallbackId>,
        act: fn(Vec<CallbackId>, Reply<T>) -> Action,
        question: fn(Vec<CallbackId>) -> Question,
        result: fn(Answer) -> Option<T>,
    ) -> OutboxFuture<Vec<(Vec<CallbackId>, T)>> {
        let mut own = Vec::new();
        let mut others = BTreeMap::<usize, Vec<CallbackId>>::new();
        {
            let queues = self.queues.lock();
            for id in ids {
                let key = ids::parts(id).1;
                if queues.owns(key) {
                    own.push(id);
                } else {
                    others.entry(shard_of(key)).or_default().push(id);
                }
            }
        }
        // Send it now, because writes take effect in the order of their calls.
        let here = (!own.is_empty() || others.is_empty()).then(|| {
            let own = own.clone();
            self.act(|reply| act(own, reply))
        });
        let (reads, now) = (Arc::clone(&self.reads), self.clock.now());
        Box::pin(async move {
            let mut results = Vec::new();
            if let Some(here) = here {
                results.push((own, here.await?));
            }
            for (shard, ids) in others {
                let answer = reads.ask(shard, &question(ids.clone()), now).await?;
                results.push((ids, result(answer).ok_or_else(misunderstood)?));
            }
            Ok(results)
        })
    }
}
