//! When receivers are asked, how often, and how long their answers count.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use engagement_bridge::clock::Clock;
use engagement_bridge::courier::egress::Rules;
use engagement_bridge::courier::{
    CallbackUrl, Cause, Consent, Declined, Failure, Form, Greeter, Phase,
};
use engagement_bridge::handshake::{Handshakes, Policy, Unagreed};
use engagement_bridge::lane::{self, LaneName, Rate};
use engagement_bridge::store::memory::MemoryStore;
use engagement_bridge::store::{CallerName, Handshake, Store as _};
use futures_util::FutureExt as _;
use futures_util::future::join_all;
use jiff::Timestamp;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::support::{NOON, caller};
use crate::world::PATIENCE;

const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);
const MOMENT: Duration = Duration::from_millis(1);

/// A clock that stands still until it is moved.
struct SetClock(AtomicI64);

impl SetClock {
    fn advance(&self, by: Duration) {
        self.0.fetch_add(by.as_millis().try_into().unwrap(), Ordering::SeqCst);
    }
}

impl Clock for SetClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millisecond(self.0.load(Ordering::SeqCst)).unwrap()
    }
}

/// Answers as told, and agrees behind that, once there is a pass for each.
struct Receivers {
    form: Form,
    answers: Mutex<VecDeque<Result<Consent, Declined>>>,
    passes: Semaphore,
    asked: Mutex<Vec<String>>,
    answered: mpsc::Sender<String>,
}

#[async_trait]
impl Greeter for Receivers {
    fn form(&self) -> &Form {
        &self.form
    }

    async fn greet(&self, url: &CallbackUrl) -> Result<Consent, Declined> {
        self.asked.lock().unwrap().push(url.as_str().to_owned());
        self.passes.acquire().await.unwrap().forget();
        let answer = self.answers.lock().unwrap().pop_front();
        self.answered.send(url.as_str().to_owned()).await.unwrap();
        answer.unwrap_or(Ok(Consent { rate: None }))
    }
}

impl Receivers {
    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    fn answer(&self, answers: impl IntoIterator<Item = Result<Consent, Declined>>) {
        self.answers.lock().unwrap().extend(answers);
    }
}

struct Desk {
    handshakes: Arc<Handshakes>,
    receivers: Arc<Receivers>,
    store: Arc<MemoryStore>,
    clock: Arc<SetClock>,
    answered: tokio::sync::Mutex<mpsc::Receiver<String>>,
}

const FREELY: usize = 1_000;

impl Desk {
    /// Of a process on `store`, whose receivers answer so often at once.
    fn on(store: &Arc<MemoryStore>, clock: &Arc<SetClock>, form: Form, passes: usize) -> Self {
        Self::with_policy(store, clock, form, passes, Policy::default())
    }

    fn with_policy(
        store: &Arc<MemoryStore>,
        clock: &Arc<SetClock>,
        form: Form,
        passes: usize,
        policy: Policy,
    ) -> Self {
        let (sender, answered) = mpsc::channel(FREELY);
        let receivers = Arc::new(Receivers {
            form,
            answers: Mutex::default(),
            passes: Semaphore::new(passes),
            asked: Mutex::default(),
            answered: sender,
        });
        let greeter = Arc::clone(&receivers) as Arc<dyn Greeter>;
        let keeper = Arc::clone(store) as _;
        let handshakes = Handshakes::new(greeter, keeper, Arc::clone(clock) as _, policy);
        Self {
            handshakes: Arc::new(handshakes),
            receivers,
            store: Arc::clone(store),
            clock: Arc::clone(clock),
            answered: tokio::sync::Mutex::new(answered),
        }
    }

    fn fresh(passes: usize) -> Self {
        let clock = Arc::new(SetClock(AtomicI64::new(NOON.as_millisecond())));
        let store = Arc::new(MemoryStore::new(lane::Policy::default()));
        Self::on(&store, &clock, Form::Graph, passes)
    }

