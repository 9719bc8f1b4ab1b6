//! What is true of every lane, whatever happens on it.

use std::num::NonZeroU32;
use std::time::Duration;

use engagement_bridge::lane::{Kind, Lane, LaneName, Policy, Rate, Report, retry_after, share};
use jiff::Timestamp;
use proptest::prelude::*;

use crate::support::{NOON, after, seconds};

const LEASE: Duration = Duration::from_mins(1);

/// One thing that happens on a lane.
#[derive(Clone, Copy, Debug)]
enum Act {
    /// As many claims as there is room for, up to this many.
    Claim(usize),
    /// The step of the `which`-th open claim is over.
    Settle {
        which: usize,
        report: Report,
    },
    /// The worker that holds it is gone for good.
    Vanish {
        which: usize,
    },
    Wait {
        millis: u64,
    },
}

fn any_report() -> impl Strategy<Value = Report> {
    prop_oneof![
        5 => Just(Report::Well),
        2 => Just(Report::Indifferent),
        1 => Just(Report::Unused),
        2 => prop::option::of((0_u64..5_000).prop_map(seconds))
            .prop_map(|retry_after| Report::Unwell { retry_after }),
    ]
}

fn any_act() -> impl Strategy<Value = Act> {
    prop_oneof![
        3 => (1_usize..40).prop_map(Act::Claim),
        4 => (any::<usize>(), any_report())
            .prop_map(|(which, report)| Act::Settle { which, report }),
        1 => any::<usize>().prop_map(|which| Act::Vanish { which }),
        3 => (0_u64..40_000).prop_map(|millis| Act::Wait { millis }),
    ]
}

/// A claim, and when what it was for was certainly over: answered, or given up with its lease.
#[derive(Clone, Copy, Debug)]
struct Sent {
    token: u64,
    at: Timestamp,
    over_at: Timestamp,
    unused: bool,
}

/// Plays `acts` on a lane and tells of every step that it admitted.
fn play(mut lane: Lane, policy: &Policy, acts: &[Act]) -> Result<Vec<Sent>, TestCaseError> {
    let (mut now, mut tokens) = (NOON, 0);
    let (mut open, mut all): (Vec<Sent>, Vec<Sent>) = (Vec::new(), Vec::new());
    // Since the latest failure.
    let mut successes = 0;
    for act in acts {
        match *act {
            Act::Claim(wanted) => {
                let room = lane.room(now);
                prop_assert_eq!(room == 0, now < lane.free_at(now), "room and free_at agree");
                for _ in 0..room.min(wanted) {
                    tokens += 1;
                    lane.admit(policy, tokens, now + LEASE, now);
                    let over_at = now + LEASE;
                    open.push(Sent { token: tokens, at: now, over_at, unused: false });
                }
                prop_assert_eq!(lane.room(now), room - room.min(wanted));
                if lane.kind == Kind::Callback && 0 < room {
                    let in_flight = open.iter().chain(&all).filter(|it| now < it.over_at).count();
                    let doubled = 2_usize.saturating_pow(successes);
                    let allowed = doubled.min(policy.callback_allowance as usize);
                    prop_assert!(in_flight <= allowed, "{in_flight} after {successes} successes");
                }
            }
            Act::Settle { which, report } if !open.is_empty() => {
                let mut sent = open.remove(which % open.len());
                // A step is over within its lease.
                sent.over_at = now.min(sent.over_at);
                sent.unused = report == Report::Unused;
                successes = match report {
                    Report::Well => successes + 1,
                    Report::Indifferent | Report::Unused => successes,
                    Report::Unwell { .. } => 0,
                };
                lane.settle(policy, sent.token, report, sent.over_at.max(now));
                all.push(sent);
            }
            Act::Vanish { which } if !open.is_empty() => {
                all.push(open.remove(which % open.len()));
            }
            Act::Settle { .. } | Act::Vanish { .. } => {}
            Act::Wait { millis } => now += Duration::from_millis(millis),
        }
    }
    all.extend(open);
    Ok(all)
}

/// When steps that were sent have arrived: somewhere between their claim and their end.
fn arrived(sent: &[Sent], arrivals: &[f64]) -> Vec<Timestamp> {
    let sent = sent.iter().filter(|it| !it.unused).zip(arrivals.iter().cycle());
    let arrival = |(it, at): (&Sent, &f64)| {
        let under_way = Duration::try_from(it.over_at.duration_since(it.at)).unwrap();
        it.at + under_way.mul_f64(*at)
    };
    let mut arrived: Vec<_> = sent.map(arrival).collect();
    arrived.sort();
    arrived
}

