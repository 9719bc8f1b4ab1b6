//! What may be said of every world, judged by its record and by what is in the store at the end,
//! and by nothing that the rules under test have a part in.

use std::collections::BTreeMap;
use std::time::Duration;

use engagement_bridge::callback::{self, CallbackId, Reason, Reply};
use engagement_bridge::operation::{Answer, OperationId, Outcome, State, Verdict};
use engagement_bridge::store::{ResendId, StoredCallback, Tracked};
use jiff::Timestamp;

use super::outside::{Record, RecordedAttempt, RecordedPoll, number_in};
use super::plan::{OperationPlan, Plan, ReceiverPlan, Wish};
use super::run::{Done, Ending, callbacks_policy, lanes_policy, operations_policy};
use crate::support::NOON;

/// Times in the store are in whole milliseconds.
const MOMENT: Duration = Duration::from_millis(2);

type Verdicts = Result<(), String>;

macro_rules! hold {
    ($condition:expr, $($what:tt)*) => {
        if !$condition {
            return Err(format!($($what)*));
        }
    };
}

/// Longer than any step takes.
const STEP: Duration = Duration::from_secs(36);

pub(crate) fn judge(ending: &Ending) -> Verdicts {
    let record = ending.outside.record.lock().unwrap();
    let plan = &ending.outside.plan;
    what_was_accepted_is_there(ending)?;
    never_two_polls_within_thirty_seconds(&record)?;
    never_over_a_budget(&record)?;
    if !plan.begins_by_another_clock() {
        never_over_a_rate(plan, &record)?;
    }
    for tracked in &ending.operations {
        everything_has_come_to_rest(tracked, &ending.callbacks)?;
        the_outcome_is_what_graph_said(plan, tracked, &record, &ending.callbacks)?;
        it_was_told_or_is_listed(plan, tracked, &ending.callbacks, &record)?;
        it_was_never_contradicted(tracked, &record)?;
        that_it_runs_is_told_once_where_that_is_wanted(plan, tracked, &record, &ending.callbacks)?;
    }
    for tracked in &ending.operations {
        a_blocked_one_was_reminded_in_time(plan, tracked, &ending.callbacks)?;
    }
    a_bulk_resend_is_granted_once(ending, &record)?;
    if plan.has_a_house_without_stalls() {
        nothing_is_told_twice(&record)?;
    }
    if plan.has_a_calm_house() {
        a_pause_is_kept(&record)?;
        whoever_is_in_trouble_is_spared(plan, &record)?;
        nothing_goes_where_nothing_is_wanted(&record)?;
        nobody_waits_for_others(plan, ending, &record)?;
    }
    Ok(())
}

fn planned<'a>(plan: &'a Plan, tracked: &Tracked) -> &'a OperationPlan {
    &plan.operations[number_in(&tracked.reference.id)]
}

fn of_operation(callbacks: &[StoredCallback], id: OperationId) -> Vec<&StoredCallback> {
    callbacks.iter().filter(|it| it.callback.id.operation == id).collect()
}

/// What may be told before the end.
const NOTICES: [&str; 2] = ["credentialNeeded", "running"];

/// The outcome that a body tells, or a notice.
fn told(body: &[u8]) -> String {
    let body: serde_json::Value = serde_json::from_slice(body).unwrap();
    let kind = body["type"].as_str().unwrap();
    kind.strip_prefix("engagementAsyncOperation.").unwrap().to_owned()
}

/// Promise 1, its first half.
fn what_was_accepted_is_there(ending: &Ending) -> Verdicts {
    for (_, done) in &ending.done {
        let (Done::Registered(id) | Done::Found(id)) = done else { continue };
        let there = ending.operations.iter().any(|it| it.operation.id == *id);
        hold!(there, "{id} was accepted and is gone");
    }
    Ok(())
}

/// Promise 2, in true time.
fn never_two_polls_within_thirty_seconds(record: &Record) -> Verdicts {
    let mut last: BTreeMap<OperationId, Duration> = BTreeMap::new();
    for poll in &record.polls {
        let before = last.insert(poll.operation, poll.arrived_at);
        let gap = before.map(|before| poll.arrived_at.saturating_sub(before));
        let early = gap.is_some_and(|gap| gap <= Duration::from_secs(30));
        hold!(!early, "{} was polled again after {gap:?}", poll.operation);
    }
    Ok(())
}