    async fn has_agreed(&self, url: &str) -> bool {
        self.handshakes.has_agreed(&shop(), &read(url)).await.unwrap()
    }

    async fn ask(&self, url: &str) -> Result<(), Unagreed> {
        self.handshakes.ask(&shop(), &read(url)).await
    }

    /// Waits until one more renewal was answered.
    async fn renewed(&self) -> String {
        let mut answered = self.answered.lock().await;
        tokio::time::timeout(PATIENCE, answered.recv()).await.expect("nobody was asked").unwrap()
    }

    /// Renews until it is dropped.
    fn renewing(&self) -> JoinSet<()> {
        let handshakes = Arc::clone(&self.handshakes);
        let mut renewing = JoinSet::new();
        renewing.spawn(async move { handshakes.renew(CancellationToken::new()).await });
        renewing
    }

    async fn kept(&self, url: &str) -> Option<Handshake> {
        let lane = LaneName::callback(shop(), read(url).origin());
        self.store.handshake(&lane).await.unwrap()
    }
}

const URL: &str = "https://app.example.com/hooks";
const ELSEWHERE: &str = "https://app.example.com/elsewhere";
const OTHER_PORT: &str = "https://app.example.com:8443/hooks";

fn shop() -> CallerName {
    caller("shop")
}

fn read(url: &str) -> CallbackUrl {
    Rules::default().check_url(url).unwrap()
}

fn declined(cause: Cause) -> Declined {
    Declined { cause, detail: "no".to_owned() }
}

fn refusal() -> Result<Consent, Declined> {
    Err(declined(Cause::Answer))
}

fn silence() -> Result<Consent, Declined> {
    Err(declined(Cause::NoAnswer(Failure::TimedOut(Phase::Waiting))))
}

#[track_caller]
fn assert_declined(asked: &Result<(), Unagreed>) {
    assert!(matches!(asked, Err(Unagreed::Declined(_))), "{asked:?}");
}

#[tokio::test]
async fn a_receiver_is_asked_once_for_each_caller_and_origin() {
    let desk = Desk::fresh(FREELY);
    assert!(!desk.has_agreed(URL).await);
    assert_eq!(desk.receivers.asked(), [""; 0], "looking asks nobody");
    desk.ask(URL).await.unwrap();
    for url in [URL, ELSEWHERE, "https://APP.example.com:443/"] {
        assert!(desk.has_agreed(url).await, "{url}");
        desk.ask(url).await.unwrap();
    }
    assert!(!desk.has_agreed(OTHER_PORT).await);
    assert!(!desk.handshakes.has_agreed(&caller("other"), &read(URL)).await.unwrap());
    desk.handshakes.ask(&caller("other"), &read(URL)).await.unwrap();
    assert_eq!(desk.receivers.asked(), [URL, URL]);
}

#[tokio::test]
async fn what_was_agreed_to_is_kept_with_its_rate_and_known_to_every_process() {
    let desk = Desk::fresh(FREELY);
    let rate = NonZeroU32::new(120).map(Rate::per_minute);
    desk.receivers.answer([Ok(Consent { rate })]);
    desk.clock.advance(MINUTE);
    desk.ask(URL).await.unwrap();
    let agreed_at = NOON + MINUTE;
    let handshake = Handshake { form: "graph".to_owned(), agreed_at, rate };
    assert_eq!(desk.kept(URL).await, Some(handshake));

    let other = Desk::on(&desk.store, &desk.clock, Form::Graph, 0);
    assert!(other.has_agreed(ELSEWHERE).await);
    other.ask(URL).await.unwrap();
    assert_eq!(other.receivers.asked(), [""; 0]);
}

#[tokio::test]
async fn whoever_asks_for_something_else_has_no_answer_yet() {
    let desk = Desk::fresh(FREELY);
    desk.ask(URL).await.unwrap();
    let by_name = |name: &str| Form::CloudEvents(name.parse().unwrap());
    for form in [by_name("one.example.com"), by_name("two.example.com"), Form::Graph] {
        let other = Desk::on(&desk.store, &desk.clock, form, FREELY);
        assert!(!other.has_agreed(URL).await);
        other.ask(URL).await.unwrap();
        assert_eq!(other.receivers.asked(), [URL]);
    }
}