/// How long it took for so many of them to arrive, from each one on.
fn spans(arrived: &[Timestamp], count: usize) -> impl Iterator<Item = Duration> {
    let span = |window: &[Timestamp]| window[window.len() - 1].duration_since(window[0]);
    arrived.windows(count).map(move |window| Duration::try_from(span(window)).unwrap())
}

fn per_minute(attempts: u32) -> Rate {
    Rate::per_minute(NonZeroU32::new(attempts).unwrap())
}

proptest! {
    /// Seen from Graph: wherever between claim and answer each request arrives, no window of 30 s
    /// holds more than eight.
    #[test]
    fn a_graph_lane_never_admits_above_its_budget_in_any_window(
        acts in prop::collection::vec(any_act(), 1..120),
        arrivals in prop::collection::vec(0.0_f64..=1.0, 1..50),
    ) {
        let policy = Policy::default();
        let sent = play(Lane::new(Kind::Graph, &policy), &policy, &acts)?;
        for span in spans(&arrived(&sent, &arrivals), policy.graph_requests as usize + 1) {
            prop_assert!(span >= seconds(30), "nine within {span:?}");
        }
    }

    /// Seen from a receiver, likewise, whatever else the lane does.
    #[test]
    fn a_receiver_that_has_named_a_rate_never_gets_more_in_any_minute(
        acts in prop::collection::vec(any_act(), 1..160),
        arrivals in prop::collection::vec(0.0_f64..=1.0, 1..50),
        rate in prop_oneof![1_u32..8, 1_u32..60],
    ) {
        let policy = Policy::default();
        let rated = Lane { rate: Some(per_minute(rate)), ..Lane::new(Kind::Callback, &policy) };
        let sent = play(rated, &policy, &acts)?;
        for span in spans(&arrived(&sent, &arrivals), rate as usize + 1) {
            prop_assert!(span >= seconds(60), "one more than {rate} within {span:?}");
        }
    }

    /// A receiver that comes back sees one attempt, then two, then four: [`play`] looks at each.
    #[test]
    fn a_callback_lane_never_has_more_in_flight_than_successes_since_a_failure_have_doubled(
        acts in prop::collection::vec(any_act(), 1..120),
        callback_allowance in 1_u32..40,
    ) {
        let policy = Policy { callback_allowance, ..Policy::default() };
        play(Lane::new(Kind::Callback, &policy), &policy, &acts)?;
    }

    #[test]
    fn a_callback_lane_never_has_more_in_flight_than_its_cap(
        acts in prop::collection::vec(any_act(), 1..120),
    ) {
        let policy = Policy::default();
        let sent = play(Lane::new(Kind::Callback, &policy), &policy, &acts)?;
        for it in &sent {
            let in_flight = sent.iter().filter(|other| other.at <= it.at && it.at < other.over_at);
            prop_assert!(in_flight.count() <= policy.callback_allowance as usize);
        }
    }

    #[test]
    fn retry_after_never_panics_and_never_shortens(text in "\\PC{0,40}", whole in any::<u64>(), fraction in "[0-9]{1,9}") {
        let _: Option<Duration> = retry_after(&text, NOON);
        let asked = retry_after(&format!("{whole}.{fraction}"), NOON).unwrap();
        prop_assert!(Duration::from_secs(whole) <= asked);
        if let Ok(nanos) = format!("{fraction:0<9}").parse::<u32>() {
            prop_assert!(Duration::new(whole, 0).saturating_add(Duration::from_nanos(nanos.into())) <= asked);
        }
    }
}