/// Promise 3, in true time, and its like for receivers.
fn never_over_a_budget(record: &Record) -> Verdicts {
    let window = Duration::from_secs(30);
    let mut arrivals: BTreeMap<&str, Vec<Duration>> = BTreeMap::new();
    for RecordedPoll { lane, arrived_at, .. } in &record.polls {
        arrivals.entry(lane).or_default().push(*arrived_at);
    }
    let budget = lanes_policy().graph_requests as usize;
    for (lane, mut times) in arrivals {
        times.sort_unstable();
        for (index, first) in times.iter().enumerate() {
            let within = times[index..].iter().take_while(|at| **at < *first + window).count();
            hold!(within <= budget, "{within} polls of `{lane}` within 30 s from {first:?}");
        }
    }
    let allowed = lanes_policy().callback_allowance as usize;
    for RecordedAttempt { id, in_flight, .. } in &record.attempts {
        hold!(*in_flight <= allowed, "{in_flight} attempts at a receiver at once, with {id}");
    }
    Ok(())
}

/// What a receiver has agreed to, in true time. What was never sent does not count.
fn never_over_a_rate(plan: &Plan, record: &Record) -> Verdicts {
    let minute = Duration::from_mins(1);
    for (receiver, ReceiverPlan { rate, .. }) in plan.receivers.iter().enumerate() {
        let Some(rate) = *rate else { continue };
        let sent = |it: &&RecordedAttempt| {
            it.receiver == receiver && it.reply != Some(Reply::AddressRefused)
        };
        let mut times: Vec<_> = record.attempts.iter().filter(sent).map(|it| it.begun_at).collect();
        times.sort_unstable();
        for (index, first) in times.iter().enumerate() {
            let within = times[index..].iter().take_while(|at| **at < *first + minute).count();
            let allowed = usize::try_from(rate).unwrap();
            hold!(within <= allowed, "{within} attempts at {receiver} in a minute from {first:?}");
        }
    }
    Ok(())
}

fn everything_has_come_to_rest(tracked: &Tracked, callbacks: &[StoredCallback]) -> Verdicts {
    let operation = &tracked.operation;
    hold!(operation.state.is_at_rest(), "{} is still {:?}", operation.id, operation.state);
    let owed = of_operation(callbacks, operation.id);
    for stored in &owed {
        let state = &stored.callback.state;
        hold!(state.rested_at().is_some(), "{} is still {state:?}", stored.callback.id);
    }
    let finals: Vec<_> =
        owed.iter().filter(|it| !NOTICES.contains(&it.notice.0.as_str())).collect();
    match operation.outcome() {
        None => hold!(finals.is_empty(), "{} was cancelled and owes a final", operation.id),
        Some(outcome) => {
            hold!(finals.len() == 1, "{} owes {} finals", operation.id, finals.len());
            let notice = &finals[0].notice.0;
            hold!(notice == outcome.as_str(), "{} owes {notice}, not {outcome:?}", operation.id);
        }
    }
    hold!(owed.len() == operation.callbacks as usize, "{} lost a callback", operation.id);
    Ok(())
}

