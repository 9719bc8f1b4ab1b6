//! The contract of `store/mod.rs` as laws, each run against every backend.

mod alike;
mod audit;
mod blocked;
mod claiming;
mod destinations;
mod directory;
mod figures;
mod handshakes;
pub(crate) mod keeping;
mod resends;
mod sign_ins;
mod user_grants;

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use engagement_bridge::callback::{self, CallbackId};
use engagement_bridge::courier::FixedHeaders;
use engagement_bridge::lane::{self, Report};
use engagement_bridge::operation::{self, Answer, Decision, Event, Operation, Verdict, decide};
use engagement_bridge::store::memory::MemoryStore;
use engagement_bridge::store::postgres::{Address, PostgresStore};
use engagement_bridge::store::sqlite::SqliteStore;
use engagement_bridge::store::{
    Attempt, AuditLog, Change, Claimed, Commit, Committed, Directory, OwedCallback, Registered,
    Registration, Safe, Store, Work,
};
use engagement_bridge::vault::{MasterKey, Vault};
use jiff::Timestamp;

use crate::support::{self, NOON, caller, connection};
use crate::world::NoNames;

pub(crate) const LEASE: Duration = Duration::from_mins(1);

/// All of the contract.
pub(crate) trait Backend: Store + Directory + AuditLog {}
impl<T: Store + Directory + AuditLog> Backend for T {}

/// A backend with one caller, `contoso`, who has a connection of the same name.
pub(crate) struct Bench {
    store: Arc<dyn Backend>,
    pub(crate) safe: Arc<dyn Safe>,
    _directory: Option<tempfile::TempDir>,
}

impl Deref for Bench {
    type Target = dyn Backend;

    fn deref(&self) -> &Self::Target {
        self.store.as_ref()
    }
}

impl Bench {
    pub(crate) async fn memory() -> Self {
        Self::furnish(Arc::new(MemoryStore::new(lane::Policy::default())), None).await
    }

    pub(crate) async fn sqlite() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let vault = Vault::new(&MasterKey::generate().unwrap());
        let path = directory.path().join("bridge.db");
        let store = SqliteStore::open(&path, vault, lane::Policy::default()).unwrap();
        Self::furnish(Arc::new(store), Some(directory)).await
    }

    pub(crate) async fn postgres() -> Self {
        Self::postgres_at(&support::postgres::database()).await
    }

    /// On an empty database of PostgreSQL.
    pub(crate) async fn postgres_at(url: &str) -> Self {
        let address: Address = url.parse().unwrap();
        let tls = engagement_bridge::tls::client_config(None).unwrap();
        let vault = Vault::new(&MasterKey::generate().unwrap());
        let (names, lanes) = (Arc::new(NoNames), lane::Policy::default());
        let store = PostgresStore::open(&address, tls, names, vault, lanes).await.unwrap();
        Self::furnish(Arc::new(store), None).await
    }

    async fn furnish<S: Backend + Safe + 'static>(
        store: Arc<S>,
        directory: Option<tempfile::TempDir>,
    ) -> Self {
        let secret = support::SECRET.parse().unwrap();
        let contoso = caller("contoso");
        assert!(
            store.add_caller(&contoso, support::api_key("first"), &secret, NOON).await.unwrap()
        );
        let added = store.add_connection(&contoso, &connection("contoso"), NOON).await.unwrap();
        assert_eq!(added, Some(true));
        Self { safe: store.clone(), store, _directory: directory }
    }

    /// The store, for whoever holds it longer than this.
    pub(crate) fn store(&self) -> Arc<dyn Backend> {
        Arc::clone(&self.store)
    }

    pub(crate) async fn register_one(&self, registration: Registration) -> Registered {
        self.register(vec![registration]).await.unwrap().remove(0)
    }

    /// Registers operations that are to be kept.
    pub(crate) async fn keep(&self, registrations: impl IntoIterator<Item = Registration>) {
        for registered in self.register(registrations.into_iter().collect()).await.unwrap() {
            assert!(matches!(registered, Registered::New), "{registered:?}");
        }
    }

    pub(crate) async fn claim_at(&self, now: Timestamp, hands: usize) -> Vec<Claimed> {
        self.claim(now, LEASE, hands).await.unwrap()
    }

    pub(crate) async fn claim_one(&self, now: Timestamp) -> Claimed {
        let mut claimed = self.claim_at(now, 1).await;
        assert_eq!(claimed.len(), 1, "exactly one step is due");
        claimed.remove(0)
    }

    pub(crate) async fn commit_one(&self, commit: Commit) -> Committed {
        self.commit(Arc::new(vec![commit])).await.unwrap()[0]
    }

    /// Claims the only due step, a poll, and settles its operation as succeeded.
    pub(crate) async fn settle_one(&self, now: Timestamp) -> CallbackId {
        let commit = polled(self.claim_one(now).await, Answer::Finished(Verdict::Succeeded), now);
        let Change::Operation { owed: Some(owed), .. } = &commit.change else {
            panic!("a settled operation owes a callback");
        };
        let id = owed.callback.id;
        assert_eq!(self.commit_one(commit).await, Committed::Saved);
        id
    }
}

