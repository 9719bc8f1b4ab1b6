//! Warns of certificates before they expire, while there is time to make others.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
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

/// Warns at the start and then once a day, until `stop`. `own` is when the certificate expires by which
/// this API acts on behalf of users, if it does by one.
pub async fn warn_of_expiry(
    directory: Arc<dyn Directory>,
    own: Option<Timestamp>,
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
) {
    let warning = async {
        loop {
            own.inspect(|expires_at| warn_of_own(*expires_at, clock.wall()));
            let wait = round(directory.as_ref(), clock.as_ref()).await;
            tokio::time::sleep(wait).await;
        }
    };
    stop.run_until_cancelled(warning).await;
}

fn warn_of_own(expires_at: Timestamp, now: Timestamp) {
    if expires_at <= now {
        tracing::error!(
            %expires_at,
            "the certificate of --sign-in-certificate-file has expired: nobody can be acted for"
        );
    } else if expires_at <= after(now, AHEAD) {
        let days = elapsed(now, expires_at).as_secs() / 86_400;
        tracing::warn!(
            %expires_at, days,
            "the certificate of --sign-in-certificate-file expires in {days} days: put another there \
             and restart"
        );
    }
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
