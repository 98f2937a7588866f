//! Expiry.

use crate::{
    clock::Timestamp,
    outbox::{
        Failure, Record, Scope,
        error::Result,
        sled::{blocks::SET, claim::queue::Queue, commit::transaction::Transaction, keys},
    },
};

/// Maximum number of callbacks that one step expires.
const EXPIRE_STEP: usize = 512;

impl Transaction<'_> {
    /// Fails pending callbacks of some destinations whose budget began before `cutoff`, unless they are in flight, a bounded
    /// number at a time, and returns them; an empty list when none are left.
    pub(crate) fn expire_before(
        &mut self,
        of: &Scope,
        cutoff: Timestamp,
        failure: &Failure,
    ) -> Result<Vec<Record>> {
        // Where to start: at callbacks not checked yet, or at the beginning if some may now be older
        // than the cutoff.
        let from = |queue: &Queue| {
            if queue.row.is_younger(cutoff) {
                return None;
            }
            if queue.oldest < cutoff {
                return Some((0, Timestamp::MAX));
            }
            (queue.aged_to < u64::MAX).then_some((queue.aged_to, queue.oldest))
        };
        let queues: Vec<_> = {
            let inner = self.store.queues.lock();
            let pending = inner
                .queues
                .iter()
                .filter(|(_, queue)| queue.row.pending > 0 && of.has(&queue.row.destination));
            pending.filter_map(|(key, queue)| Some((*key, from(queue)?))).collect()
        };
        let mut ended = Vec::new();
        for (queue, (from, mut oldest)) in queues {
            let mut aged_to = u64::MAX;
            let tree = &self.store.tree;
            let blocks = keys::pending(queue, from / SET)..=keys::pending(queue, u64::MAX);
            'queue: for row in tree.range(blocks) {
                let block = keys::last_number(&row?.0);
                let pending = self.shared.pending(queue, block * SET)?.all();
                for seq in pending.members(block).filter(|seq| *seq >= from) {
                    // A callback that cannot be read stays pending and does not block the others.
                    let Some(record) = self.shared.readable_pending(queue, seq)? else { continue };
                    if record.budget_since < cutoff
                        && let Some(record) = self.expire(record.id, cutoff, failure)?
                    {
                        ended.push(record);
                        if ended.len() >= EXPIRE_STEP {
                            aged_to = seq + 1;
                            break 'queue;
                        }
                        continue;
                    }
                    oldest = oldest.min(record.budget_since);
                    // A queue is ordered by acceptance, and a budget never begins before acceptance.
                    // Only callbacks accepted while the clock was ahead can precede older ones.
                    if (cutoff..=self.now).contains(&record.created_at) {
                        oldest = oldest.min(record.created_at);
                        break 'queue;
                    }
                }
            }
            self.searched.push((queue, oldest, aged_to));
            if ended.len() >= EXPIRE_STEP {
                break;
            }
        }
        Ok(ended)
    }
}
