//! The client's position: where to continue, and which events are duplicates.

use crate::wire::KEEP;
use http::HeaderValue;
use std::collections::VecDeque;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

/// A longer id is not asked with.
const LONGEST: usize = 1024;

// Behind `id: ` a line that was cut leaves an id that is too long.
const _: () = assert!(KEEP > LONGEST + b"id: ".len());

/// How far the client has got.
#[derive(Debug)]
pub(super) struct Cursor {
    /// Empty without one.
    last_id: Vec<u8>,
    /// Nobody could go on without an id: an event was delivered, or an id that is none to ask with.
    has_begun: bool,
    /// Of the ids that were delivered last, the oldest first.
    delivered: VecDeque<u64>,
    /// Of the events without an id that were delivered behind the last one that has one. Of those that
    /// follow their like, as pings do, there is one.
    behind: VecDeque<u64>,
    /// There were more of those than are remembered.
    is_far_behind: bool,
    look_back: usize,
    /// Where no id tells: the events that have come on this connection since another one was asked for.
    overlap: Option<Box<Overlap>>,
    /// The last event without an id.
    last: Option<u64>,
    check: Option<Box<Check>>,
}

/// Most streams have none.
#[derive(Debug, Default)]
struct Overlap(VecDeque<u64>);

/// Whether another connection repeats what was delivered.
#[derive(Debug)]
struct Check {
    /// What it may repeat. An id that was delivered twice is there twice.
    delivered: VecDeque<u64>,
    behind: VecDeque<u64>,
    /// The event before was one that the client has, and not the last.
    repeats: bool,
    order: Order,
}

/// How events without an id are found among those `behind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    /// Anywhere: what is not there is new.
    Any,
    /// The last of its like, and the others right behind it.
    First,
    Next,
}

/// What of an event tells it from others.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark<'a> {
    pub(super) id: Option<&'a [u8]>,
    /// All of it, if it has data and is no ping.
    pub(super) news: Option<&'a [u8]>,
    /// It came in pieces, of which `news` is the last.
    pub(super) is_part: bool,
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

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

fn number(id: &[u8]) -> Option<u64> {
    std::str::from_utf8(id).ok()?.parse().ok()
}

impl Mark<'_> {
    /// Of the whole. The LF of its last line end may have come apart from it.
    pub(super) fn hash_news(&self) -> Option<u64> {
        let news = self.news?;
        let end = news.iter().rposition(|byte| !matches!(byte, b'\r' | b'\n'));
        Some(hash(&news[..end.map_or(0, |end| end + 1)]))
    }
}

impl Cursor {
    /// `last_id` is what the client itself has asked with.
    pub(super) fn new(last_id: Option<&[u8]>, look_back: usize) -> Self {
        let mut cursor = Self {
            last_id: Vec::new(),
            has_begun: false,
            delivered: VecDeque::new(),
            behind: VecDeque::new(),
            is_far_behind: false,
            look_back,
            overlap: None,
            last: None,
            check: None,
        };
        if let Some(id) = last_id {
            cursor.pass(id);
        }
        cursor
    }

    /// What it takes, in bytes.
    pub(super) fn memory(&self) -> usize {
        let marks = self.delivered.capacity() + self.behind.capacity();
        self.last_id.capacity() + marks * size_of::<u64>()
    }

    /// What to ask with.
    pub(super) fn last_id(&self) -> Option<HeaderValue> {
        let id = Some(&self.last_id).filter(|id| !id.is_empty())?;
        HeaderValue::from_bytes(id).ok()
    }

    /// Whether the upstream can know where to go on: behind an id, or at the start.
    pub(super) fn is_known(&self) -> bool {
        match self.last_id() {
            Some(_) => !self.is_far_behind,
            None => !self.has_begun && self.last_id.is_empty(),
        }
    }

    /// From now on another connection's events come.
    pub(super) fn check(&mut self) {
        let (delivered, behind) = (self.delivered.clone(), self.behind.clone());
        // Of what came before this stream nothing is known, and it is the client's business.
        let is_number = self.has_begun && number(&self.last_id).is_some();
        let may_repeat = !delivered.is_empty() || !behind.is_empty();
        self.check = (is_number || may_repeat).then(|| {
            Box::new(Check {
                delivered,
                behind,
                repeats: false,
                order: Order::Any,
            })
        });
    }

    /// Another connection is asked for while this one goes on: what has no id is to be told from what it sends.
    pub(super) fn overlap(&mut self) {
        // One that comes at that instant may be on both, and some send the last one to each that connects.
        self.overlap = Some(Box::new(Overlap(self.last.into_iter().collect())));
    }

    /// There is no other connection any more.
    pub(super) fn no_overlap(&mut self) {
        self.overlap = None;
    }

