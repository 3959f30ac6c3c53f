//! What the client has got: where to go on, and what not to give it again.

use std::collections::VecDeque;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

/// A longer id is not asked with.
const LONGEST: usize = 1024;

/// How far the client has got.
#[derive(Debug)]
pub(super) struct Cursor {
    /// Empty without one.
    last_id: Vec<u8>,
    /// An event with data was delivered.
    has_events: bool,
    /// Of the ids that were delivered last, the oldest first.
    delivered: VecDeque<u64>,
    look_back: usize,
    check: Option<Check>,
}

/// Whether another connection repeats what was delivered.
#[derive(Debug)]
struct Check {
    /// What it may repeat. An id that was delivered twice is there twice.
    delivered: VecDeque<u64>,
    /// The event before was one that the client has.
    repeats: bool,
}

/// What to do with an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Deliver,
    /// The client has it.
    Drop,
    /// The upstream counts anew, so that nobody can tell what the client has.
    Lost,
}

fn hash(id: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    id.hash(&mut hasher);
    hasher.finish()
}

fn number(id: &[u8]) -> Option<u64> {
    std::str::from_utf8(id).ok()?.parse().ok()
}

impl Cursor {
    /// `last_id` is what the client itself has asked with.
    pub(super) fn new(last_id: Option<&[u8]>, look_back: usize) -> Self {
        Self {
            last_id: last_id.unwrap_or_default().to_vec(),
            has_events: false,
            delivered: VecDeque::new(),
            look_back,
            check: None,
        }
    }

    /// What to ask with.
    pub(super) fn last_id(&self) -> Option<&[u8]> {
        (!self.last_id.is_empty()).then_some(&self.last_id)
    }

    /// Whether the upstream can know where to go on: behind an id, or at the start.
    pub(super) fn is_known(&self) -> bool {
        self.last_id().is_some() || !self.has_events
    }

    /// From now on another connection's events come.
    pub(super) fn check(&mut self) {
        self.check = Some(Check {
            delivered: self.delivered.clone(),
            repeats: false,
        });
    }

    /// Whether events have to be judged one by one.
    pub(super) fn is_checking(&self) -> bool {
        self.check.is_some()
    }

    /// What to do with the next event, whose `id` is not there if it has none.
    pub(super) fn judge(&mut self, id: Option<&[u8]>) -> Fate {
        let Some(check) = &mut self.check else {
            return Fate::Deliver;
        };
        let Some(id) = id.filter(|id| !id.is_empty()) else {
            // It came behind the one ahead of it the first time, too.
            return match check.repeats {
                true => Fate::Drop,
                false => Fate::Deliver,
            };
        };
        let same = hash(id);
        let Some(at) = check.delivered.iter().position(|known| *known == same) else {
            self.check = None;
            return match (number(id), number(&self.last_id)) {
                (Some(new), Some(last)) if new <= last => Fate::Lost,
                _ => Fate::Deliver,
            };
        };
        check.delivered.remove(at);
        check.repeats = true;
        if id == self.last_id && !check.delivered.contains(&same) {
            // Whatever follows is new.
            self.check = None;
        }
        Fate::Drop
    }

    /// The client gets this event.
    pub(super) fn deliver(&mut self, id: Option<&[u8]>, has_data: bool) {
        self.has_events |= has_data;
        let Some(id) = id else { return };
        self.last_id.clear();
        if id.len() > LONGEST || self.look_back == 0 {
            self.delivered.clear();
        }
        if id.len() > LONGEST {
            return;
        }
        self.last_id.extend_from_slice(id);
        if self.look_back > 0 && !id.is_empty() {
            if self.delivered.len() == self.look_back {
                self.delivered.pop_front();
            }
            self.delivered.push_back(hash(id));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fed(ids: &[&str]) -> Cursor {
        let mut cursor = Cursor::new(None, 4);
        for id in ids {
            cursor.deliver(Some(id.as_bytes()), true);
        }
        cursor
    }

    /// The fates of events with these ids on another connection; "-" has none.
    fn fates(cursor: &mut Cursor, ids: &[&str]) -> String {
        cursor.check();
        let mut fates = String::new();
        for id in ids {
            let id = Some(id.as_bytes()).filter(|id| *id != b"-");
            let fate = cursor.judge(id);
            if fate == Fate::Deliver {
                cursor.deliver(id, true);
            }
            fates.push(match fate {
                Fate::Deliver => '+',
                Fate::Drop => '-',
                Fate::Lost => '!',
            });
        }
        fates
    }

    #[test]
    fn an_upstream_that_goes_on_is_believed() {
        let mut cursor = fed(&["1", "2", "3"]);
        assert_eq!(cursor.last_id(), Some(&b"3"[..]));
        assert_eq!(fates(&mut cursor, &["-", "4", "-", "5"]), "++++");
        assert_eq!(cursor.last_id(), Some(&b"5"[..]));
    }

    #[test]
    fn what_is_repeated_is_dropped_with_what_belongs_to_it() {
        for ids in [&["b", "c", "d"][..], &["c", "d"], &["d"], &["a", "d"]] {
            let mut cursor = fed(&["a", "b", "c", "d"]);
            let dropped = "-".repeat(ids.len());
            let ids: Vec<_> = ids.iter().chain(&["-", "e"]).copied().collect();
            assert_eq!(fates(&mut cursor, &ids), format!("{dropped}++"));
        }
        assert_eq!(
            fates(&mut fed(&["a", "b"]), &["a", "-", "b", "-", "c"]),
            "---++"
        );
    }

    #[test]
    fn it_may_be_repeated_again_and_again() {
        let mut cursor = fed(&["a", "b", "c"]);
        for _ in 0..3 {
            assert_eq!(fates(&mut cursor, &["a", "b"]), "--");
        }
        assert_eq!(fates(&mut cursor, &["b", "c", "d"]), "--+");
    }

    #[test]
    fn an_id_that_stands_on_two_events_is_two_events() {
        assert_eq!(fates(&mut fed(&["a", "b", "b"]), &["b", "b", "b"]), "--+");
        assert_eq!(fates(&mut fed(&["a", "b"]), &["b", "b"]), "-+");
    }

    #[test]
    fn numbers_that_start_anew_are_not_guessed_about() {
        let numbers: Vec<String> = (1..=9).map(|n| n.to_string()).collect();
        let mut cursor = fed(&numbers.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(fates(&mut cursor, &["1"]), "!");
        assert_eq!(fates(&mut cursor, &["6", "7", "8", "9", "10"]), "----+");
        // Names tell nothing of an order.
        assert_eq!(fates(&mut fed(&["x"]), &["a"]), "+");
    }

    #[test]
    fn without_an_id_it_is_known_only_before_the_first_event() {
        let mut cursor = Cursor::new(None, 4);
        assert!(cursor.is_known());
        cursor.deliver(None, false);
        assert!(cursor.is_known());
        cursor.deliver(None, true);
        assert!(!cursor.is_known());
        cursor.deliver(Some(b"1"), true);
        assert!(cursor.is_known());
        cursor.deliver(Some(b""), true);
        assert!(!cursor.is_known());
        assert!(Cursor::new(Some(b"7"), 4).is_known());
    }

    #[test]
    fn an_id_that_is_too_long_is_none() {
        let mut cursor = fed(&["1"]);
        cursor.deliver(Some(&[b'x'; LONGEST + 1]), true);
        assert!(!cursor.is_known());
    }
}