#[test]
fn retry_after_is_read_in_all_its_forms() {
    let at = |text: &str| retry_after(text, after(0)).map(|asked| asked.as_millis());
    assert_eq!(at("120"), Some(120_000));
    assert_eq!(at(" 2.128 "), Some(2_128));
    assert_eq!(at("2.1281"), Some(2_129));
    assert_eq!(at("0.5"), Some(500));
    assert_eq!(at("0"), Some(0));
    assert_eq!(at("-5"), Some(0));
    // Noon of these tests is 2027-01-15 08:00:00 UTC.
    assert_eq!(at("Fri, 15 Jan 2027 08:01:00 GMT"), Some(60_000));
    assert_eq!(at("Friday, 15-Jan-27 08:01:00 GMT"), Some(60_000));
    assert_eq!(at("Fri Jan 15 08:01:00 2027"), Some(60_000));
    assert_eq!(at("Fri, 15 Jan 2027 07:00:00 GMT"), Some(0));
    assert_eq!(at("99999999999999999999999"), Some(u128::from(u64::MAX) * 1_000));
    for nonsense in ["", "soon", "1e9", "1.", ".5", "1.2.3", "0x10", "12 34", "-", "--1", "+3"] {
        assert_eq!(at(nonsense), None, "{nonsense:?}");
    }
}

