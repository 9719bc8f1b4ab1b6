use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

/// What is known for a while, of so many things and no more.
#[derive(Debug)]
pub(super) struct Recent<K, V> {
    entries: Mutex<HashMap<K, Entry<V>>>,
}

#[derive(Clone, Debug)]
struct Entry<V> {
    value: V,
    until: Timestamp,
}

/// What finds no room is not remembered, and has to be asked for again.
const MOST: usize = 10_000;

impl<K, V> Default for Recent<K, V> {
    fn default() -> Self {
        Self { entries: Mutex::default() }
    }
}

impl<K: Eq + Hash, V: Clone> Recent<K, V> {
    pub(super) fn get(&self, key: &K, now: Timestamp) -> Option<V> {
        let entries = self.entries();
        entries.get(key).filter(|entry| now < entry.until).map(|entry| entry.value.clone())
    }

    /// Remembers `value` until then, in place of what was there.
    pub(super) fn put(&self, key: K, value: V, now: Timestamp, until: Timestamp) {
        let mut entries = self.entries();
        if MOST <= entries.len() {
            entries.retain(|_, entry| now < entry.until);
        }
        if entries.len() < MOST || entries.contains_key(&key) {
            entries.insert(key, Entry { value, until });
        }
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<K, Entry<V>>> {
        // Every change leaves a usable map, so a panic elsewhere does no harm.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const NOON: Timestamp = Timestamp::constant(1_800_000_000, 0);

    #[test]
    fn what_is_known_is_known_until_then() {
        let recent = Recent::default();
        let later = NOON + Duration::from_secs(5);
        recent.put("one", 1, NOON, later);
        assert_eq!(recent.get(&"one", later - Duration::from_millis(1)), Some(1));
        assert_eq!(recent.get(&"one", later), None);
        assert_eq!(recent.get(&"two", NOON), None);
        recent.put("one", 2, NOON, later);
        assert_eq!(recent.get(&"one", NOON), Some(2));
    }

    #[test]
    fn so_much_is_known_and_no_more_and_what_is_over_makes_room() {
        let recent = Recent::default();
        let later = NOON + Duration::from_secs(5);
        for number in 0..=MOST {
            recent.put(number, number, NOON, later);
        }
        assert_eq!(recent.get(&(MOST - 1), NOON), Some(MOST - 1));
        assert_eq!(recent.get(&MOST, NOON), None);
        recent.put(0, 7, NOON, later);
        assert_eq!(recent.get(&0, NOON), Some(7));

        recent.put(MOST, MOST, later, later + Duration::from_secs(5));
        assert_eq!(recent.get(&MOST, later), Some(MOST));
        assert_eq!(recent.entries().len(), 1);
    }
}
