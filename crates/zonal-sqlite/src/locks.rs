//! The five locks of SQLite, among the connections of one process. Other processes are kept out by the lock
//! on the file itself.
//!
//! Invariants: at most one connection has *reserved*, *pending* or *exclusive*; nobody enters *shared* while one
//! has *pending*; *exclusive* is had when nobody else has *shared*.

/// How much a connection has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// Nothing.
    #[default]
    None,
    /// It reads.
    Shared,
    /// It will write, and others still read.
    Reserved,
    /// It waits for the readers to leave.
    Pending,
    /// It writes.
    Exclusive,
}

/// The locks of one database.
#[derive(Debug, Default)]
pub(crate) struct Locks {
    readers: usize,
    /// Somebody has more than *shared*.
    writer: bool,
    /// That one lets nobody in any more.
    pending: bool,
}

impl Locks {
    /// What a connection with `from` has after asking for `to`; whether that is it.
    pub(crate) fn raise(&mut self, from: Level, to: Level) -> (Level, bool) {
        let mut level = from;
        if level >= to {
            return (level, true);
        }
        if level == Level::None {
            if self.pending {
                return (level, false);
            }
            self.readers += 1;
            level = Level::Shared;
        }
        // Who rolls a journal back that another one left goes here at once from *shared*, without a time at
        // which others take the journal for that of a writer who is alive.
        if to == Level::Exclusive && level == Level::Shared && self.readers > 1 {
            return (level, false);
        }
        if to > Level::Shared && level == Level::Shared {
            if self.writer {
                return (level, false);
            }
            self.writer = true;
            level = Level::Reserved;
        }
        if to > Level::Reserved {
            self.pending = true;
            // Itself is one of the readers.
            let alone = self.readers == 1;
            level = if alone { Level::Exclusive } else { Level::Pending };
            return (level, alone || to == Level::Pending);
        }
        (level, true)
    }

    /// A connection with `from` goes down to `to`, *shared* or nothing.
    pub(crate) fn lower(&mut self, from: Level, to: Level) -> Level {
        if from <= to {
            return from;
        }
        if from > Level::Shared {
            (self.writer, self.pending) = (false, false);
        }
        if to == Level::None {
            self.readers -= 1;
        }
        to
    }

    /// Whether somebody will write, or does.
    pub(crate) fn is_reserved(&self) -> bool {
        self.writer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_writer_waits_for_readers_and_lets_no_new_one_in() {
        let mut locks = Locks::default();
        assert_eq!(locks.raise(Level::None, Level::Shared), (Level::Shared, true));
        assert_eq!(locks.raise(Level::None, Level::Shared), (Level::Shared, true));
        assert_eq!(locks.raise(Level::Shared, Level::Reserved), (Level::Reserved, true));
        assert_eq!(locks.raise(Level::Shared, Level::Reserved), (Level::Shared, false));
        assert!(locks.is_reserved());
        assert_eq!(locks.raise(Level::Reserved, Level::Exclusive), (Level::Pending, false));
        assert_eq!(locks.raise(Level::None, Level::Shared), (Level::None, false));
        assert_eq!(locks.lower(Level::Shared, Level::None), Level::None);
        assert_eq!(locks.raise(Level::Pending, Level::Exclusive), (Level::Exclusive, true));
        assert_eq!(locks.lower(Level::Exclusive, Level::Shared), Level::Shared);
        assert!(!locks.is_reserved());
        assert_eq!(locks.raise(Level::None, Level::Shared), (Level::Shared, true));
    }

    #[test]
    fn who_rolls_back_another_ones_journal_goes_from_shared_to_exclusive() {
        let mut locks = Locks::default();
        locks.raise(Level::None, Level::Shared);
        assert_eq!(locks.raise(Level::Shared, Level::Exclusive), (Level::Exclusive, true));
        assert_eq!(locks.lower(Level::Exclusive, Level::None), Level::None);
        assert_eq!(locks.raise(Level::None, Level::Exclusive), (Level::Exclusive, true));
    }

    #[test]
    fn of_two_who_would_roll_back_neither_looks_like_a_writer() {
        let mut locks = Locks::default();
        locks.raise(Level::None, Level::Shared);
        locks.raise(Level::None, Level::Shared);
        assert_eq!(locks.raise(Level::Shared, Level::Exclusive), (Level::Shared, false));
        assert!(!locks.is_reserved(), "or the other one would read what is half written");
        assert_eq!(locks.lower(Level::Shared, Level::None), Level::None);
        assert_eq!(locks.raise(Level::Shared, Level::Exclusive), (Level::Exclusive, true));
    }
}
