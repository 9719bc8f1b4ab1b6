//! Warns of certificates before they expire, while there is time to make others.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::operation::{after, elapsed};
use crate::store::Directory;

/// How long before its expiry a certificate is first warned of.
const AHEAD: Duration = Duration::from_hours(30 * 24);

const BETWEEN_WARNINGS: Duration = Duration::from_hours(24);

/// Where the directory could not be read.
const BETWEEN_TRIES: Duration = Duration::from_mins(10);

/// Lines of the log at a time, those that expire first.
const MOST: u32 = 100;

/// Warns at the start and then once a day, until `stop`.
pub async fn warn_of_expiry(
    directory: Arc<dyn Directory>,
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
) {
    let warning = async {
        loop {
            let wait = round(directory.as_ref(), clock.as_ref()).await;
            tokio::time::sleep(wait).await;
        }
    };
    stop.run_until_cancelled(warning).await;
}

/// One round; how long to wait until the next.
async fn round(directory: &dyn Directory, clock: &dyn Clock) -> Duration {
    let now = clock.wall();
    let expiring = match directory.expiring_proofs(after(now, AHEAD), MOST).await {
        Ok(expiring) => expiring,
        Err(error) => {
            tracing::warn!(error = %error.in_full(), "could not look for proofs that expire");
            return BETWEEN_TRIES;
        }
    };
    for (caller, name, expires_at) in expiring {
        let days = elapsed(now, expires_at).as_secs() / 86_400;
        if expires_at <= now {
            tracing::error!(
                %caller, connection = name, %expires_at,
                "the certificate of connection `{name}` of {caller} has expired: renew it"
            );
        } else {
            tracing::warn!(
                %caller, connection = name, %expires_at, days,
                "the certificate of connection `{name}` of {caller} expires in {days} days: renew it"
            );
        }
    }
    BETWEEN_WARNINGS
}
