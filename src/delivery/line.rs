//! The destinations that have something due, in two lines: those that answered the last time,
//! and those of which that is not known or that did not, which have a turn now and then.
//!
//! In one line, ten thousand dead hosts would each have a turn before a good one has its next.
//! And since a host that hangs keeps its slots for as long as the time-out lets it, a quarter of
//! all slots is kept from those that are in doubt.

use std::collections::{HashSet, VecDeque};

use super::lane::Health;
use crate::callback::Destination;

/// How many destinations are remembered as answering. When there are more, all are forgotten,
/// and are in doubt until their next answer.
const REMEMBERED: usize = 4096;

/// How many turns the others have between two of a destination in doubt.
const BETWEEN: u8 = 4;

/// Who is served next.
#[derive(Debug, Default)]
pub(super) struct Lines {
    answering: VecDeque<Destination>,
    in_doubt: VecDeque<Destination>,
    answered: HashSet<Destination>,
    /// How many turns ago one in doubt had its own.
    since_doubt: u8,
    /// How many attempts to destinations in doubt are under way.
    doubtful: usize,
}

/// A turn of a destination.
pub(super) struct Turn {
    pub(super) destination: Destination,
    /// How many it may start at most.
    pub(super) share: usize,
}

impl Lines {
    /// Puts it at the end of its line.
    pub(super) fn push(&mut self, destination: Destination) {
        if self.answered.contains(&destination) {
            self.answering.push_back(destination);
        } else {
            self.in_doubt.push_back(destination);
        }
    }

    /// Whose turn it is, where so many slots are free of so many.
    pub(super) fn next(&mut self, free: usize, slots: usize) -> Option<Turn> {
        if free == 0 {
            return None;
        }
        let for_doubt = (slots - slots / 4).saturating_sub(self.doubtful).min(free);
        let its_turn = self.since_doubt >= BETWEEN || self.answering.is_empty();
        let doubt = for_doubt > 0 && its_turn;
        if doubt && let Some(destination) = self.in_doubt.pop_front() {
            self.since_doubt = 0;
            let share = if self.answering.is_empty() {
                slots.div_ceil(self.in_doubt.len() + 1).min(for_doubt)
            } else {
                1
            };
            return Some(Turn { destination, share });
        }
        let destination = self.answering.pop_front()?;
        self.since_doubt = self.since_doubt.saturating_add(1);
        let share = slots.div_ceil(self.answering.len() + 1).min(free);
        Some(Turn { destination, share })
    }

    /// An attempt starts; says whether its destination is in doubt.
    pub(super) fn start(&mut self, destination: &Destination) -> bool {
        let doubtful = !self.answered.contains(destination);
        self.doubtful += usize::from(doubtful);
        doubtful
    }

    /// It has ended.
    pub(super) fn end(&mut self, destination: &Destination, doubtful: bool, health: Health) {
        self.doubtful -= usize::from(doubtful);
        match health {
            Health::Answered if !self.answered.contains(destination) => {
                if self.answered.len() >= REMEMBERED {
                    self.answered.clear();
                }
                self.answered.insert(destination.clone());
            }
            Health::Failing => {
                self.answered.remove(destination);
            }
            Health::Answered | Health::Unknown => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn destination(name: &str) -> Destination {
        Destination::parse(&format!("http://{name}")).unwrap()
    }

    fn answered(lines: &mut Lines, name: &str) {
        let destination = destination(name);
        let doubtful = lines.start(&destination);
        lines.end(&destination, doubtful, Health::Answered);
    }

    fn served(lines: &mut Lines, free: usize, slots: usize) -> Option<(String, usize)> {
        lines.next(free, slots).map(|turn| (turn.destination.host().to_owned(), turn.share))
    }

    #[test]
    fn a_destination_that_answers_waits_for_one_in_doubt_and_not_for_all_of_them() {
        let mut lines = Lines::default();
        answered(&mut lines, "good");
        for n in 0..1000 {
            lines.push(destination(&format!("dead{n}")));
        }
        let mut turns = Vec::new();
        for _ in 0..12 {
            lines.push(destination("good"));
            turns.extend(served(&mut lines, 8, 8));
        }
        let dead: Vec<_> = turns.iter().filter(|(name, _)| name != "good").collect();
        assert_eq!(dead, [&("dead0".to_owned(), 1), &("dead1".to_owned(), 1)]);
        assert_eq!(turns.iter().position(|(name, _)| name == "dead1"), Some(9));
    }

    #[test]
    fn destinations_in_doubt_never_have_all_slots() {
        let mut lines = Lines::default();
        answered(&mut lines, "good");
        for n in 0..8 {
            lines.push(destination(&format!("hangs{n}")));
        }
        for started in 0..6 {
            let turn = lines.next(8 - started, 8).unwrap();
            assert!(lines.start(&turn.destination));
        }
        assert!(lines.next(2, 8).is_none());
        lines.push(destination("good"));
        assert_eq!(served(&mut lines, 2, 8), Some(("good".into(), 2)));
        lines.end(&destination("hangs0"), true, Health::Failing);
        assert_eq!(served(&mut lines, 3, 8), Some(("hangs6".into(), 1)));
    }

    #[test]
    fn a_single_slot_is_anybodys() {
        let mut lines = Lines::default();
        lines.push(destination("new"));
        assert_eq!(served(&mut lines, 1, 1), Some(("new".into(), 1)));
    }
}
