//! A store whose calls fail as the plan says, between the workers and the real one.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use async_trait::async_trait;
use engagement_bridge::callback::{CallbackId, State};
use engagement_bridge::operation::OperationId;
use engagement_bridge::store::{
    Amended, Amendment, Attempt, CallbackFilter, CallerName, Change, Claimed, Commit, Committed,
    Forgotten, OperationFilter, Page, Registered, Registration, Store, StoreError, StoredCallback,
    Tracked,
};
use jiff::Timestamp;
use tokio::runtime::Runtime;

use super::outside::Outside;
use super::plan::Fault;
use crate::contract::Backend;

pub(crate) struct Unreliable {
    pub(crate) inner: Arc<dyn Backend>,
    pub(crate) outside: Arc<Outside>,
    /// Who calls, for the log.
    pub(crate) name: &'static str,
}

/// Where databases do what goes on by itself: in real time, whatever happens to a simulated process.
static ELSEWHERE: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
});

/// Does `work` here and now.
///
/// A database works in threads of its own and in real time, while simulated time jumps whenever
/// nobody is busy. So nothing else happens meanwhile, and the same plan is the same story.
pub(crate) fn now<T>(work: impl Future<Output = T>) -> T {
    let _elsewhere = ELSEWHERE.enter();
    futures_executor::block_on(work)
}

impl Unreliable {
    async fn befall<T>(
        &self,
        what: &str,
        work: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let fault = self.outside.next_fault();
        if fault != Fault::Nothing {
            self.outside.note(&format!("{}: {what}: {fault:?}", self.name));
        }
        let lost = || StoreError::Unavailable(anyhow::anyhow!("by the plan"));
        let stall = |seconds: u16| tokio::time::sleep(Duration::from_secs(seconds.into()));
        // Within the call, time is the database's own, and no simulated one.
        let done = |work| {
            self.outside.calls_store();
            now(work)
        };
        match fault {
            Fault::Nothing => done(work),
            Fault::Refused => Err(lost()),
            Fault::ReplyLost => done(work).and_then(|_| Err(lost())),
            Fault::StalledBefore(seconds) => {
                stall(seconds).await;
                done(work)
            }
            Fault::StalledAfter(seconds) => {
                let done = done(work);
                stall(seconds).await;
                done
            }
        }
    }
}

impl Unreliable {
    /// Takes down what was written, whether or not anybody learns of it.
    fn record(&self, commits: &[Commit], committed: &[Committed]) {
        for (Commit { change, .. }, committed) in commits.iter().zip(committed) {
            match (committed, change) {
                (Committed::Saved, Change::Operation { owed: Some(owed), .. }) => {
                    self.outside.owed(owed.callback.id);
                }
                (Committed::Saved, Change::Callback { after, .. }) => {
                    if let State::Undeliverable { .. } = after.state {
                        self.outside.given_up(after.id);
                    }
                }
                _ => {}
            }
        }
    }
}

#[async_trait]
impl Store for Unreliable {
    async fn register(
        &self,
        registrations: Vec<Registration>,
    ) -> Result<Vec<Registered>, StoreError> {
        self.befall("register", self.inner.register(registrations)).await
    }

    async fn claim(
        &self,
        at: Timestamp,
        lease: Duration,
        hands: usize,
    ) -> Result<Vec<Claimed>, StoreError> {
        let claimed = self.befall("claim", self.inner.claim(at, lease, hands)).await?;
        for Claimed { claim, .. } in &claimed {
            self.outside.note(&format!("{}: claimed {}", self.name, claim.step));
        }
        Ok(claimed)
    }

    async fn commit(&self, commits: Arc<Vec<Commit>>) -> Result<Vec<Committed>, StoreError> {
        let steps: Vec<_> = commits.iter().map(|it| it.claim.step).collect();
        let commit = async {
            let committed = self.inner.commit(Arc::clone(&commits)).await?;
            self.record(&commits, &committed);
            Ok(committed)
        };
        let committed = self.befall("commit", commit).await?;
        for (step, committed) in steps.iter().zip(&committed) {
            self.outside.note(&format!("{}: {step}: {committed:?}", self.name));
        }
        Ok(committed)
    }

    async fn amend(&self, amendment: Amendment) -> Result<Amended, StoreError> {
        let asked_for = match &amendment {
            Amendment::Operation { owed, .. } => owed.as_ref().map(|owed| owed.callback.id),
            Amendment::Callback { after, .. } => Some(after.id),
        };
        let amend = async {
            let amended = self.inner.amend(amendment).await?;
            if let (Amended::Saved, Some(id)) = (amended, asked_for) {
                self.outside.owed(id);
            }
            Ok(amended)
        };
        self.befall("amend", amend).await
    }

    async fn next_due(&self) -> Result<Option<Timestamp>, StoreError> {
        now(self.inner.next_due())
    }

    async fn rest_graph_lanes(&self, until: Timestamp) -> Result<(), StoreError> {
        now(self.inner.rest_graph_lanes(until))
    }

    async fn operation(&self, id: OperationId) -> Result<Option<Tracked>, StoreError> {
        now(self.inner.operation(id))
    }

    async fn operations(
        &self,
        caller: &CallerName,
        filter: OperationFilter,
        page: Page<OperationId>,
    ) -> Result<Vec<Tracked>, StoreError> {
        now(self.inner.operations(caller, filter, page))
    }

    async fn callback(&self, id: CallbackId) -> Result<Option<StoredCallback>, StoreError> {
        now(self.inner.callback(id))
    }

    async fn callbacks(
        &self,
        caller: &CallerName,
        filter: CallbackFilter,
        page: Page<CallbackId>,
    ) -> Result<Vec<StoredCallback>, StoreError> {
        now(self.inner.callbacks(caller, filter, page))
    }

    async fn attempts(&self, id: CallbackId, limit: u32) -> Result<Vec<Attempt>, StoreError> {
        now(self.inner.attempts(id, limit))
    }

    async fn forget(
        &self,
        before: Timestamp,
        keys_before: Timestamp,
        at: Timestamp,
        limit: u32,
    ) -> Result<Forgotten, StoreError> {
        now(self.inner.forget(before, keys_before, at, limit))
    }
}