    /// Whether such an event has come on both.
    pub(super) fn has_both(&self, first: u64) -> bool {
        self.overlap
            .as_ref()
            .is_some_and(|overlap| overlap.0.contains(&first))
    }

    /// From now on the other connection's events come, from the time of [`overlap`](Self::overlap) on.
    pub(super) fn check_overlap(&mut self) {
        let Overlap(overlap) = self
            .overlap
            .take()
            .map_or_else(Overlap::default, |overlap| *overlap);
        if self.last_id().is_some() {
            return self.check();
        }
        self.check = (!overlap.is_empty()).then(|| {
            Box::new(Check {
                delivered: VecDeque::new(),
                behind: overlap,
                repeats: false,
                order: Order::First,
            })
        });
    }

    /// Whether events have to be judged one by one.
    pub(super) fn is_checking(&self) -> bool {
        self.check.is_some()
    }

    /// What to do with the next event.
    pub(super) fn judge(&mut self, event: Mark<'_>) -> Fate {
        let Some(check) = &mut self.check else {
            return Fate::Deliver;
        };
        let Some(id) = event.id.filter(|id| !id.is_empty()) else {
            // It came behind the one ahead of it the first time, too.
            if check.repeats {
                return Fate::Drop;
            }
            let Some(same) = event.hash_news() else {
                return Fate::Deliver;
            };
            let is_same = |known: &u64| *known == same;
            let at = match check.order {
                Order::Any => check.behind.iter().position(is_same),
                Order::First => check.behind.iter().rposition(is_same),
                Order::Next => check
                    .behind
                    .front()
                    .filter(|known| is_same(known))
                    .map(|_| 0),
            };
            let Some(at) = at else {
                if check.order != Order::Any {
                    self.check = None;
                }
                return Fate::Deliver;
            };
            check.behind.drain(..=at);
            if check.order == Order::First {
                check.order = Order::Next;
            }
            self.check_on();
            return Fate::Drop;
        };
        let same = hash(id);
        let Some(at) = check.delivered.iter().position(|known| *known == same) else {
            self.check = None;
            return match (number(id), number(&self.last_id)) {
                (Some(new), Some(last)) if self.has_begun && new <= last => Fate::Lost,
                _ => Fate::Deliver,
            };
        };
        check.delivered.remove(at);
        check.repeats = true;
        if id == self.last_id && !check.delivered.contains(&same) {
            // What follows is new, but for what was behind it.
            check.delivered.clear();
            check.repeats = false;
            self.check_on();
        }
        Fate::Drop
    }

    /// As long as there is something that may be repeated.
    fn check_on(&mut self) {
        let is_over = |check: &Check| check.delivered.is_empty() && check.behind.is_empty();
        if self.check.as_deref().is_some_and(is_over) {
            self.check = None;
        }
    }

    /// The client gets this event.
    pub(super) fn deliver(&mut self, event: Mark<'_>) {
        self.has_begun |= event.news.is_some();
        if let Some(id) = event.id {
            self.pass(id);
            return;
        }
        let Some(same) = event.hash_news() else {
            return;
        };
        self.last = Some(same);
        if let Some(overlap) = &mut self.overlap
            && overlap.0.len() < self.look_back
        {
            overlap.0.push_back(same);
        }
        if self.last_id.is_empty() {
            return;
        }
        if self.behind.back() == Some(&same) {
            return;
        }
        // By its last piece nobody knows it again.
        if self.behind.len() == self.look_back || event.is_part {
            self.is_far_behind = true;
        } else {
            self.behind.push_back(same);
        }
    }

