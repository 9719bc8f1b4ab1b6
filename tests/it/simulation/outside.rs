//! What is outside of the bridge: time, Graph and the receivers, each by its plan, with a record of
//! what came to them. It outlives the process.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use engagement_bridge::callback::{CallbackId, Reply};
use engagement_bridge::clock::{Clock, Steady};
use engagement_bridge::courier::egress::RefusalCode;
use engagement_bridge::courier::{self, Courier, FixedHeaders, Parcel, Receipt};
use engagement_bridge::graph::{Credential, Graph, Inquiry, Poll};
use engagement_bridge::operation::{
    self, Event, Hindrance, OperationId, Refusal, Renewal, Verdict,
};
use engagement_bridge::store::ResendId;
use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use super::plan::{Answer, Delay, End, Fault, OperationPlan, Plan};
use super::plan::{Identity, Reply as Planned};
use crate::support::NOON;

/// As in the real clients.
const POLL_DEADLINE: Duration = Duration::from_secs(25);
const ATTEMPT_DEADLINE: Duration = Duration::from_secs(20);

/// Everything that outlives the process, but for the store.
pub(crate) struct Outside {
    pub(crate) plan: Plan,
    /// How long the world had been there when this life began, and when that was.
    life: Mutex<(Duration, Instant)>,
    /// By how much the machine's clock is wrong.
    clock_is_off_by_ms: AtomicI64,
    /// How many faults of the plan have been used up.
    faults_used: Mutex<usize>,
    pub(crate) record: Mutex<Record>,
}

/// What came to pass, in true time.
#[derive(Default)]
pub(crate) struct Record {
    log: String,
    pub(crate) polls: Vec<RecordedPoll>,
    pub(crate) attempts: Vec<RecordedAttempt>,
    polls_begun: Vec<usize>,
    polls_arrived: Vec<usize>,
    attempts_begun: Vec<usize>,
    in_flight: Vec<usize>,
    store_called_at: Duration,
    /// When an operation's first poll began, whether or not it ever reached Graph.
    pub(crate) first_polled: BTreeMap<OperationId, Duration>,
    /// When callbacks were owed, or a resend of theirs was asked for, last; in true time.
    pub(crate) owed_since: BTreeMap<CallbackId, Duration>,
    /// When they were given up, last; in true time.
    pub(crate) given_up: BTreeMap<CallbackId, Duration>,
    /// Bulk resends, with what was to be sent again when they were asked for, and how much had been
    /// sent again until then.
    pub(crate) bulks: BTreeMap<ResendId, (Vec<CallbackId>, usize)>,
    /// Callbacks that were sent again by a wish, in their order: of a bulk resend, or for each alone.
    pub(crate) resent: Vec<(Option<ResendId>, CallbackId)>,
    /// When destinations were brought back, by a wish of their own or for a callback to go there.
    pub(crate) brought_back: Vec<(usize, Duration)>,
}

/// A poll that arrived at Graph.
#[derive(Clone, Debug)]
pub(crate) struct RecordedPoll {
    pub(crate) operation: OperationId,
    pub(crate) lane: String,
    pub(crate) begun_at: Duration,
    pub(crate) arrived_at: Duration,
    /// What Graph meant, whether or not that ever came back.
    pub(crate) answer: operation::Answer,
    /// When it came back.
    pub(crate) answered_at: Option<Duration>,
}

/// An attempt that began.
#[derive(Clone, Debug)]
pub(crate) struct RecordedAttempt {
    pub(crate) id: CallbackId,
    pub(crate) headers: FixedHeaders,
    pub(crate) body: Bytes,
    pub(crate) begun_at: Duration,
    /// Whether the receiver has it now, whatever it said.
    pub(crate) taken: bool,
    /// What the bridge saw of it, unless it was killed first.
    pub(crate) reply: Option<Reply>,
    /// How many attempts were in flight to this receiver, this one included.
    pub(crate) in_flight: usize,
    pub(crate) receiver: usize,
    /// When the bridge saw the answer.
    pub(crate) answered_at: Option<Duration>,
}

impl Outside {
    pub(crate) fn new(plan: Plan) -> Arc<Self> {
        let (operations, receivers) = (plan.operations.len(), plan.receivers.len());
        let record = Record {
            polls_begun: vec![0; operations],
            polls_arrived: vec![0; operations],
            attempts_begun: vec![0; receivers],
            in_flight: vec![0; receivers],
            ..Record::default()
        };
        Arc::new(Self {
            plan,
            life: Mutex::new((Duration::ZERO, Instant::now())),
            clock_is_off_by_ms: AtomicI64::new(0),
            faults_used: Mutex::new(0),
            record: Mutex::new(record),
        })
    }