/// What the worker would commit after a poll that was answered like this.
pub(crate) fn polled(claimed: Claimed, answer: Answer, at: Timestamp) -> Commit {
    let Claimed { claim, work } = claimed;
    let Work::Poll { tracked, .. } = work else { panic!("expected a poll, not {work:?}") };
    let event = Event::Polled(answer);
    let change = decided(&tracked.operation, event, at);
    Commit { claim, change, report: Report::of_poll(event), at }
}

pub(crate) fn decided(operation: &Operation, event: Event, at: Timestamp) -> Change {
    match decide(&operation::Policy::default(), operation, event, at) {
        Decision::Become(after, owed) => {
            let id = CallbackId { operation: after.id, number: after.callbacks };
            let owed = owed.map(|owed| OwedCallback {
                callback: callback::owe(&callback::Policy::default(), id, at),
                owed,
                headers: FixedHeaders::from("content-type: application/json\nx: a: b\n".to_owned()),
                body: support::body("{\"it\":\"is told\"}"),
            });
            Change::Operation { after, body: Some(support::body("{\"id\":\"x\"}")), owed }
        }
        Decision::Ignore(_) => Change::HandBack,
    }
}

/// What the worker would commit after an attempt that was answered like this.
pub(crate) fn attempted(claimed: Claimed, reply: callback::Reply, at: Timestamp) -> Commit {
    let Claimed { claim, work } = claimed;
    let Work::Attempt(message) = work else { panic!("expected an attempt, not {work:?}") };
    let event = callback::Event::Attempted(reply);
    let decision = callback::decide(&callback::Policy::default(), &message.callback, event, at);
    let callback::Decision::Become(after) = decision else { panic!("an attempt always counts") };
    let attempt = Attempt {
        number: after.attempts,
        at,
        took_ms: 12,
        status: Some(200),
        failure: None,
        detail: None,
        answer: support::body("fine"),
    };
    let destination_gone = event.destination() == Some(callback::Destination::Gone);
    let change = Change::Callback { after, attempt: Some(attempt), destination_gone };
    Commit { claim, change, report: Report::of_attempt(reply), at }
}

/// Makes each law a test of each backend.
macro_rules! laws {
    ($($law:ident),* $(,)?) => {
        mod memory {
            $(#[tokio::test]
            async fn $law() {
                super::$law(&crate::contract::Bench::memory().await).await;
            })*
        }
        mod sqlite {
            $(#[tokio::test]
            async fn $law() {
                super::$law(&crate::contract::Bench::sqlite().await).await;
            })*
        }
        mod postgres {
            $(#[tokio::test]
            async fn $law() {
                super::$law(&crate::contract::Bench::postgres().await).await;
            })*
        }
    };
}
pub(crate) use laws;
