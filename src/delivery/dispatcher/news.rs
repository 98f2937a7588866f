//! What the outbox reports to the loop: lanes appear with news, and are forgotten when they are idle.

use std::{collections::hash_map::Entry, sync::Arc};

use futures_util::FutureExt as _;

use super::Dispatcher;
use crate::{callback::Destination, delivery::schedule::lane::Lane, outbox::News, report};

impl Dispatcher {
    pub(super) fn receive(&mut self, news: Vec<News>) {
        let now = self.clock.now();
        for it in news {
            let (destination, due) = match it {
                News::Due { destination, at, open } => (destination, Some((at, open))),
                News::RetryNow(destination) => (destination, None),
                News::Lost(destination) => {
                    self.lose(destination);
                    continue;
                }
            };
            let breaker = &self.settings.breaker;
            let limits = || self.settings.limits(&destination);
            let open = due.and_then(|(_, open)| open);
            let again = || match self.remembered.take(&destination) {
                Some(known) => Lane::restored(limits(), known),
                None => Lane::taken_over(limits(), open, breaker, now),
            };
            let lane = self.lanes.entry(destination.clone()).or_insert_with(again);
            if lane.lost {
                lane.come_back(open, breaker, now);
            }
            if let Some((at, _)) = due {
                // A time beyond that was stored while the clock was ahead; treat it as due now.
                let latest = now.after(self.settings.retry.longest_pause());
                lane.due(if at > latest { now } else { at });
            } else if lane.close() {
                self.outbox.set_open(&destination, None);
                report::closed_by_operator(&destination);
            }
            self.schedule(&destination);
        }
    }

    /// Forgets a destination that another instance has taken over. Its attempts end by their holds, and the
    /// lane stays until they have, because they count against its limits.
    pub(super) fn lose(&mut self, destination: Destination) {
        self.timers.clear(&destination);
        self.remembered.take(&destination);
        if let Some(lane) = self.lanes.get_mut(&destination) {
            lane.lose();
            if lane.is_idle() {
                self.maybe_idle.push(destination);
            }
        }
    }

    /// Removes idle lanes but remembers their breaker and pace, because the next callback of a job may be
    /// waiting for one at another destination. Pending news are received first: a lane with news is not idle.
    pub(super) fn forget_idle_lanes(&mut self) {
        if self.maybe_idle.is_empty() {
            return;
        }
        let outbox = Arc::clone(&self.outbox);
        while let Some(news) = outbox.news().now_or_never() {
            self.receive(news);
        }
        for destination in std::mem::take(&mut self.maybe_idle) {
            if let Entry::Occupied(lane) = self.lanes.entry(destination)
                && lane.get().is_idle()
            {
                let (destination, lane) = lane.remove_entry();
                if !lane.lost {
                    self.remembered.put(destination, lane.remembered());
                }
            }
        }
    }
}
