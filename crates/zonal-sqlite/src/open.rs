//! The databases that are open in this process, each once, whatever its names.
//!
//! Invariants:
//! * Device and inode number tell a file, and not its path: who opens another file that has taken the place of one that is open
//!   does not get that one.
//! * The map is held to look into it, never while a file is opened, replayed or closed. Who wants a file that is being
//!   opened or closed waits at its *entrance*, and nobody else does.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::database::Database;

static OPEN: Mutex<BTreeMap<FileKey, Entry>> = Mutex::new(BTreeMap::new());

/// Which file it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FileKey {
    device: u64,
    inode: u64,
}

impl FileKey {
    pub(crate) fn of(metadata: &Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }
}

/// The database behind it, if it is open; the lock is held while that changes.
type Door = Arc<Mutex<Weak<Database>>>;

struct Entry {
    door: Door,
    /// How many entrances there are; with the last one the entry goes.
    users: usize,
}

/// One user's way to a file.
pub(crate) struct Entrance {
    key: FileKey,
    door: Door,
}

impl Entrance {
    pub(crate) fn to(key: FileKey) -> Self {
        let mut open = lock(&OPEN);
        let none = || Entry { door: Door::default(), users: 0 };
        let entry = open.entry(key).or_insert_with(none);
        entry.users += 1;
        Self { key, door: entry.door.clone() }
    }

    pub(crate) fn key(&self) -> FileKey {
        self.key
    }

    /// Keeps others out of this file until the guard is dropped.
    pub(crate) fn enter(&self) -> MutexGuard<'_, Weak<Database>> {
        lock(&self.door)
    }
}

impl Drop for Entrance {
    fn drop(&mut self) {
        let mut open = lock(&OPEN);
        let Some(entry) = open.get_mut(&self.key) else { return };
        entry.users -= 1;
        if entry.users == 0 {
            open.remove(&self.key);
        }
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_one_door_as_long_as_somebody_uses_it() {
        let key = FileKey { device: 1, inode: u64::MAX };
        let [one, two] = [Entrance::to(key), Entrance::to(key)];
        assert!(Arc::ptr_eq(&one.door, &two.door));
        let other = Entrance::to(FileKey { device: 2, inode: u64::MAX });
        assert!(!Arc::ptr_eq(&one.door, &other.door));
        drop(one);
        assert!(lock(&OPEN).contains_key(&key));
        drop(two);
        assert!(!lock(&OPEN).contains_key(&key));
    }
}
