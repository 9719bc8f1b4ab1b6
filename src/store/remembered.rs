use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::store::StoreError;

/// What was read from the database once and need not be read again, until somebody writes.
///
/// Exact, because a lock keeps every other process from the database: whoever writes what is
/// remembered here calls [`Remembered::forget`] after the commit, and before anybody learns of it.
#[derive(Debug)]
pub(super) struct Remembered<K, V> {
    known: Mutex<Known<K, V>>,
}

#[derive(Debug)]
struct Known<K, V> {
    /// How often somebody has written.
    writes: u64,
    values: HashMap<K, V>,
}

/// More values than this are not kept; an operator with as many callers has memory for them.
const MOST: usize = 100_000;

impl<K, V> Default for Remembered<K, V> {
    fn default() -> Self {
        Self { known: Mutex::new(Known { writes: 0, values: HashMap::new() }) }
    }
}

impl<K: Clone + Eq + Hash, V: Clone> Remembered<K, V> {
    /// What is known of `key`, or what `read` finds in the database. What is not there is not
    /// remembered, so that nobody fills the memory with guesses.
    pub(super) async fn get(
        &self,
        key: &K,
        read: impl Future<Output = Result<Option<V>, StoreError>>,
    ) -> Result<Option<V>, StoreError> {
        let writes = {
            let known = self.known();
            if let Some(value) = known.values.get(key) {
                return Ok(Some(value.clone()));
            }
            known.writes
        };
        let found = read.await?;
        if let Some(value) = &found {
            let mut known = self.known();
            // What was read before a write and comes after it may not be true any more.
            if known.writes == writes && known.values.len() < MOST {
                known.values.insert(key.clone(), value.clone());
            }
        }
        Ok(found)
    }

    /// Somebody has written.
    pub(super) fn forget(&self) {
        let mut known = self.known();
        known.writes += 1;
        known.values.clear();
    }

    fn known(&self) -> MutexGuard<'_, Known<K, V>> {
        // Every change leaves a usable map, so a panic elsewhere does no harm.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::future::{Ready, ready};

    use super::*;

    fn read(value: Option<u32>) -> Ready<Result<Option<u32>, StoreError>> {
        ready(Ok(value))
    }

    #[tokio::test]
    async fn what_is_there_is_read_once_and_what_is_not_every_time() {
        let remembered = Remembered::default();
        assert_eq!(remembered.get(&"one", read(None)).await.unwrap(), None);
        assert_eq!(remembered.get(&"one", read(Some(1))).await.unwrap(), Some(1));
        assert_eq!(remembered.get(&"one", read(Some(2))).await.unwrap(), Some(1));
        remembered.forget();
        assert_eq!(remembered.get(&"one", read(Some(2))).await.unwrap(), Some(2));
    }

    #[tokio::test]
    async fn what_was_read_before_a_write_is_not_remembered_after_it() {
        let remembered = Remembered::default();
        let slow = async {
            let found = read(Some(1)).await;
            remembered.forget();
            found
        };
        assert_eq!(remembered.get(&"one", slow).await.unwrap(), Some(1));
        assert_eq!(remembered.get(&"one", read(Some(2))).await.unwrap(), Some(2));
    }
}