#[tokio::test]
async fn of_many_that_register_at_once_one_asks_and_all_have_its_answer() {
    let desk = Desk::fresh(0);
    let all = join_all((0..20).map(|_| desk.ask(URL)));
    let let_through = async {
        assert_eq!(desk.receivers.asked(), [URL], "all others wait");
        desk.receivers.passes.add_permits(FREELY);
    };
    let (all, ()) = tokio::join!(all, let_through);
    assert!(all.iter().all(Result::is_ok));
    assert_eq!(desk.receivers.asked(), [URL]);

    desk.receivers.answer([silence()]);
    let urls = [OTHER_PORT, "https://app.example.com:8443/x", OTHER_PORT];
    for asked in join_all(urls.map(|url| desk.ask(url))).await {
        assert_declined(&asked);
    }
    assert_eq!(desk.receivers.asked(), [URL, OTHER_PORT]);
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_too_long_for_its_turn_is_told_to_come_again() {
    let desk = Desk::fresh(0);
    let first = tokio::time::timeout(MINUTE, desk.ask(URL));
    let second = async {
        let asked = desk.ask(URL).await;
        assert!(matches!(asked, Err(Unagreed::Later(_))), "{asked:?}");
        desk.receivers.passes.add_permits(1);
    };
    let (first, ()) = tokio::join!(first, second);
    first.unwrap().unwrap();
    assert_eq!(desk.receivers.asked(), [URL]);
}

#[tokio::test]
async fn whoever_goes_away_while_it_asks_leaves_it_to_the_next() {
    let desk = Desk::fresh(0);
    assert!(desk.ask(URL).now_or_never().is_none());
    desk.receivers.passes.add_permits(1);
    desk.ask(URL).await.unwrap();
    assert_eq!(desk.receivers.asked(), [URL, URL]);
}

#[tokio::test]
async fn a_refusal_counts_for_a_moment_and_for_its_url() {
    let desk = Desk::fresh(FREELY);
    desk.receivers.answer([refusal(), refusal()]);
    assert_declined(&desk.ask(URL).await);
    assert!(!desk.has_agreed(URL).await);
    assert_eq!(desk.kept(URL).await, None);
    desk.clock.advance(Duration::from_secs(5).saturating_sub(MOMENT));
    assert_declined(&desk.ask(URL).await);
    assert_eq!(desk.receivers.asked(), [URL]);
    assert_declined(&desk.ask(ELSEWHERE).await);
    assert_eq!(desk.receivers.asked(), [URL, ELSEWHERE], "another URL is another answer");

    desk.clock.advance(Duration::from_secs(5));
    desk.ask(ELSEWHERE).await.unwrap();
    assert_eq!(desk.receivers.asked(), [URL, ELSEWHERE, ELSEWHERE]);
}

#[tokio::test]
async fn a_receiver_that_does_not_answer_is_not_asked_for_another_url_either() {
    let desk = Desk::fresh(FREELY);
    desk.receivers.answer([silence()]);
    assert_declined(&desk.ask(URL).await);
    assert_declined(&desk.ask(ELSEWHERE).await);
    assert_eq!(desk.receivers.asked(), [URL]);
    desk.ask(OTHER_PORT).await.unwrap();
    desk.clock.advance(Duration::from_secs(5));
    desk.ask(ELSEWHERE).await.unwrap();
}

#[tokio::test]
async fn a_caller_has_so_many_questions_and_no_other_has_fewer_for_it() {
    let fresh = Desk::fresh(0);
    let number = |it| NonZeroU32::new(it).unwrap();
    let policy = Policy {
        questions_per_minute: number(1),
        questions_at_once: number(3),
        ..Policy::default()
    };
    let desk = Desk::with_policy(&fresh.store, &fresh.clock, Form::Graph, FREELY, policy);
    let url = |n: usize| format!("https://{n}.example.com/hooks");
    for n in 0..3 {
        desk.ask(&url(n)).await.unwrap();
    }
    let Err(Unagreed::Later(wait)) = desk.ask(&url(3)).await else { panic!("one too many") };
    assert!((MINUTE / 2..=MINUTE).contains(&wait), "{wait:?}");
    assert_eq!(desk.receivers.asked().len(), 3);
    desk.ask(&url(0)).await.unwrap();
    desk.handshakes.ask(&caller("other"), &read(&url(3))).await.unwrap();
}

#[tokio::test]
async fn from_a_day_on_a_receiver_is_asked_again_beside_the_registrations() {
    let desk = Desk::fresh(FREELY);
    desk.ask(URL).await.unwrap();
    desk.renewed().await;
    let _renewing = desk.renewing();
    desk.clock.advance(DAY.saturating_sub(MOMENT));
    assert!(desk.has_agreed(URL).await);
    desk.clock.advance(MOMENT);
    let rate = NonZeroU32::new(7).map(Rate::per_minute);
    desk.receivers.answer([Ok(Consent { rate })]);
    for _ in 0..3 {
        assert!(desk.has_agreed(ELSEWHERE).await);
    }
    assert_eq!(desk.renewed().await, ELSEWHERE);
    // What is asked next waits for its turn, until the renewal is kept.
    desk.ask(URL).await.unwrap();
    let kept = desk.kept(URL).await.unwrap();
    assert_eq!((kept.agreed_at, kept.rate), (NOON + DAY, rate));

    desk.clock.advance(DAY.saturating_sub(MOMENT));
    assert!(desk.has_agreed(URL).await);
    assert_eq!(desk.receivers.asked(), [URL, ELSEWHERE]);
}

#[tokio::test]
async fn a_receiver_that_is_away_keeps_nobody_from_registering_until_its_week_is_over() {
    let desk = Desk::fresh(FREELY);
    desk.ask(URL).await.unwrap();
    desk.renewed().await;
    let _renewing = desk.renewing();
    desk.receivers.answer([silence(), refusal(), silence(), silence()]);
    desk.clock.advance(DAY);
    for round in 0..3 {
        for _ in 0..10 {
            assert!(desk.has_agreed(URL).await, "its last consent counts");
            desk.clock.advance(MINUTE.saturating_sub(MOMENT));
        }
        desk.renewed().await;
        assert_eq!(desk.receivers.asked().len(), round + 2, "one try in ten minutes");
        desk.clock.advance(10 * MOMENT);
    }
    desk.clock.advance((6 * DAY).saturating_sub(30 * MINUTE + MOMENT));
    assert!(desk.has_agreed(URL).await);
    desk.renewed().await;
    desk.clock.advance(MOMENT);
    assert!(!desk.has_agreed(URL).await);
    desk.clock.advance(HOUR);
    desk.receivers.answer([refusal()]);
    assert_declined(&desk.ask(URL).await);
}

#[tokio::test]
async fn what_another_process_has_renewed_is_not_renewed_again() {
    let desk = Desk::fresh(FREELY);
    for url in [URL, OTHER_PORT] {
        desk.ask(url).await.unwrap();
        desk.renewed().await;
    }
    desk.clock.advance(DAY);
    let lane = LaneName::callback(shop(), read(URL).origin());
    let renewed = Handshake { form: "graph".to_owned(), agreed_at: NOON + DAY, rate: None };
    desk.store.keep_handshake(&lane, renewed).await.unwrap();

    assert!(desk.has_agreed(URL).await);
    assert!(desk.has_agreed(OTHER_PORT).await);
    let _renewing = desk.renewing();
    // In the order in which they were planned.
    assert_eq!(desk.renewed().await, OTHER_PORT);
    assert_eq!(desk.receivers.asked(), [URL, OTHER_PORT, OTHER_PORT]);
}