/// The reference model: which outcomes the record allows.
fn the_outcome_is_what_graph_said(
    plan: &Plan,
    tracked: &Tracked,
    record: &Record,
    callbacks: &[StoredCallback],
) -> Verdicts {
    let operation = &tracked.operation;
    let id = operation.id;
    let polls: Vec<_> = record.polls.iter().filter(|it| it.operation == id).collect();
    let answered = |answer: Answer| {
        polls.iter().filter(|it| it.answered_at.is_some() && it.answer == answer).count()
    };
    let finished = |verdict| answered(Answer::Finished(verdict)) > 0;
    let ended_at = operation.state.rested_at().unwrap();
    let allowed = match operation.outcome() {
        None => planned(plan, tracked).wishes.iter().any(|(_, it)| matches!(it, Wish::Cancel)),
        Some(Outcome::Succeeded) => finished(Verdict::Succeeded),
        Some(Outcome::Failed) => finished(Verdict::Failed),
        Some(Outcome::Skipped) => finished(Verdict::Skipped),
        Some(Outcome::Gone) => answered(Answer::Gone) > 0,
        Some(Outcome::Rejected) => 3 <= answered(Answer::Rejected),
        Some(Outcome::NotFound) => {
            let grace_over = operation.registered_at + operations_policy().not_found_grace;
            answered(Answer::Missing) > 0 && grace_over <= ended_at
        }
        Some(Outcome::Unauthorized) => {
            let was_told = of_operation(callbacks, id)
                .iter()
                .any(|it| it.notice.0 == "credentialNeeded" && it.callback.owed_at <= ended_at);
            was_told || operation.deadline <= ended_at
        }
        Some(Outcome::Expired) => {
            // In a house that is not calm, an answer may be lost on its way into the store.
            let known = polls.iter().any(|it| {
                it.answered_at.is_some() && matches!(it.answer, Answer::Finished(_) | Answer::Gone)
            });
            operation.deadline <= ended_at && !(known && plan.has_a_calm_house())
        }
    };
    let state = &operation.state;
    hold!(allowed, "{id} became {state:?}, which nothing that Graph said allows: {polls:?}");
    Ok(())
}

/// Promise 1, its second half: delivered, and then the receiver has it; or undeliverable, and then
/// for the reason that is given.
fn it_was_told_or_is_listed(
    plan: &Plan,
    tracked: &Tracked,
    callbacks: &[StoredCallback],
    record: &Record,
) -> Verdicts {
    for stored in of_operation(callbacks, tracked.operation.id) {
        let id = stored.callback.id;
        let attempts: Vec<_> = record.attempts.iter().filter(|it| it.id == id).collect();
        let replied = |reply| attempts.iter().any(|it| it.reply == Some(reply));
        match stored.callback.state {
            callback::State::Pending { .. } => {}
            callback::State::Delivered { .. } => {
                let taken = attempts.iter().any(|it| it.taken && it.reply == Some(Reply::Accepted));
                hold!(taken, "{id} is delivered, and nobody has it");
            }
            callback::State::Undeliverable { reason, at } => {
                let longest = callbacks_policy().longest_owed;
                let by_its_clock = Duration::try_from(at.duration_since(stored.callback.owed_at));
                // A clock that went back while the bridge was down tells nothing of how long it was.
                // Then it is true time that counts, less what the clock was set forward by besides.
                let age = if plan.clock_went_back() {
                    let truly = record.given_up[&id].saturating_sub(record.owed_since[&id]);
                    truly + plan.clock_set_forward_by()
                } else {
                    by_its_clock.unwrap_or_default()
                };
                let true_reason = match reason {
                    // To this one, or to another one at the same destination.
                    Reason::Gone => record.attempts.iter().any(|it| {
                        it.receiver == number_in(&stored.url) && it.reply == Some(Reply::Gone)
                    }),
                    Reason::AddressRefused => replied(Reply::AddressRefused),
                    Reason::AttemptsSpent => callbacks_policy().schedule.len() <= attempts.len(),
                    // An attempt that would come behind the end is not waited for.
                    Reason::TooOld => longest <= age + Duration::from_hours(2),
                };
                hold!(true_reason, "{id} was given up as {reason:?} after {age:?}: {attempts:?}");
            }
        }
    }
    Ok(())
}

/// Promise 4, and that an outcome once told stays.
fn it_was_never_contradicted(tracked: &Tracked, record: &Record) -> Verdicts {
    let id = tracked.operation.id;
    let mut written: BTreeMap<CallbackId, _> = BTreeMap::new();
    for attempt in record.attempts.iter().filter(|it| it.id.operation == id) {
        let now = (&attempt.headers, &attempt.body);
        let first = *written.entry(attempt.id).or_insert(now);
        hold!(first == now, "the headers or the body of {} changed", attempt.id);
        let told = told(&attempt.body);
        if NOTICES.contains(&told.as_str()) {
            continue;
        }
        let outcome = tracked.operation.outcome().map(Outcome::as_str);
        hold!(outcome == Some(told.as_str()), "{id} was told as {told}, and is {outcome:?}");
    }
    Ok(())
}

