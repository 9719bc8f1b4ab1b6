//! Purges and forgets what has been at rest for long.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::operation::before;
use crate::store::{AuditLog, Store, StoreError};

/// How long things at rest are remembered.
#[derive(Clone, Debug)]
pub struct Retention {
    /// What delivered callbacks consist of, after they were delivered.
    pub contents: Duration,
    /// Operations and their callbacks, after they came to rest.
    pub operations: Duration,
    /// Idempotency keys, after they were first used.
    pub idempotency_keys: Duration,
    /// Entries of the audit log, after they were begun.
    pub audit: Duration,
    /// What receivers agreed to, and at what rate, after they last did.
    pub handshakes: Duration,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            contents: Duration::from_hours(7 * 24),
            operations: Duration::from_hours(30 * 24),
            // Longer than any operation may live, so that a key outlives what it keeps from being
            // registered twice.
            idempotency_keys: Duration::from_hours(8 * 24),
            audit: Duration::from_hours(365 * 24),
            // Long after it is good for registrations, for the rate holds for what is owed still.
            handshakes: Duration::from_hours(30 * 24),
        }
    }
}

const BETWEEN_ROUNDS: Duration = Duration::from_mins(10);

/// How long a user's sign-in is kept that nothing goes by: longer than a registration takes, and than an
/// exchange of the user's token stands for others.
const SIGN_INS: Duration = Duration::from_hours(1);

/// So few at a time that nobody waits long for the writer.
const BATCH: u32 = 500;

/// Between batches, so that forgetting a great many leaves the writer to others most of the time.
const BETWEEN_BATCHES: Duration = Duration::from_millis(100);

/// Forgets in small batches, round after round, until `stop`.
pub async fn forget_what_rests(
    store: Arc<dyn Store>,
    audit: Arc<dyn AuditLog>,
    clock: Arc<dyn Clock>,
    retention: Retention,
    stop: CancellationToken,
) {
    let forgetting = async {
        loop {
            match round(store.as_ref(), audit.as_ref(), clock.as_ref(), &retention).await {
                Ok((0, 0)) => {}
                Ok((purged, forgotten)) => tracing::info!(
                    purged,
                    forgotten,
                    "purged callbacks that were delivered, and forgot operations long at rest"
                ),
                Err(error) => tracing::warn!(
                    error = %error.in_full(),
                    "could not forget what is long at rest, trying again later"
                ),
            }
            tokio::time::sleep(BETWEEN_ROUNDS).await;
        }
    };
    stop.run_until_cancelled(forgetting).await;
}

async fn round(
    store: &dyn Store,
    audit: &dyn AuditLog,
    clock: &dyn Clock,
    retention: &Retention,
) -> Result<(u64, u64), StoreError> {
    let (mut callbacks, mut operations) = (0, 0);
    loop {
        let delivered = before(clock.now(), retention.contents);
        let purged = store.purge(delivered, BATCH).await?;
        callbacks += u64::from(purged.callbacks);
        if !purged.more {
            break;
        }
        tokio::time::sleep(BETWEEN_BATCHES).await;
    }
    loop {
        let now = clock.now();
        let rested = before(now, retention.operations);
        let keys = before(now, retention.idempotency_keys);
        let forgotten = store.forget(rested, keys, now, BATCH).await?;
        operations += u64::from(forgotten.operations);
        let agreed_before = before(now, retention.handshakes);
        let handshakes = store.forget_handshakes(agreed_before, BATCH).await?;
        let users = store.forget_users(before(now, SIGN_INS), BATCH).await?;
        let changes = audit.forget_changes(before(now, retention.audit), BATCH).await?;
        if !forgotten.more && [handshakes, users, changes].into_iter().all(|it| it < BATCH) {
            return Ok((callbacks, operations));
        }
        tokio::time::sleep(BETWEEN_BATCHES).await;
    }
}