    /// Begins a life of the process, so long after noon.
    pub(crate) fn begin_life(&self, elapsed: Duration) {
        *self.life.lock().unwrap() = (elapsed, Instant::now());
        self.record.lock().unwrap().in_flight.fill(0);
        self.note("the process starts");
    }

    /// True time since noon.
    pub(crate) fn elapsed(&self) -> Duration {
        let (before, began) = *self.life.lock().unwrap();
        before + began.elapsed()
    }

    /// When it will be so late, by the clock that this life sleeps by.
    pub(crate) fn instant(&self, elapsed: Duration) -> Instant {
        let (before, began) = *self.life.lock().unwrap();
        began + elapsed.saturating_sub(before)
    }

    pub(crate) fn set_clock(&self, by: SignedDuration) {
        let by = i64::try_from(by.as_millis()).unwrap();
        self.clock_is_off_by_ms.fetch_add(by, Ordering::SeqCst);
        self.note(&format!("somebody sets the clock by {by} ms"));
    }

    /// What befalls the next call of the store.
    pub(crate) fn next_fault(&self) -> Fault {
        let mut used = self.faults_used.lock().unwrap();
        let fault = self.plan.store.get(*used).copied().unwrap_or(Fault::Nothing);
        *used += 1;
        fault
    }

    pub(crate) fn calls_of_store(&self) -> usize {
        *self.faults_used.lock().unwrap()
    }

    /// A call of the store begins, and takes no time.
    pub(crate) fn calls_store(&self) {
        let at = self.elapsed();
        self.record.lock().unwrap().store_called_at = at;
    }

    /// The call that has begun owes this.
    pub(crate) fn owed(&self, id: CallbackId) {
        let mut record = self.record.lock().unwrap();
        let at = record.store_called_at;
        record.owed_since.insert(id, at);
    }

    /// The call that has begun gives this up.
    pub(crate) fn given_up(&self, id: CallbackId) {
        let mut record = self.record.lock().unwrap();
        let at = record.store_called_at;
        record.given_up.insert(id, at);
    }

    /// The call that has begun lets callbacks go to this receiver again.
    pub(crate) fn brought_back(&self, receiver: usize) {
        let mut record = self.record.lock().unwrap();
        let at = record.store_called_at;
        record.brought_back.push((receiver, at));
    }

    /// A bulk resend is kept, by which these are to be sent again.
    pub(crate) fn bulk(&self, id: ResendId, wanted: Vec<CallbackId>) {
        let mut record = self.record.lock().unwrap();
        let before = record.resent.len();
        record.bulks.insert(id, (wanted, before));
    }

    /// The call that has begun sends this again, to this receiver.
    pub(crate) fn resent(&self, by: Option<ResendId>, id: CallbackId, receiver: usize) {
        self.owed(id);
        self.brought_back(receiver);
        self.record.lock().unwrap().resent.push((by, id));
    }

    pub(crate) fn note(&self, what: &str) {
        let at = self.elapsed();
        writeln!(self.record.lock().unwrap().log, "{:>12.3}  {what}", at.as_secs_f64()).unwrap();
    }

    pub(crate) fn log(&self) -> String {
        self.record.lock().unwrap().log.clone()
    }
}

/// The clock of one life: the machine's, made steady as in production.
pub(crate) struct SimulatedClock {
    outside: Arc<Outside>,
    steady: Mutex<(Steady, Duration)>,
}

impl SimulatedClock {
    pub(crate) fn start(outside: Arc<Outside>) -> Self {
        let clock = Self { steady: Mutex::new((Steady::begin(NOON), Duration::ZERO)), outside };
        *clock.steady.lock().unwrap() = (Steady::begin(clock.wall()), clock.outside.elapsed());
        clock
    }
}

impl Clock for SimulatedClock {
    fn now(&self) -> Timestamp {
        let (at, wall) = (self.outside.elapsed(), self.wall());
        let mut told = self.steady.lock().unwrap();
        let (steady, before) = &mut *told;
        let now = steady.follow(at.saturating_sub(*before), wall);
        *before = at;
        Timestamp::from_millisecond(now.as_millisecond()).unwrap()
    }

    fn wall(&self) -> Timestamp {
        let off = self.outside.clock_is_off_by_ms.load(Ordering::SeqCst);
        NOON + self.outside.elapsed() + SignedDuration::from_millis(off)
    }
}

/// What an operation's plan means, poll by poll.
impl OperationPlan {
    fn answer(&self, poll: usize) -> Answer {
        self.answers.get(poll).map_or(Answer::Running { retry_after: None }, |(answer, _)| *answer)
    }

    fn delay(&self, poll: usize) -> Delay {
        self.answers.get(poll).map(|(_, delay)| *delay).unwrap_or_default()
    }