/// Owed only where it is wanted and Graph said so, once, and before the end; and in a calm house it
/// is owed whenever that is so.
fn that_it_runs_is_told_once_where_that_is_wanted(
    plan: &Plan,
    tracked: &Tracked,
    record: &Record,
    callbacks: &[StoredCallback],
) -> Verdicts {
    let id = tracked.operation.id;
    let ended_at = tracked.operation.state.rested_at().unwrap();
    let owed = of_operation(callbacks, id);
    let notices: Vec<_> = owed.iter().filter(|it| it.notice.0 == "running").collect();
    let said: Vec<_> = record
        .polls
        .iter()
        .filter(|it| it.operation == id && matches!(it.answer, Answer::StillRunning { .. }))
        .collect();
    hold!(notices.len() <= 1, "{id} was said to run {} times", notices.len());
    let is_wanted = planned(plan, tracked).hears_of_running;
    if let [notice] = notices[..] {
        hold!(is_wanted, "nobody wants to hear that {id} runs");
        hold!(!said.is_empty(), "Graph never said that {id} runs");
        let is_behind = |it: &&&StoredCallback| {
            !NOTICES.contains(&it.notice.0.as_str())
                && it.callback.id.number < notice.callback.id.number
        };
        hold!(owed.iter().find(is_behind).is_none(), "{id} was said to run behind its end");
    } else if is_wanted && plan.has_a_calm_house() {
        let end = elapsed(ended_at);
        let missed = said.iter().find(|it| it.answered_at.is_some_and(|at| at + MOMENT < end));
        hold!(missed.is_none(), "nobody was told that {id} runs: {missed:?}");
    }
    Ok(())
}

/// What ended for want of a credential says why; and in a calm house its caller was told when it was
/// blocked, when half of the time was over, and when nine tenths were.
fn a_blocked_one_was_reminded_in_time(
    plan: &Plan,
    tracked: &Tracked,
    callbacks: &[StoredCallback],
) -> Verdicts {
    let operation = &tracked.operation;
    let State::Settled { outcome, refusal, at: ended_at } = operation.state else { return Ok(()) };
    let is_unauthorized = outcome == Outcome::Unauthorized;
    hold!(
        refusal.is_some() == is_unauthorized,
        "{} ended as {outcome:?}, {refusal:?}",
        operation.id
    );
    if !is_unauthorized || !plan.has_a_calm_house() {
        return Ok(());
    }
    let owed = of_operation(callbacks, operation.id);
    let notices = owed.iter().filter(|it| it.notice.0 == "credentialNeeded");
    let mut notices: Vec<Duration> = notices.map(|it| elapsed(it.callback.owed_at)).collect();
    notices.sort_unstable();
    let (grace, ended, latest) =
        (operations_policy().credential_grace, elapsed(ended_at), delay(plan));
    // The notice with which its last wait began; none, where the deadline cut that short.
    let is_first =
        |begun: &Duration| *begun + grace <= ended + MOMENT && ended <= *begun + grace + latest;
    let Some(begun) = notices.iter().rev().copied().find(is_first) else { return Ok(()) };
    let reminders: Vec<Duration> =
        notices.iter().filter(|it| begun < **it).map(|it| it.saturating_sub(begun)).collect();
    hold!(reminders.len() <= 2, "{} was reminded at {reminders:?}", operation.id);
    // What comes so late that the next is due as well is not owed twice.
    let is_enough = reminders.len() == 2 || grace / 10 <= latest;
    hold!(is_enough, "{} was reminded at {reminders:?} of {grace:?}", operation.id);
    for (at, tenths) in reminders.iter().zip([5, 9]) {
        let due = grace / 10 * tenths;
        let is_in_time = due <= *at + MOMENT && (*at <= due + latest || grace / 10 <= latest);
        hold!(is_in_time, "{} was reminded at {at:?}, not {due:?}", operation.id);
    }
    Ok(())
}

/// How long it takes the hands of the workers at the most to come around all lanes.
fn delay(plan: &Plan) -> Duration {
    let lanes = 2 + plan.receivers.len();
    STEP * (u32::try_from(lanes.div_ceil(2 * plan.hands)).unwrap() + 1)
}

