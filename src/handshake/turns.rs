use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

/// Lets one at a time go on for each key, in the order in which they came.
#[derive(Debug)]
pub(super) struct Turns<K> {
    locks: Mutex<HashMap<K, Arc<AsyncMutex<()>>>>,
}

/// Whoever has it goes on. Whoever gives up waiting, or goes away, leaves it to the next.
pub(super) struct Turn<'a, K: Eq + Hash> {
    turns: &'a Turns<K>,
    key: K,
    lock: Option<Arc<AsyncMutex<()>>>,
    guard: Option<OwnedMutexGuard<()>>,
}

impl<K> Default for Turns<K> {
    fn default() -> Self {
        Self { locks: Mutex::default() }
    }
}

impl<K: Clone + Eq + Hash> Turns<K> {
    /// Waits until nobody else has the turn for `key`.
    pub(super) async fn take(&self, key: K) -> Turn<'_, K> {
        let lock = Arc::clone(self.locks().entry(key.clone()).or_default());
        // From here on, its end clears away behind it, also if that comes while it waits.
        let mut turn = Turn { turns: self, key, lock: Some(Arc::clone(&lock)), guard: None };
        turn.guard = Some(lock.lock_owned().await);
        turn
    }
}

impl<K> Turns<K> {
    fn locks(&self) -> MutexGuard<'_, HashMap<K, Arc<AsyncMutex<()>>>> {
        // Every change leaves a usable map, so a panic elsewhere does no harm.
        self.locks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Eq + Hash> Drop for Turn<'_, K> {
    fn drop(&mut self) {
        let mut locks = self.turns.locks();
        drop(self.guard.take());
        drop(self.lock.take());
        // Nobody comes to have it but by the map, which is held: this was the last.
        if locks.get(&self.key).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            locks.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn one_at_a_time_goes_on_for_each_key_in_the_order_of_their_coming() {
        let turns = Turns::default();
        let first = turns.take("key").await;
        let (mut second, mut third) = (pin!(turns.take("key")), pin!(turns.take("key")));
        assert!(second.as_mut().now_or_never().is_none());
        assert!(third.as_mut().now_or_never().is_none());
        assert!(turns.take("other").now_or_never().is_some(), "each key has its own");

        drop(first);
        assert!(third.as_mut().now_or_never().is_none());
        let second = second.as_mut().now_or_never().unwrap();
        assert!(third.as_mut().now_or_never().is_none());
        drop(second);
        assert!(third.as_mut().now_or_never().is_some());
    }

    #[tokio::test]
    async fn whoever_gives_up_stands_in_nobodys_way_and_nothing_is_left_behind() {
        let turns = Turns::default();
        {
            let first = turns.take("key").await;
            let mut third = {
                let mut second = Box::pin(turns.take("key"));
                assert!(second.as_mut().now_or_never().is_none());
                let mut third = Box::pin(turns.take("key"));
                assert!(third.as_mut().now_or_never().is_none());
                third
            };
            drop(first);
            assert!(third.as_mut().now_or_never().is_some());
        }
        assert!(turns.locks().is_empty());
        {
            let _first = turns.take("key").await;
            assert!(turns.take("key").now_or_never().is_none());
        }
        assert!(turns.locks().is_empty());
    }
}