    fn meaning(&self, poll: usize) -> operation::Answer {
        use operation::Answer as Meaning;
        let seconds = |wait: Option<u16>| wait.map(|it| Duration::from_secs(it.into()));
        let renewal = match self.identity {
            Identity::Connection => Renewal::Possible,
            Identity::HandedInToken => Renewal::Impossible,
        };
        if poll < self.answers.len() {
            return match self.answer(poll) {
                // A script that sends no poll has none to answer.
                Answer::NoToken => Meaning::StillRunning { retry_after: None },
                Answer::Running { retry_after } => {
                    Meaning::StillRunning { retry_after: seconds(retry_after) }
                }
                Answer::NotStarted => Meaning::Undecided { retry_after: None },
                Answer::Throttled { retry_after } => {
                    Meaning::Throttled { retry_after: seconds(retry_after) }
                }
                Answer::Trouble { retry_after } => {
                    Meaning::Trouble { retry_after: seconds(retry_after) }
                }
                Answer::Rejected => Meaning::Rejected,
                Answer::Missing => Meaning::Missing,
                Answer::Unauthorized => {
                    Meaning::CredentialRefused { refusal: Refusal::Unauthorized, renewal }
                }
            };
        }
        match self.end {
            End::Finishes(verdict) => Meaning::Finished(verdict),
            End::Goes => Meaning::Gone,
            End::StaysRunning => Meaning::StillRunning { retry_after: None },
            End::StaysMissing => Meaning::Missing,
            End::StaysRejected => Meaning::Rejected,
            End::StaysForbidden => {
                Meaning::CredentialRefused { refusal: Refusal::Forbidden, renewal }
            }
        }
    }
}

/// The bridge's way out, in one life of the process.
pub(crate) struct WayOut {
    pub(crate) outside: Arc<Outside>,
    pub(crate) clock: Arc<SimulatedClock>,
}

/// Which operation of the plan has this id at Graph.
pub(crate) fn graph_id(operation: usize) -> String {
    format!("graph-{operation}")
}

pub(crate) fn receiver_url(receiver: usize) -> String {
    format!("https://receiver-{receiver}.example/hooks")
}

pub(crate) fn receiver_origin(receiver: usize) -> String {
    format!("https://receiver-{receiver}.example:443")
}

/// The number in `graph-7` or `https://receiver-7.example/hooks`.
pub(crate) fn number_in(text: &str) -> usize {
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    digits.parse().unwrap()
}

#[async_trait]
impl Graph for WayOut {
    async fn poll(&self, inquiry: Inquiry) -> Poll {
        let outside = &self.outside;
        let operation = number_in(&inquiry.reference.id);
        let plan = &outside.plan.operations[operation];
        let begun_at = outside.elapsed();
        let turn = next(&mut outside.record.lock().unwrap().polls_begun[operation]);
        let unpolled =
            |hindrance| Poll { event: Event::Unpolled(hindrance), body: None, renewed: None };
        if matches!(plan.answer(turn), Answer::NoToken) && turn < plan.answers.len() {
            outside.note(&format!("{}: no token", inquiry.operation));
            return unpolled(Hindrance::Refused(Refusal::ClientRefused));
        }
        outside.record.lock().unwrap().first_polled.entry(inquiry.operation).or_insert(begun_at);
        // As the real client does: the poll is over by then, or never begins.
        let left = inquiry.over_by.duration_since(self.clock.now());
        let left = Duration::try_from(left).unwrap_or_default().min(POLL_DEADLINE);
        if left.is_zero() {
            outside.note(&format!("{}: too late for a poll", inquiry.operation));
            return unpolled(Hindrance::Trouble { retry_after: None });
        }
        let no_answer = Poll {
            event: Event::Polled(operation::Answer::Trouble { retry_after: None }),
            body: None,
            renewed: None,
        };
        let delay = plan.delay(turn);
        if left <= delay.before() {
            tokio::time::sleep(left).await;
            outside.note(&format!("{}: Graph was not reached", inquiry.operation));
            return no_answer;
        }
        tokio::time::sleep(delay.before()).await;

        let arrived_at = outside.elapsed();
        let (index, answer) = {
            let mut record = outside.record.lock().unwrap();
            let arrival = next(&mut record.polls_arrived[operation]);
            let answer = plan.meaning(arrival);
            let lane = lane_of(&inquiry.credential);
            record.polls.push(RecordedPoll {
                operation: inquiry.operation,
                lane,
                begun_at,
                arrived_at,
                answer,
                answered_at: None,
            });
            (record.polls.len() - 1, answer)
        };
        outside.note(&format!("{}: Graph is asked", inquiry.operation));
        let left = left.saturating_sub(delay.before());
        if left <= delay.after() {
            tokio::time::sleep(left).await;
            outside.note(&format!("{}: Graph's answer is lost", inquiry.operation));
            return no_answer;
        }
        tokio::time::sleep(delay.after()).await;
        outside.note(&format!("{}: Graph answers {answer:?}", inquiry.operation));
        outside.record.lock().unwrap().polls[index].answered_at = Some(outside.elapsed());
        Poll { event: Event::Polled(answer), body: body(operation, answer), renewed: None }
    }
}

