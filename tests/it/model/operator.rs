//! The actions of an operator, in the model.

use seal_dpf_urlcallback::{
    callback::Destination,
    outbox::{Cancelled, ErrorKind, Failure},
};

use super::reference::{Model, Number, State};

impl Model {
    pub(super) fn cancel(&mut self, number: Number) -> Cancelled {
        match self.kept.get(&number) {
            None => Cancelled::Unknown,
            Some(it) if !it.is_pending() => Cancelled::NotPending,
            Some(it) if it.is_claimed() => Cancelled::InFlight,
            Some(_) => {
                self.end(number, Failure::new(ErrorKind::Cancelled, "cancelled by an operator"));
                Cancelled::Done
            }
        }
    }

    /// Returns how many of them are due now.
    pub(super) fn retry_now(&mut self, numbers: &[Number]) -> u64 {
        let now = self.now;
        let mut due = 0;
        for number in numbers {
            let Some(stored) = self.kept.get_mut(number) else { continue };
            let State::Pending { at, turn, claimed } = &mut stored.state else { continue };
            let destination = &stored.new.destination;
            self.holds.remove(destination);
            if !*claimed {
                *at = now.min(*at);
                due += u64::from(*turn && !self.paused.contains_key(destination));
            }
        }
        due
    }

    /// Returns whether that changes anything.
    pub(super) fn pause(&mut self, to: &Destination, paused: bool) -> bool {
        if self.paused.contains_key(to) == paused {
            return false;
        }
        if paused {
            self.paused.insert(to.clone(), self.now);
        } else {
            self.paused.remove(to);
            // Time during the pause does not count toward the age.
            let pending =
                self.kept.values_mut().filter(|it| it.is_pending() && it.new.destination == *to);
            pending.for_each(|it| it.budget_since = self.now);
        }
        true
    }
}
