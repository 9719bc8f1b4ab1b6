//! A store whose calls fail as the plan says, between the workers and the real one.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use async_trait::async_trait;
use engagement_bridge::callback::{CallbackId, State};
use engagement_bridge::graph::Connection;
use engagement_bridge::lane::LaneName;
use engagement_bridge::operation::OperationId;
use engagement_bridge::store::{
    Advance, Advanced, Amended, Amendment, Asked, Attempt, Batch, CallbackFilter, CallerName,
    Census, Change, Claimed, Commit, Committed, Figures, Forgotten, GoneDestination, Handshake,
    OperationFilter, Page, Purged, Registered, Registration, Resend, ResendChange, ResendId, Store,
    StoreError, StoredCallback, Tracked, UserGrants, Waking,
};
use jiff::Timestamp;
use secrecy::SecretString;
use tokio::runtime::Runtime;

use super::outside::{Outside, number_in};
use super::plan::Fault;
use crate::contract::Backend;
use crate::support::caller;

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
impl UserGrants for Unreliable {
    async fn keep_user(
        &self,
        caller: &CallerName,
        connection: &Connection,
    ) -> Result<bool, StoreError> {
        self.inner.keep_user(caller, connection).await
    }

    async fn renew_user(
        &self,
        caller: &CallerName,
        name: &str,
        signed_in_at: Timestamp,
        refresh_token: &SecretString,
    ) -> Result<bool, StoreError> {
        self.inner.renew_user(caller, name, signed_in_at, refresh_token).await
    }

    async fn forget_users(&self, before: Timestamp, limit: u32) -> Result<u32, StoreError> {
        self.inner.forget_users(before, limit).await
    }
}

#[async_trait]
impl Census for Unreliable {
    async fn figures(&self, at: Timestamp) -> Result<Figures, StoreError> {
        now(self.inner.figures(at))
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
        let is_resend = matches!(amendment, Amendment::Callback { .. });
        let asked_for = match &amendment {
            Amendment::Operation { owed, .. } => owed.as_ref().map(|owed| owed.callback.id),
            Amendment::Callback { after, .. } => Some(after.id),
        };
        let amend = async {
            let amended = self.inner.amend(amendment).await?;
            if let (Amended::Saved, Some(id)) = (amended, asked_for) {
                if is_resend && let Some(stored) = self.inner.callback(id).await? {
                    self.outside.resent(None, id, number_in(&stored.url));
                } else {
                    self.outside.owed(id);
                }
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

    async fn latest_attempts(
        &self,
        ids: Vec<CallbackId>,
    ) -> Result<HashMap<CallbackId, Attempt>, StoreError> {
        now(self.inner.latest_attempts(ids))
    }

    async fn ask_resend(&self, resend: Resend, live_limit: u32) -> Result<Asked, StoreError> {
        let ask = async {
            let (wanted, asked_at) = (resend.wanted.rest.as_str(), resend.asked_at);
            let asked = self.inner.ask_resend(resend, live_limit).await?;
            if let Asked::Begun(begun) = &asked {
                let page = Page { after: None, limit: 1_000 };
                let filter = CallbackFilter { state: Some(wanted), ..Default::default() };
                let there = self.inner.callbacks(&caller("contoso"), filter, page).await?;
                let is_wanted =
                    |it: &&StoredCallback| it.callback.state.rested_at() < Some(asked_at);
                let wanted = there.iter().filter(is_wanted).map(|it| it.callback.id);
                self.outside.bulk(begun.id, wanted.collect());
            }
            Ok(asked)
        };
        self.befall("ask for a bulk resend", ask).await
    }

    async fn resend(&self, id: ResendId) -> Result<Option<Resend>, StoreError> {
        now(self.inner.resend(id))
    }

    async fn resends(
        &self,
        asked_by: Option<&CallerName>,
        page: Page<ResendId>,
    ) -> Result<Vec<Resend>, StoreError> {
        now(self.inner.resends(asked_by, page))
    }

    async fn resends_under_way(&self, limit: u32) -> Result<Vec<Resend>, StoreError> {
        now(self.inner.resends_under_way(limit))
    }

    async fn resend_batch(
        &self,
        resend: &Resend,
        limit: u32,
        at: Timestamp,
        crowd: u32,
    ) -> Result<Batch, StoreError> {
        // Few at a time, so that a handful is a walk.
        now(self.inner.resend_batch(resend, limit.min(2), at, crowd))
    }

    async fn advance_resend(&self, advance: Arc<Advance>) -> Result<Advanced, StoreError> {
        let (id, changes) = (advance.id, advance.changes.clone());
        let go_on = async {
            let advanced = self.inner.advance_resend(advance).await?;
            if let Advanced::Saved { .. } = advanced {
                let asked_at = self.inner.resend(id).await?.map(|it| it.asked_at);
                for ResendChange { before, after } in changes {
                    assert!(before.state.rested_at() < asked_at, "{id} met {before:?}");
                    let stored = self.inner.callback(after.id).await?;
                    if let Some(stored) = stored.filter(|it| it.callback == after) {
                        self.outside.resent(Some(id), after.id, number_in(&stored.url));
                    }
                }
            }
            Ok(advanced)
        };
        let advanced = self.befall("advance a bulk resend", go_on).await?;
        self.outside.note(&format!("{}: {id}: {advanced:?}", self.name));
        Ok(advanced)
    }

    async fn gone_destinations(
        &self,
        caller: &CallerName,
        page: Page<String>,
    ) -> Result<Vec<GoneDestination>, StoreError> {
        now(self.inner.gone_destinations(caller, page))
    }

    async fn ask_waking(&self, waking: Waking) -> Result<(), StoreError> {
        self.befall("ask for waking", self.inner.ask_waking(waking)).await
    }

    async fn wakings(&self, limit: u32) -> Result<Vec<Waking>, StoreError> {
        now(self.inner.wakings(limit))
    }

    async fn finish_waking(&self, waking: &Waking) -> Result<(), StoreError> {
        self.befall("finish a waking", self.inner.finish_waking(waking)).await
    }

    async fn bring_back(&self, caller: &CallerName, url: &str) -> Result<bool, StoreError> {
        let bring_back = async {
            let was_gone = self.inner.bring_back(caller, url).await?;
            self.outside.brought_back(number_in(url));
            Ok(was_gone)
        };
        self.befall("bring a destination back", bring_back).await
    }

    async fn purge(&self, before: Timestamp, limit: u32) -> Result<Purged, StoreError> {
        now(self.inner.purge(before, limit))
    }

    async fn handshake(&self, lane: &LaneName) -> Result<Option<Handshake>, StoreError> {
        now(self.inner.handshake(lane))
    }

    async fn keep_handshake(
        &self,
        lane: &LaneName,
        handshake: Handshake,
    ) -> Result<(), StoreError> {
        now(self.inner.keep_handshake(lane, handshake))
    }

    async fn forget_handshakes(&self, before: Timestamp, limit: u32) -> Result<u32, StoreError> {
        now(self.inner.forget_handshakes(before, limit))
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