fn lane_of(credential: &Credential) -> String {
    match credential {
        Credential::Connection(connection) => connection.name.clone(),
        Credential::Token(_) => "token".to_owned(),
    }
}

fn body(operation: usize, answer: operation::Answer) -> Option<Bytes> {
    let status = match answer {
        operation::Answer::StillRunning { .. } => "running",
        operation::Answer::Undecided { .. } => "notStarted",
        operation::Answer::Finished(Verdict::Succeeded) => "succeeded",
        operation::Answer::Finished(Verdict::Failed) => "failed",
        operation::Answer::Finished(Verdict::Skipped) => "skipped",
        operation::Answer::Rejected
        | operation::Answer::CredentialRefused { .. }
        | operation::Answer::Missing
        | operation::Answer::Gone
        | operation::Answer::Throttled { .. }
        | operation::Answer::Trouble { .. } => return None,
    };
    let id = graph_id(operation);
    Some(Bytes::from(format!("{{\"id\":\"{id}\",\"status\":\"{status}\"}}")))
}

#[async_trait]
impl Courier for WayOut {
    async fn deliver(&self, parcel: Parcel) -> Receipt {
        let outside = &self.outside;
        let receiver = number_in(&parcel.url);
        let plan = &outside.plan.receivers[receiver];
        let begun_at = outside.elapsed();
        let (index, planned, delay) = {
            let mut record = outside.record.lock().unwrap();
            let turn = next(&mut record.attempts_begun[receiver]);
            let (planned, delay) =
                plan.replies.get(turn).copied().unwrap_or((plan.manner, Delay::default()));
            record.in_flight[receiver] += 1;
            let in_flight = record.in_flight[receiver];
            record.attempts.push(RecordedAttempt {
                id: parcel.id,
                headers: parcel.headers.clone(),
                body: parcel.body.clone(),
                begun_at,
                taken: false,
                reply: None,
                in_flight,
                receiver,
                answered_at: None,
            });
            (record.attempts.len() - 1, planned, delay)
        };
        outside.note(&format!("{}: an attempt begins", parcel.id));
        let in_time = delay.before() + delay.after() < ATTEMPT_DEADLINE;
        tokio::time::sleep(delay.before().min(ATTEMPT_DEADLINE)).await;
        let arrived = delay.before() < ATTEMPT_DEADLINE;
        let takes = matches!(planned, Planned::Accepts | Planned::AcceptsInVain);
        outside.record.lock().unwrap().attempts[index].taken = arrived && takes;
        let rest = ATTEMPT_DEADLINE.saturating_sub(delay.before());
        tokio::time::sleep(delay.after().min(rest)).await;
        let reply = if in_time { reply(planned) } else { Reply::Unwell { retry_after: None } };
        outside.note(&format!("{}: {reply:?}", parcel.id));
        let answered_at = outside.elapsed();
        let mut record = outside.record.lock().unwrap();
        record.attempts[index].reply = Some(reply);
        record.attempts[index].answered_at = Some(answered_at);
        record.in_flight[receiver] -= 1;
        receipt(reply)
    }
}

fn reply(planned: Planned) -> Reply {
    match planned {
        Planned::Accepts => Reply::Accepted,
        Planned::AcceptsInVain => Reply::Unwell { retry_after: None },
        Planned::Refuses => Reply::Refused { retry_after: None },
        Planned::Unwell { retry_after } => {
            Reply::Unwell { retry_after: retry_after.map(|it| Duration::from_secs(it.into())) }
        }
        Planned::Gone => Reply::Gone,
        Planned::AddressRefused => Reply::AddressRefused,
    }
}

fn receipt(reply: Reply) -> Receipt {
    let (status, failure) = match reply {
        Reply::Accepted => (Some(204), None),
        Reply::Refused { .. } => (Some(400), None),
        Reply::Gone => (Some(410), None),
        Reply::Unwell { .. } => (None, Some(courier::Failure::ClosedEarly)),
        Reply::AddressRefused => {
            (None, Some(courier::Failure::Refused(RefusalCode::AddressRefused)))
        }
    };
    Receipt { reply, status, failure, detail: None, answer: Bytes::new(), took: Duration::ZERO }
}

/// Counts, and says how many there were before.
fn next(count: &mut usize) -> usize {
    *count += 1;
    *count - 1
}
