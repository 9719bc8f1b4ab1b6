//! What replicas tell each other: that there may be something to do, and that callers have changed.
//!
//! `NOTIFY` carries urgency, never content, and may be lost: workers look by themselves now and then,
//! and what is known of callers is forgotten every two seconds. It is sent by itself, not with what it
//! is about, and not more than ten times a second, for PostgreSQL lets only one transaction at a time
//! commit that notifies anybody of anything.

use std::convert::Infallible;
use std::future::pending;
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::sync::Notify;
use tokio_postgres::AsyncMessage;

use super::CHANNEL;
use super::connect::Database;
use super::dial::Dialled;
use super::directory::KnownDirectory;
use crate::store::StoreError;

/// For how long a replica may go by what another one has changed.
const KNOWN_FOR: Duration = Duration::from_secs(2);

/// Between two notices.
const APART: Duration = Duration::from_millis(100);

/// Before we connect again.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// "eBrp": every replica at work shares this advisory lock, which ends with its connection.
const PRESENT: i64 = 0x6542_7270;

/// The payload of a notice about callers; any other is about steps.
pub(super) const DIRECTORY: &str = "directory";

/// The way to the other replicas on the same database.
#[derive(Debug, Default)]
pub(super) struct Replicas {
    news: Notify,
}

impl Replicas {
    /// Lets other replicas know, soon, that there may be steps that can be taken.
    pub(super) fn tell(&self) {
        self.news.notify_one();
    }

    /// Whether a replica is at work on the database. We are not one yet when this is asked.
    pub(super) async fn any_other(&self, database: &Database) -> Result<bool, StoreError> {
        let doing = "looking for other replicas";
        // Of an advisory lock by one number, the halves of it are shown in two columns.
        let sql = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1 \
            AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
            AND (classid::bigint << 32) | objid::bigint = $1 LIMIT 1";
        Ok(!database.query(doing, sql, &[&PRESENT]).await?.is_empty())
    }

    /// Does all of it for as long as it is polled.
    pub(super) async fn attend(
        &self,
        database: &Database,
        known: &KnownDirectory,
        news: &(impl Fn() + Sync),
    ) {
        tokio::join!(self.hear(database, known, news), self.say(database), forget(known));
    }

    async fn say(&self, database: &Database) -> Infallible {
        loop {
            self.news.notified().await;
            let sql = "SELECT pg_notify($1, 'steps')";
            // Lost, it makes others a little later, and that is all.
            drop(database.query("telling other replicas", sql, &[&CHANNEL]).await);
            tokio::time::sleep(APART).await;
        }
    }

    async fn hear(
        &self,
        database: &Database,
        known: &KnownDirectory,
        news: &(impl Fn() + Sync),
    ) -> Infallible {
        loop {
            let Err(error) = listen(database, known, news).await;
            tracing::warn!(
                error = format_args!("{error:#}"),
                "does not hear other replicas until the database can be reached again"
            );
            tokio::time::sleep(AFTER_FAILURE).await;
        }
    }
}

async fn listen(
    database: &Database,
    known: &KnownDirectory,
    news: &(impl Fn() + Sync),
) -> anyhow::Result<Infallible> {
    let mut generation = database.generation();
    let Dialled { client, mut messages } = database.dial().await?;
    let listening = async {
        let sql = format!("LISTEN {CHANNEL}; SELECT pg_advisory_lock_shared({PRESENT})");
        client.batch_execute(&sql).await?;
        // What was said before is lost.
        known.forget();
        news();
        pending().await
    };
    let hearing = async {
        loop {
            match messages.next().await {
                Some(Ok(AsyncMessage::Notification(it))) if it.payload() == DIRECTORY => {
                    known.forget();
                }
                Some(Ok(AsyncMessage::Notification(_))) => news(),
                Some(Ok(_)) => {}
                Some(Err(error)) => return error,
                // It ends without a word only where we have let go of it.
                None => pending().await,
            }
        }
    };
    tokio::select! {
        result = listening => result,
        error = hearing => Err(error.into()),
        // A server that is silent, or has become a standby, says nothing here either.
        _ = generation.changed() => anyhow::bail!("its other connections were given up on"),
    }
}

/// What another replica has changed may have gone unheard.
async fn forget(known: &KnownDirectory) -> Infallible {
    loop {
        tokio::time::sleep(KNOWN_FOR).await;
        known.forget();
    }
}