#[test]
fn a_pause_grows_with_each_failure_in_a_row_and_is_forgotten_with_success() {
    let policy = Policy::default();
    let mut lane = Lane::new(Kind::Callback, &policy);
    let mut now = NOON;
    let mut pauses = Vec::new();
    for token in 0..12 {
        lane.admit(&policy, token, now + LEASE, now);
        lane.settle(&policy, token, Report::Unwell { retry_after: None }, now);
        let free_at = lane.free_at(now);
        pauses.push(free_at.duration_since(now).as_secs());
        now = free_at;
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
    lane.admit(&policy, 99, now + LEASE, now);
    lane.settle(&policy, 99, Report::Well, now);
    assert_eq!((lane.failures, lane.allowance), (0, 2));
}

#[test]
fn what_was_in_flight_together_fails_as_one() {
    let policy = Policy::default();
    let mut lane = Lane { allowance: 16, ..Lane::new(Kind::Callback, &policy) };
    for token in 0..16 {
        lane.admit(&policy, token, NOON + LEASE, NOON);
    }
    for token in 0..16 {
        lane.settle(&policy, token, Report::Unwell { retry_after: None }, NOON);
    }
    assert_eq!((lane.failures, lane.free_at(NOON)), (1, after(1)));
    // An explicit wish counts all the same.
    lane.settle(&policy, 99, Report::Unwell { retry_after: Some(seconds(90)) }, NOON);
    assert_eq!(lane.free_at(NOON), after(90));
}

#[test]
fn a_throttled_identity_waits_exactly_as_long_as_graph_says() {
    let policy = Policy::default();
    let pause = |asked: Option<u64>| {
        let mut lane = Lane::new(Kind::Graph, &policy);
        lane.admit(&policy, 1, NOON + LEASE, NOON);
        let retry_after = asked.map(seconds);
        lane.settle(&policy, 1, Report::Unwell { retry_after }, NOON);
        lane.free_at(NOON).duration_since(NOON).as_secs()
    };
    assert_eq!(pause(Some(17)), 17);
    assert_eq!(pause(Some(600)), 600);
    assert_eq!(pause(None), 30);
    assert_eq!(pause(Some(u64::MAX)), 3_600);
}

#[test]
fn hands_are_shared_so_that_each_lane_gets_some() {
    assert_eq!((share(8, 3), share(8, 8), share(3, 8), share(0, 2), share(5, 0)), (3, 1, 1, 0, 5));
}

#[test]
fn a_lane_name_reads_back_as_it_was_written() {
    let names = [
        LaneName::graph("app:contoso.example:1111"),
        LaneName::callback("contoso", "https://[::1]:8443"),
    ];
    for name in names {
        assert_eq!(LaneName::parse(&name.to_string()), Some(name));
    }
    assert_eq!(LaneName::parse("other:thing"), None);
    assert_eq!(LaneName::parse("graph"), None);
}

/// A lane may be forgotten once nothing counts on it any more: not at the last moment of a slot or a
/// pause, and not while only one of the two is over.
#[test]
fn a_lane_is_forgotten_only_when_nothing_counts_on_it() {
    let policy = Policy::default();
    let fresh = Lane::new(Kind::Graph, &policy);
    assert!(fresh.is_forgettable(NOON));

    let mut busy = fresh.clone();
    busy.admit(&policy, 1, after(60), NOON);
    let free_again = after(60) + policy.graph_window;
    assert!(!busy.is_forgettable(free_again - Duration::from_millis(1)));
    assert!(busy.is_forgettable(free_again));

    let mut paused = fresh.clone();
    paused.rest(after(10));
    assert!(!paused.is_forgettable(after(10) - Duration::from_millis(1)));
    assert!(paused.is_forgettable(after(10)));

    busy.rest(free_again + seconds(10));
    assert!(!busy.is_forgettable(free_again), "still paused");
    paused.admit(&policy, 1, after(60), after(10));
    assert!(!paused.is_forgettable(after(20)), "still busy");
}

/// Or what is stored of a lane would grow with everything that it ever admitted.
#[test]
fn a_lane_keeps_no_slot_that_is_over() {
    let policy = Policy::default();
    let mut lane = Lane::new(Kind::Callback, &policy);
    lane.admit(&policy, 1, after(60), NOON);
    lane.settle(&policy, 1, Report::Indifferent, after(1));
    assert_eq!(lane.slots, []);
    lane.admit(&policy, 2, after(60), after(2));
    lane.admit(&policy, 3, after(90), after(60));
    assert_eq!(lane.slots.iter().map(|slot| slot.token).collect::<Vec<_>>(), [3]);
}

/// How many attempts go out at once where there is room for them, and how long until the next.
#[test]
fn a_rate_is_spread_over_the_slots_that_there_are() {
    let policy = Policy::default();
    for (rate, at_once, apart_ms) in [
        (1, 1, 61_000),
        (3, 3, 61_000),
        (16, 16, 61_000),
        (17, 16, 61_000),
        (31, 16, 61_000),
        (32, 16, 30_500),
        (100, 16, 10_167),
        (6_000, 16, 163),
        (u32::MAX, 16, 1),
    ] {
        let fresh = Lane { rate: Some(per_minute(rate)), ..Lane::new(Kind::Callback, &policy) };
        assert_eq!(fresh.room(NOON), 1, "as ever, one at first");
        let mut lane = Lane { allowance: policy.callback_allowance, ..fresh };
        assert_eq!(lane.room(NOON), at_once, "{rate}");
        for token in 0..at_once as u64 {
            lane.admit(&policy, token, NOON + LEASE, NOON);
            lane.settle(&policy, token, Report::Well, NOON);
        }
        let next = NOON + Duration::from_millis(apart_ms);
        assert_eq!((lane.room(NOON), lane.free_at(NOON)), (0, next), "{rate}");
        assert_eq!(lane.room(next), at_once, "{rate}");
    }
}

/// One that was claimed and never heard of may have gone out at its last moment; one that was not sent
/// takes nobody's turn.
#[test]
fn a_turn_counts_from_the_end_of_its_attempt() {
    let policy = Policy::default();
    let mut lane = Lane { rate: Some(per_minute(1)), ..Lane::new(Kind::Callback, &policy) };
    lane.admit(&policy, 1, NOON + LEASE, NOON);
    assert_eq!(lane.free_at(NOON), NOON + LEASE + seconds(61));
    lane.settle(&policy, 1, Report::Indifferent, after(20));
    assert_eq!(lane.free_at(after(20)), after(20 + 61));
    lane.admit(&policy, 2, after(81) + LEASE, after(81));
    lane.settle(&policy, 2, Report::Unused, after(82));
    assert_eq!(lane.free_at(after(82)), after(82));
    lane.admit(&policy, 3, after(82) + LEASE, after(82));
    // A longer pause counts, and a shorter one does not shorten the wait.
    lane.settle(&policy, 3, Report::Unwell { retry_after: Some(seconds(7)) }, after(83));
    assert_eq!(lane.free_at(after(83)), after(83 + 61));
}

/// From the next step on, whatever was admitted before.
#[test]
fn another_rate_holds_at_once() {
    let policy = Policy::default();
    let mut lane = Lane { allowance: 16, ..Lane::new(Kind::Callback, &policy) };
    for token in 0..4 {
        lane.admit(&policy, token, NOON + LEASE, NOON);
    }
    lane.rate = Some(per_minute(5));
    assert_eq!(lane.room(NOON), 1);
    lane.rate = Some(per_minute(2));
    assert_eq!(lane.room(NOON), 0);
    lane.settle(&policy, 0, Report::Well, NOON);
    assert_eq!(lane.room(NOON), 0);
    lane.rate = None;
    assert_eq!(lane.room(NOON), 12);
    assert_eq!(lane.allowance, 16);
}