/// What a bulk resend was asked for is sent again by it, each callback once, or by another wish; and
/// nothing else is.
fn a_bulk_resend_is_granted_once(ending: &Ending, record: &Record) -> Verdicts {
    for (_, done) in &ending.done {
        let Done::AskedForBulk(id) = done else { continue };
        hold!(ending.resends.iter().any(|it| it.id == *id), "{id} was accepted and is gone");
    }
    for resend in &ending.resends {
        let id = resend.id;
        hold!(resend.done_at.is_some(), "{id} is still under way");
        let (wanted, before) = &record.bulks[&id];
        hold!(resend.matched == wanted.len() as u64, "{resend:?} was for {wanted:?}");
        let of_it = |it: &&(Option<ResendId>, CallbackId)| it.0 == Some(id);
        let mut sent: Vec<CallbackId> = record.resent.iter().filter(of_it).map(|it| it.1).collect();
        hold!(resend.resent == sent.len() as u64, "{resend:?} has sent {sent:?} again");
        sent.sort_unstable();
        let is_unique = sent.windows(2).all(|pair| pair[0] != pair[1]);
        // What rests by a clock that has gone back may be taken for what rested before.
        let is_unique = is_unique || ending.outside.plan.clock_went_back();
        hold!(is_unique, "{id} has sent one twice: {sent:?}");
        let strange = sent.iter().find(|it| !wanted.contains(it));
        // In a house that is not calm, what came to rest before may be known only later.
        let is_calm = ending.outside.plan.has_a_calm_house();
        hold!(
            strange.is_none() || !is_calm,
            "{id} has sent {strange:?} again, which was not wanted"
        );
        let since = &record.resent[*before..];
        let left = wanted.iter().find(|it| !since.iter().any(|(_, sent)| sent == *it));
        hold!(left.is_none(), "{id} has left {left:?} as it was");
    }
    Ok(())
}

/// Calls of the store that fail, and say so or not, are no reason to repeat a step.
fn nothing_is_told_twice(record: &Record) -> Verdicts {
    let mut taken: BTreeMap<CallbackId, usize> = BTreeMap::new();
    for attempt in record.attempts.iter().filter(|it| it.taken) {
        *taken.entry(attempt.id).or_default() += 1;
    }
    for (id, times) in taken {
        let resent = record.resent.iter().filter(|(_, it)| *it == id).count();
        // Taken, and yet the bridge was told otherwise: it must come again.
        let in_vain = record
            .attempts
            .iter()
            .filter(|it| it.id == id && it.taken && it.reply != Some(Reply::Accepted))
            .count();
        hold!(times <= 1 + resent + in_vain, "{id} was told {times} times, for no reason");
    }
    Ok(())
}

/// What a 429 asked for is kept by its whole lane.
fn a_pause_is_kept(record: &Record) -> Verdicts {
    for throttled in &record.polls {
        let (Answer::Throttled { retry_after: Some(asked) }, Some(from)) =
            (throttled.answer, throttled.answered_at)
        else {
            continue;
        };
        let broken = record.polls.iter().find(|it| {
            it.lane == throttled.lane && from < it.begun_at && it.begun_at < from + asked
        });
        hold!(broken.is_none(), "polled in a pause of {asked:?} from {from:?}: {broken:?}");
    }
    Ok(())
}

/// After a 410, nothing is sent to that receiver until a caller wants it.
fn nothing_goes_where_nothing_is_wanted(record: &Record) -> Verdicts {
    for gone in record.attempts.iter().filter(|it| it.reply == Some(Reply::Gone)) {
        let since = gone.answered_at.unwrap_or_default();
        let later = record.attempts.iter().filter(|it| it.receiver == gone.receiver);
        for attempt in later.filter(|it| since < it.begun_at) {
            let is_between = |at: &Duration| since <= *at && *at <= attempt.begun_at;
            let mut wishes = record.brought_back.iter();
            let was_wanted =
                wishes.any(|(receiver, at)| *receiver == gone.receiver && is_between(at));
            hold!(was_wanted, "{attempt:?} after a 410 at {since:?}");
        }
    }
    Ok(())
}