    /// The client gets this id, or has it.
    fn pass(&mut self, id: &[u8]) {
        self.behind.clear();
        self.is_far_behind = false;
        self.last_id.clear();
        if id.len() > LONGEST {
            self.has_begun = true;
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

    /// An event with this id; "-" has none, and "-x" says x.
    fn event(id: &str) -> Mark<'_> {
        Mark {
            id: Some(id.as_bytes()).filter(|id| !id.starts_with(b"-")),
            news: Some(id.as_bytes()),
            is_part: false,
        }
    }

    fn deliver(cursor: &mut Cursor, ids: &[&str]) {
        for id in ids {
            cursor.deliver(event(id));
        }
    }

    fn fed(ids: &[&str]) -> Cursor {
        let mut cursor = Cursor::new(None, 4);
        deliver(&mut cursor, ids);
        cursor
    }

    /// The fates of such events on another connection.
    fn fates(cursor: &mut Cursor, ids: &[&str]) -> String {
        cursor.check();
        let mut fates = String::new();
        for id in ids {
            let fate = cursor.judge(event(id));
            if fate == Fate::Deliver {
                cursor.deliver(event(id));
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
        assert_eq!(cursor.last_id().unwrap(), "3");
        assert_eq!(fates(&mut cursor, &["-", "4", "-", "5"]), "++++");
        assert_eq!(cursor.last_id().unwrap(), "5");
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
        let ping = Mark {
            id: None,
            news: None,
            is_part: false,
        };
        cursor.deliver(ping);
        assert!(cursor.is_known());
        deliver(&mut cursor, &["-"]);
        assert!(!cursor.is_known());
        deliver(&mut cursor, &["1"]);
        assert!(cursor.is_known());
        cursor.deliver(ping);
        assert!(cursor.is_known());
        deliver(&mut cursor, &[""]);
        assert!(!cursor.is_known());
        assert!(Cursor::new(Some(b"7"), 4).is_known());
    }

    #[test]
    fn an_id_that_can_not_be_asked_with_is_not_known() {
        for id in ["x".repeat(LONGEST + 1).as_str(), "a\u{7f}", "\u{1}"] {
            let mut cursor = fed(&["1"]);
            deliver(&mut cursor, &[id]);
            assert!(!cursor.is_known(), "{id:?}");
            assert_eq!(cursor.last_id(), None);
            // Not even when no event has come: the start is not where the client is.
            let mut cursor = Cursor::new(None, 4);
            cursor.deliver(Mark {
                id: Some(id.as_bytes()),
                news: None,
                is_part: false,
            });
            assert!(!cursor.is_known(), "{id:?}");
        }
        let longest = "x".repeat(LONGEST);
        for id in [longest.as_str(), "\u{e9}", "a b\tc"] {
            let cursor = fed(&[id]);
            assert!(cursor.is_known(), "{id:?}");
            assert_eq!(cursor.last_id().unwrap().as_bytes(), id.as_bytes());
        }
    }

    #[test]
    fn events_without_ids_behind_the_last_one_are_known_by_what_they_say() {
        let stream = ["a", "-x", "b", "-y", "-z"];
        for from in 0..stream.len() {
            let mut cursor = fed(&stream);
            let repeated = &stream[from..];
            let ids: Vec<_> = repeated.iter().chain(&["-new", "c"]).copied().collect();
            let dropped = "-".repeat(repeated.len());
            // Of one that begins between two ids nobody knows what it repeats.
            let dropped = if from == 1 { "+---" } else { &dropped };
            assert_eq!(fates(&mut cursor, &ids), format!("{dropped}++"), "{from}");
            assert!(!cursor.is_checking());
        }
        // With the last of them all is known.
        let mut cursor = fed(&stream);
        assert_eq!(fates(&mut cursor, &stream), "-----");
        assert!(!cursor.is_checking());
        // They are not mistaken for those behind another id.
        assert_eq!(fates(&mut fed(&["a", "-x", "b"]), &["-x", "c"]), "++");
        // Of its like, as pings are, no more than one is dropped.
        let mut cursor = fed(&["a", "-p", "-p", "-p", "-p", "-p", "-p"]);
        assert!(cursor.is_known());
        assert_eq!(fates(&mut cursor, &["-p", "-p", "-p"]), "-++");
    }

    #[test]
    fn more_of_them_than_are_remembered_are_too_many() {
        let mut cursor = fed(&["a", "-1", "-2", "-3", "-4"]);
        assert!(cursor.is_known());
        deliver(&mut cursor, &["-5"]);
        assert!(!cursor.is_known());
        deliver(&mut cursor, &["b"]);
        assert!(cursor.is_known());
    }

    #[test]
    fn what_the_client_had_before_is_dropped_as_well() {
        let of_client = || Cursor::new(Some(b"7"), 4);
        let mut cursor = of_client();
        deliver(&mut cursor, &["8"]);
        assert_eq!(fates(&mut cursor, &["7", "8", "9"]), "--+");
        assert_eq!(fates(&mut of_client(), &["7", "8"]), "-+");
        // It has got nothing here yet that could be told from what comes.
        assert_eq!(fates(&mut of_client(), &["1", "2"]), "++");
    }

    #[test]
    fn where_nothing_can_be_repeated_nothing_is_checked() {
        for ids in [&[][..], &["-x"], &[""]] {
            let mut cursor = fed(ids);
            cursor.check();
            assert!(!cursor.is_checking(), "{ids:?}");
        }
        // It remembers nothing, but numbers tell.
        let mut cursor = Cursor::new(None, 0);
        deliver(&mut cursor, &["5"]);
        assert_eq!(fates(&mut cursor, &["6", "7"]), "++");
        assert_eq!(fates(&mut cursor, &["7"]), "!");
    }
}
