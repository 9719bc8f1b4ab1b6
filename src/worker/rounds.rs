//! Work that somebody asks for now and then, done little by little, by whichever replica is there.

use std::time::Duration;

use tokio::sync::futures::Notified;
use tokio_util::sync::CancellationToken;

use crate::store::StoreError;

/// How long there may be nothing to do before we look again: another replica may have been asked, and
/// be gone.
pub(super) const LONGEST_SLEEP: Duration = Duration::from_secs(30);

/// How long we wait after a failure of the store.
const AFTER_FAILURE: Duration = Duration::from_secs(10);

/// What is done in rounds. All that it has to remember is in the store.
pub(super) trait Rounds {
    /// What could not be gone on with, where a round has failed.
    const WORK: &'static str;

    /// Between two rounds at the least, also if somebody asks: that is no reason to hurry.
    const BETWEEN: Duration;

    /// Somebody asks for it, in this process.
    fn asked(&self) -> Notified<'_>;

    /// Goes through what there is to do. Says how long to wait then.
    fn round(&self) -> impl Future<Output = Result<Duration, StoreError>> + Send;
}

/// Goes on with what is under way, and with what is asked for, until `stop`. Wherever it is broken off,
/// the next one goes on from there.
pub(super) async fn in_rounds(work: &impl Rounds, stop: CancellationToken) {
    stop.run_until_cancelled(go_on(work)).await;
}

async fn go_on<R: Rounds>(work: &R) {
    loop {
        // Taken before looking, so that nobody's wish falls between looking and sleeping.
        let mut asked = std::pin::pin!(work.asked());
        asked.as_mut().enable();
        let sleep = match work.round().await {
            Ok(sleep) => sleep,
            Err(error) => {
                let error = error.in_full();
                tracing::warn!(%error, "could not go on with {}, trying again later", R::WORK);
                AFTER_FAILURE
            }
        };
        tokio::time::sleep(sleep.min(R::BETWEEN)).await;
        drop(tokio::time::timeout(sleep.saturating_sub(R::BETWEEN), asked).await);
    }
}