/// What a receiver sees that is in trouble: nothing while its lane pauses, then one attempt at a time,
/// and then twice as many with each that it accepts.
fn whoever_is_in_trouble_is_spared(plan: &Plan, record: &Record) -> Verdicts {
    let policy = lanes_policy();
    let most = policy.callback_allowance as usize;
    for receiver in 0..plan.receivers.len() {
        let attempts = record.attempts.iter().filter(|it| it.receiver == receiver);
        let mut answers: Vec<(Duration, Reply)> =
            attempts.clone().filter_map(|it| Some((it.answered_at?, it.reply?))).collect();
        answers.sort_by_key(|(at, _)| *at);
        for RecordedAttempt { id, begun_at, in_flight, .. } in attempts {
            let (mut allowed, mut paused_until) = (1_usize, Duration::ZERO);
            for (at, reply) in answers.iter().take_while(|(at, _)| at <= begun_at) {
                match reply {
                    Reply::Accepted => allowed = most.min(allowed * 2),
                    // What is answered this very moment may not be known yet.
                    Reply::Unwell { retry_after } if at < begun_at => {
                        allowed = 1;
                        // What was in flight together fails together, and is one trouble.
                        let is_new = paused_until <= *at;
                        let wait = if is_new { policy.callback_pause } else { Duration::ZERO };
                        let wait = wait.max(retry_after.unwrap_or_default());
                        paused_until = paused_until.max(*at + wait);
                    }
                    Reply::Unwell { .. }
                    | Reply::Refused { .. }
                    | Reply::Gone
                    | Reply::AddressRefused => {}
                }
            }
            hold!(*in_flight <= allowed, "{in_flight} in flight with {id}, not {allowed}");
            // Plans are made in whole milliseconds.
            let is_early = *begun_at + Duration::from_millis(1) < paused_until;
            hold!(!is_early, "{id} was sent at {begun_at:?}, in a pause until {paused_until:?}");
        }
    }
    Ok(())
}

/// Promise 5: the bound on waiting. A step waits for its own lane, and else for no longer than it
/// takes the workers' hands to go around all lanes once.
fn nobody_waits_for_others(plan: &Plan, ending: &Ending, record: &Record) -> Verdicts {
    let bound = delay(plan);
    for stored in &ending.callbacks {
        let receiver = &plan.receivers[number_in(&stored.url)];
        if !receiver.is_good() {
            continue;
        }
        let apart = receiver.rate.map_or(Duration::ZERO, |_| Duration::from_secs(61));
        let id = stored.callback.id;
        let first = record.attempts.iter().find(|it| it.id == id);
        hold!(first.is_some(), "{id} never went to a receiver that takes everything");
        let since_noon = elapsed(stored.callback.owed_at);
        let waited = first.unwrap().begun_at.saturating_sub(since_noon);
        // Those of its own lane that are owed as well go first, one or two at a time.
        let own = u32::try_from(ending.callbacks.len() + record.resent.len()).unwrap();
        hold!(
            waited <= bound + (STEP + apart) * own,
            "{id} waited {waited:?}, more than {bound:?}"
        );
    }
    for tracked in &ending.operations {
        let State::Settled { at, .. } = tracked.operation.state else { continue };
        let late = at.duration_since(tracked.operation.deadline);
        let late = Duration::try_from(late).unwrap_or_default();
        hold!(late <= bound, "{} ended {late:?} behind its deadline", tracked.operation.id);
    }
    if plan.holds_polls_up() {
        return Ok(());
    }
    // All others of the lane may go first, as many at a time as its budget allows.
    let windows = plan.operations.len().div_ceil(lanes_policy().graph_requests as usize);
    let window = lanes_policy().graph_window + STEP;
    let bound = bound + window * u32::try_from(windows).unwrap();
    for Tracked { operation, .. } in &ending.operations {
        let first = record.first_polled.get(&operation.id).copied().unwrap_or_default();
        let waited = first.saturating_sub(elapsed(operation.registered_at));
        hold!(waited <= bound, "{} was first polled after {waited:?}", operation.id);
    }
    Ok(())
}

fn elapsed(at: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(NOON)).unwrap()
}
