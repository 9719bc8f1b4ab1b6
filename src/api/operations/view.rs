//! An operation as callers see it.

use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::api::words::{Format, Notice};
use crate::callback::CallbackId;
use crate::graph::User;
use crate::operation::{Agenda, Outcome, Refusal, RunningNotice, State};
use crate::store::{Attempt, Identity, StoredCallback, Tracked};

/// An operation, and where it stands.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Operation)]
#[serde(rename_all = "camelCase")]
pub(in crate::api) struct OperationView {
    #[schema(example = "op_019a2b3c4d5e6f708192a3b4c5d6e7f8", pattern = "^op_[0-9a-f]{32}$")]
    id: String,
    /// `watching`, `blocked` (until you bring a credential), `settled` or `cancelled`.
    state: &'static str,
    /// Once settled: `succeeded`, `failed` or `skipped` in Graph's words; `expired`, `notFound`,
    /// `gone`, `unauthorized` or `rejected` where Graph never told.
    outcome: Option<&'static str>,
    /// Where it ended as `unauthorized`: why there was no credential, as in `blocked`.
    reason: Option<&'static str>,
    /// The operation's path at Graph, as it is polled.
    operation: String,
    callback_url: String,
    client_state: Option<String>,
    /// What the callback's body looks like.
    format: Format,
    /// What you hear of besides the end, and besides that a credential is needed.
    notify: Vec<Notice>,
    /// Whether its callbacks are signed with a `callbackSecret` of its own.
    has_callback_secret: bool,
    /// The connection that Graph is asked by; null where a token was handed in, or it is in a user's name.
    connection: Option<String>,
    /// The object id of the user in whose name Graph is asked; null where it is in none's.
    on_behalf_of: Option<String>,
    /// When the token that was handed in expires.
    token_expires_at: Option<String>,
    registered_at: String,
    /// When it ends as `expired`, if Graph has not told by then.
    deadline: String,
    /// How often Graph has been asked.
    #[schema(minimum = 0)]
    polls: u32,
    /// What happens next by itself; null at rest.
    next_step: Option<NextStep>,
    /// While blocked: why Graph is not asked.
    blocked: Option<Blocked>,
    /// The operation as Graph last sent it, byte for byte; null also once the operator's time for
    /// bodies is over.
    #[schema(value_type = Option<Object>)]
    data: Option<Box<RawValue>>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct NextStep {
    /// `poll`; `remind` when you are told again that a credential is needed; or `end` when nothing but
    /// the deadline is left.
    action: &'static str,
    /// The earliest time for it.
    at: String,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Blocked {
    /// `unauthorized`, `forbidden`, `tokenExpired`, `grantRefused` or `clientRefused`.
    reason: &'static str,
    /// What that means, and what to do about it.
    detail: &'static str,
    since: String,
    /// When it ends as `unauthorized`, unless a credential comes.
    until: String,
}

/// An operation with the callbacks that it has owed.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OperationWithCallbacks)]
pub(in crate::api) struct DetailedView {
    #[serde(flatten)]
    operation: OperationView,
    /// Newest first.
    callbacks: Vec<CallbackView>,
}

/// One message owed to the receiver.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Callback)]
#[serde(rename_all = "camelCase")]
pub(in crate::api) struct CallbackView {
    /// Its `webhook-id` in every attempt.
    #[schema(example = "msg_019a2b3c4d5e6f708192a3b4c5d6e7f8_1")]
    id: String,
    operation: String,
    /// An outcome, `credentialNeeded` or `running`.
    about: String,
    /// `pending`, `delivered` or `undeliverable`.
    state: &'static str,
    /// While undeliverable: `gone`, `addressRefused` (the operator's rules are against its URL, and
    /// the `failure` of the last attempt says which), `attemptsSpent` or `tooOld`.
    reason: Option<&'static str>,
    url: String,
    owed_at: String,
    #[schema(minimum = 0)]
    attempts_made: u32,
    /// While pending: the earliest time of the next attempt.
    next_attempt_at: Option<String>,
    /// Since when it has been delivered or undeliverable.
    at_rest_since: Option<String>,
    /// The latest attempts, oldest first; left out in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    attempts: Option<Vec<AttemptView>>,
    /// The latest attempt, in lists only, with the first 256 bytes of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_attempt: Option<AttemptView>,
}

/// Bytes of an answer that are shown in a list.
const ANSWER_IN_LISTS: usize = 256;

/// One POST of a callback.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Attempt)]
#[serde(rename_all = "camelCase")]
struct AttemptView {
    /// Counted from 1 over the callback's whole life.
    #[schema(minimum = 1)]
    number: u32,
    at: String,
    #[schema(minimum = 0)]
    took_ms: u64,
    /// What the receiver answered, if it did.
    #[schema(minimum = 100, maximum = 999)]
    status: Option<u16>,
    /// What went wrong, where no answer came or not all of it. No connection: `nameNotResolved`,
    /// `connectRefused`, `connectUnreachable`, `connectFailed`, `proxyFailed`. None that is secure:
    /// `tlsCertificateExpired`, `tlsCertificateNotYetValid`, `tlsWrongName`, `tlsUnknownIssuer`,
    /// `tlsNoCommonVersion`, `tlsFailed`. Not in time, and what it was that took too long:
    /// `timedOutResolving`, `timedOutConnecting`, `timedOutSecuring`, `timedOutSending`,
    /// `timedOutWaiting` (for the headers of the answer), `timedOutReading`. No answer, or not all of
    /// it: `resetByReceiver`, `closedEarly`, `answerMalformed`, `answerTooLarge`. Or where nothing was
    /// sent, why the URL is refused: a code of `callbackUrl`. New ones may come.
    failure: Option<String>,
    detail: Option<String>,
    /// The first 4 KiB of the answer, as text.
    answer: String,
}

impl OperationView {
    pub(super) fn of(tracked: &Tracked) -> Self {
        let operation = &tracked.operation;
        let Agenda { step_at, lapse_at } = operation.agenda();
        let lapse = if operation.state.next_reminder().is_some() { "remind" } else { "end" };
        let next = step_at.map(|at| ("poll", at)).or(lapse_at.map(|at| (lapse, at)));
        let on_behalf_of = match &tracked.identity {
            Identity::Connection(name) => User::of_connection(name).map(|user| user.object_id),
            Identity::HandedIn { .. } => None,
        };
        let (connection, token_expires_at) = match &tracked.identity {
            Identity::Connection(name) if User::of_connection(name).is_some() => (None, None),
            Identity::Connection(name) => (Some(name.clone()), None),
            Identity::HandedIn { expires_at } => (None, Some(expires_at.to_string())),
        };
        let blocked = match operation.state {
            State::Blocked { refusal, since, until, .. } => Some(Blocked {
                reason: refusal.as_str(),
                detail: explained(refusal),
                since: since.to_string(),
                until: until.to_string(),
            }),
            State::Watching(_) | State::Settled { .. } | State::Cancelled { .. } => None,
        };
        Self {
            id: operation.id.to_string(),
            state: operation.state.as_str(),
            outcome: operation.outcome().map(Outcome::as_str),
            reason: operation.outcome().and(operation.state.refusal()).map(Refusal::as_str),
            operation: tracked.reference.path(),
            callback_url: tracked.callback_url.clone(),
            client_state: tracked.client_state.clone(),
            format: tracked.format.into(),
            notify: match operation.running {
                RunningNotice::Unwanted => Vec::new(),
                RunningNotice::Wanted | RunningNotice::Owed => vec![Notice::Running],
            },
            has_callback_secret: tracked.has_callback_secret,
            connection,
            on_behalf_of,
            token_expires_at,
            registered_at: operation.registered_at.to_string(),
            deadline: operation.deadline.to_string(),
            polls: operation.polls,
            next_step: next.map(|(action, at)| NextStep { action, at: at.to_string() }),
            blocked,
            data: tracked.last_body.as_deref().and_then(raw),
        }
    }
}

impl DetailedView {
    pub(super) fn of(tracked: &Tracked, callbacks: Vec<CallbackView>) -> Self {
        Self { operation: OperationView::of(tracked), callbacks }
    }
}

impl CallbackView {
    pub(in crate::api) fn of(stored: &StoredCallback, attempts: Option<&[Attempt]>) -> Self {
        let callback = &stored.callback;
        let reason = match callback.state {
            crate::callback::State::Undeliverable { reason, .. } => Some(reason.as_str()),
            crate::callback::State::Pending { .. } | crate::callback::State::Delivered { .. } => {
                None
            }
        };
        let CallbackId { operation, .. } = callback.id;
        Self {
            id: callback.id.to_string(),
            operation: operation.to_string(),
            about: stored.notice.0.clone(),
            state: callback.state.as_str(),
            reason,
            url: stored.url.clone(),
            owed_at: callback.owed_at.to_string(),
            attempts_made: callback.attempts,
            next_attempt_at: callback.state.agenda().step_at.map(|at| at.to_string()),
            at_rest_since: callback.state.rested_at().map(|at| at.to_string()),
            attempts: attempts.map(|them| them.iter().map(AttemptView::of).collect()),
            last_attempt: None,
        }
    }

    /// As one of many.
    pub(in crate::api) fn listed(stored: &StoredCallback, latest: Option<&Attempt>) -> Self {
        let shortened = latest.map(|latest| {
            let shown = latest.answer.len().min(ANSWER_IN_LISTS);
            AttemptView::of(&Attempt { answer: latest.answer.slice(..shown), ..latest.clone() })
        });
        Self { last_attempt: shortened, ..Self::of(stored, None) }
    }
}

impl AttemptView {
    fn of(attempt: &Attempt) -> Self {
        Self {
            number: attempt.number,
            at: attempt.at.to_string(),
            took_ms: attempt.took_ms,
            status: attempt.status,
            failure: attempt.failure.clone(),
            detail: attempt.detail.clone(),
            answer: String::from_utf8_lossy(&attempt.answer).into_owned(),
        }
    }
}

/// What a refusal means to a caller.
fn explained(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::Unauthorized => {
            "Graph answers 401, also to a fresh token: bring another token, or repair the connection."
        }
        Refusal::Forbidden => {
            "Graph answers 403: the permission Community.Read.All, a licence or an administrator's \
             consent is missing, or conditional access is in the way."
        }
        Refusal::TokenExpired => "The token that was handed in has expired: bring a fresh one.",
        Refusal::GrantRefused => {
            "Entra refuses a token until the user or an administrator has acted: sign in again, give \
             consent, or bring another credential."
        }
        Refusal::ClientRefused => {
            "Entra refuses the app registration: its secret is wrong or has expired, or it may not ask \
             for this. Repair the connection."
        }
    }
}

/// Stored bytes as they are, not as we would write them.
fn raw(bytes: &[u8]) -> Option<Box<RawValue>> {
    serde_json::from_slice(bytes).ok()
}
