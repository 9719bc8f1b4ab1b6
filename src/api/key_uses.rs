//! When each key was last used, written down now and then: never on the way of an answer, and for each
//! key not more often than every five minutes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::operation::after;
use crate::store::{CallerName, Directory, KeyUse, StoreError};

/// Between two rounds of writing.
const BETWEEN_ROUNDS: Duration = Duration::from_secs(30);

/// Between two times that the use of one key is written.
const BETWEEN_WRITES: Duration = Duration::from_mins(5);

/// A key that was not used for so long need not be remembered.
const REMEMBERED_FOR: Duration = Duration::from_hours(1);

/// Keys that are written in one call.
const BATCH: usize = 500;

/// Keys that are remembered. More can be used within an hour only by as many that exist; of those the
/// use is seen late.
const MOST: usize = 100_000;

/// The keys that were used lately.
#[derive(Debug, Default)]
pub struct KeyUses {
    seen: Mutex<HashMap<(CallerName, String), Seen>>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    last: Timestamp,
    /// The last use that is in the store.
    written: Option<Timestamp>,
}

impl KeyUses {
    /// A key was used. Only of keys that there are, so that nobody fills the memory with guesses.
    pub(super) fn note(&self, caller: &CallerName, id: &str, now: Timestamp) {
        let mut seen = self.seen();
        let key = (caller.clone(), id.to_owned());
        if let Some(seen) = seen.get_mut(&key) {
            seen.last = seen.last.max(now);
        } else if seen.len() < MOST {
            seen.insert(key, Seen { last: now, written: None });
        }
    }

    /// Writes until `stop`, and then what has not been written yet.
    pub async fn write_down(
        &self,
        directory: Arc<dyn Directory>,
        clock: Arc<dyn Clock>,
        stop: CancellationToken,
    ) {
        let rounds = async {
            loop {
                tokio::time::sleep(BETWEEN_ROUNDS).await;
                self.round(directory.as_ref(), clock.now(), BETWEEN_WRITES).await;
            }
        };
        stop.run_until_cancelled(rounds).await;
        self.round(directory.as_ref(), clock.now(), Duration::ZERO).await;
    }

    async fn round(&self, directory: &dyn Directory, now: Timestamp, apart: Duration) {
        for batch in self.due(now, apart).chunks(BATCH) {
            if let Err(error) = self.write(directory, batch).await {
                let error = error.in_full();
                tracing::warn!(%error, "could not write down when keys were last used");
                return;
            }
        }
    }

    async fn write(&self, directory: &dyn Directory, uses: &[KeyUse]) -> Result<(), StoreError> {
        directory.note_key_uses(uses.to_vec()).await?;
        let mut seen = self.seen();
        for KeyUse { caller, id, at } in uses {
            if let Some(seen) = seen.get_mut(&(caller.clone(), id.clone())) {
                seen.written = Some(*at);
            }
        }
        Ok(())
    }

    /// What is to be written, the last write of which is at least `apart` ago. Forgets what was
    /// written and is long past.
    fn due(&self, now: Timestamp, apart: Duration) -> Vec<KeyUse> {
        let mut seen = self.seen();
        seen.retain(|_, it| it.written != Some(it.last) || now < after(it.last, REMEMBERED_FOR));
        let is_due = |it: &Seen| {
            it.written.is_none_or(|written| written < it.last && after(written, apart) <= now)
        };
        let due = seen.iter().filter(|(_, it)| is_due(it));
        let use_of = |((caller, id), it): (&(CallerName, String), &Seen)| KeyUse {
            caller: caller.clone(),
            id: id.clone(),
            at: it.last,
        };
        due.map(use_of).collect()
    }

    fn seen(&self) -> MutexGuard<'_, HashMap<(CallerName, String), Seen>> {
        // Every change leaves a usable map, so a panic elsewhere does no harm.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: Timestamp = Timestamp::constant(1_800_000_000, 0);

    fn at(seconds: u64) -> Timestamp {
        after(NOON, Duration::from_secs(seconds))
    }

    #[test]
    fn a_key_in_steady_use_is_written_at_once_and_then_every_five_minutes() {
        let (uses, shop) = (KeyUses::default(), "shop".parse().unwrap());
        let mut written = Vec::new();
        for second in (0..1_000).step_by(30) {
            uses.note(&shop, "key_1", at(second));
            for due in uses.due(at(second), BETWEEN_WRITES) {
                written.push(second);
                let mut seen = uses.seen();
                seen.get_mut(&(due.caller, due.id)).unwrap().written = Some(due.at);
            }
        }
        assert_eq!(written, [0, 300, 600, 900]);
        assert_eq!(uses.due(at(991), Duration::ZERO).len(), 1, "at the end, what is left");
        assert_eq!(uses.seen().len(), 1);
    }

    #[test]
    fn what_was_written_and_is_long_past_takes_no_memory() {
        let (uses, shop) = (KeyUses::default(), "shop".parse().unwrap());
        uses.note(&shop, "key_1", NOON);
        assert_eq!(uses.due(at(9_999), BETWEEN_WRITES).len(), 1, "not before it was written");
        uses.seen().values_mut().for_each(|it| it.written = Some(it.last));
        assert!(uses.due(at(3_599), BETWEEN_WRITES).is_empty());
        assert_eq!(uses.seen().len(), 1);
        uses.due(at(3_600), BETWEEN_WRITES);
        assert!(uses.seen().is_empty());
    }
}
