use std::cell::Cell;
use std::future::pending;

use futures_util::future::join_all;
use futures_util::poll;
use tokio::task::yield_now;

use super::super::stand_in::{SetClock, connection};
use super::*;
use crate::operation::Refusal;

const HOUR: Duration = Duration::from_hours(1);
const TICK: Duration = Duration::from_millis(1);

/// The cache under test, beside the endpoint that it asks, as a count of requests.
struct Scene {
    tokens: Tokens,
    clock: SetClock,
    requests: Cell<u32>,
}

impl Scene {
    fn new() -> Self {
        let scene = Self {
            tokens: Tokens::new(SHORTEST_SERVICE),
            clock: SetClock::default(),
            requests: Cell::new(0),
        };
        scene.clock.advance(HOUR);
        scene
    }

    /// What a poll gets while the endpoint grants tokens named `token 1`, `token 2` and so on.
    async fn granting(&self, secret: &str) -> Result<String, Hindrance> {
        self.asking(secret, || Ok(HOUR)).await
    }

    /// What a poll gets while the endpoint answers `answer`.
    async fn asking(
        &self,
        secret: &str,
        answer: impl Fn() -> Result<Duration, Hindrance>,
    ) -> Result<String, Hindrance> {
        self.get(secret, async {
            // The others come in between.
            yield_now().await;
            let number = self.requests.get() + 1;
            self.requests.set(number);
            let secret = token(number).into();
            answer().map(|lives_for| Granted { secret, lives_for, refresh_token: None })
        })
        .await
    }

    async fn get(
        &self,
        secret: &str,
        fetch: impl Future<Output = Result<Granted, Hindrance>>,
    ) -> Result<String, Hindrance> {
        self.get_for("contoso", secret, fetch).await
    }

    async fn get_for(
        &self,
        caller: &str,
        secret: &str,
        fetch: impl Future<Output = Result<Granted, Hindrance>>,
    ) -> Result<String, Hindrance> {
        let until = Instant::now() + Duration::from_secs(10);
        let token = self.tokens.get(&identity(secret), caller, &self.clock, until, fetch).await?;
        Ok(token.secret.expose_secret().to_owned())
    }

    fn refuse(&self, secret: &str, token: &str) {
        let token = AccessToken { secret: token.into(), expires_at: Timestamp::MAX };
        self.tokens.forget(&identity(secret), &token, self.clock.now());
    }
}

fn identity(secret: &str) -> Identity {
    Identity::of(&connection(secret), "scope")
}

fn token(number: u32) -> String {
    format!("token {number}")
}

fn trouble_for(seconds: u64) -> Hindrance {
    Hindrance::Trouble { retry_after: Some(Duration::from_secs(seconds)) }
}

const TROUBLE: Hindrance = Hindrance::Trouble { retry_after: None };
const REFUSED: Hindrance = Hindrance::Refused(Refusal::ClientRefused);

#[tokio::test]
async fn however_many_polls_wait_one_of_them_asks() {
    let scene = Scene::new();
    let got = join_all((0..50).map(|_| scene.granting("s"))).await;
    assert_eq!(got, vec![Ok(token(1)); 50]);
    assert_eq!(scene.requests.get(), 1);
}

#[tokio::test]
async fn a_failure_is_told_to_all_who_waited_for_it() {
    let scene = Scene::new();
    let got = join_all((0..50).map(|_| scene.asking("s", || Err(TROUBLE)))).await;
    assert_eq!(got, vec![Err(trouble_for(5)); 50]);
    assert_eq!(scene.requests.get(), 1);
}

#[tokio::test]
async fn a_token_is_renewed_in_the_last_quarter_of_its_life_without_keeping_anyone_waiting() {
    let scene = Scene::new();
    assert_eq!(scene.granting("s").await, Ok(token(1)));
    scene.clock.advance((HOUR / 4 * 3).saturating_sub(TICK));
    assert_eq!(scene.granting("s").await, Ok(token(1)));
    assert_eq!(scene.requests.get(), 1);

    scene.clock.advance(HOUR / JITTER_DIVISOR + TICK);
    let mut stuck = Box::pin(scene.get("s", pending()));
    assert!(poll!(stuck.as_mut()).is_pending());
    assert_eq!(scene.granting("s").await, Ok(token(1)));
    assert_eq!(scene.requests.get(), 1);

    drop(stuck);
    assert_eq!(scene.granting("s").await, Ok(token(2)));
}

#[tokio::test]
async fn a_renewal_that_fails_leaves_the_token_that_is_still_good() {
    let scene = Scene::new();
    assert_eq!(scene.granting("s").await, Ok(token(1)));
    scene.clock.advance(HOUR / 5 * 4);
    for _ in 0..3 {
        assert_eq!(scene.asking("s", || Err(REFUSED)).await, Ok(token(1)));
    }
    assert_eq!(scene.requests.get(), 2);
    scene.clock.advance(REFUSED_FOR);
    assert_eq!(scene.granting("s").await, Ok(token(3)));
}

#[tokio::test]
async fn a_token_is_not_used_in_the_last_moments_of_its_life() {
    let scene = Scene::new();
    assert_eq!(scene.granting("s").await, Ok(token(1)));
    scene.clock.advance(HOUR.saturating_sub(LONGEST_MARGIN + TICK));
    assert_eq!(scene.asking("s", || Err(trouble_for(60))).await, Ok(token(1)));
    scene.clock.advance(TICK);
    let rest = Duration::from_mins(1).saturating_sub(TICK);
    let expected = Err(Hindrance::Trouble { retry_after: Some(rest) });
    assert_eq!(scene.granting("s").await, expected);
}

#[tokio::test]
async fn trouble_is_met_with_ever_longer_pauses() {
    let scene = Scene::new();
    for (number, pause) in
        [(1, 5), (2, 10), (3, 20), (4, 40), (5, 80), (6, 160), (7, 300), (8, 300)]
    {
        for _ in 0..3 {
            assert_eq!(scene.asking("s", || Err(TROUBLE)).await, Err(trouble_for(pause)));
        }
        assert_eq!(scene.requests.get(), number);
        scene.clock.advance(Duration::from_secs(pause));
    }
    assert_eq!(scene.granting("s").await, Ok(token(9)));
    scene.clock.advance(HOUR);
    assert_eq!(scene.asking("s", || Err(TROUBLE)).await, Err(trouble_for(5)));
}

#[tokio::test]
async fn the_endpoint_is_taken_at_its_word_on_when_to_come_back_within_reason() {
    let scene = Scene::new();
    assert_eq!(scene.asking("s", || Err(trouble_for(120))).await, Err(trouble_for(120)));
    scene.clock.advance(Duration::from_secs(90));
    assert_eq!(scene.granting("s").await, Err(trouble_for(30)));
    assert_eq!(scene.asking("t", || Err(trouble_for(999_999))).await, Err(trouble_for(3_600)));
}

#[tokio::test]
async fn a_refusal_is_remembered_until_another_secret_comes() {
    let scene = Scene::new();
    for _ in 0..3 {
        assert_eq!(scene.asking("old", || Err(REFUSED)).await, Err(REFUSED));
    }
    assert_eq!(scene.requests.get(), 1);
    assert_eq!(scene.granting("new").await, Ok(token(2)));
    assert_eq!(scene.granting("old").await, Err(REFUSED));
    scene.clock.advance(REFUSED_FOR);
    assert_eq!(scene.granting("old").await, Ok(token(3)));
}

#[tokio::test]
async fn a_token_that_graph_refuses_is_thrown_away() {
    let scene = Scene::new();
    assert_eq!(scene.granting("s").await, Ok(token(1)));
    scene.clock.advance(SHORTEST_SERVICE);
    scene.refuse("s", "token 1");
    assert_eq!(scene.granting("s").await, Ok(token(2)));
    // A poll that set out with the first one learns of it late.
    scene.clock.advance(SHORTEST_SERVICE);
    scene.refuse("s", "token 1");
    assert_eq!(scene.granting("s").await, Ok(token(2)));
}

#[tokio::test]
async fn refusals_of_young_tokens_make_no_loop_of_requests() {
    let scene = Scene::new();
    // A poll each second, of a connection without permission.
    for _ in 0..300 {
        let token = scene.granting("s").await.unwrap();
        scene.refuse("s", &token);
        scene.clock.advance(Duration::from_secs(1));
    }
    assert_eq!(scene.requests.get(), 10);
}

#[tokio::test]
async fn an_operation_that_was_refused_has_another_token_for_its_next_poll() {
    for age in 0..60 {
        // Each in a process of its own, so that none is short of its ration.
        let scene = Scene::new();
        let secret = format!("{age}");
        let first = scene.granting(&secret).await;
        scene.clock.advance(Duration::from_secs(age));
        scene.refuse(&secret, first.as_ref().unwrap());
        scene.clock.advance(Duration::from_secs(31));
        assert_ne!(scene.granting(&secret).await, first, "refused after {age} s");
    }
}

#[tokio::test]
async fn a_poll_that_goes_away_while_asking_leaves_it_to_the_next() {
    let scene = Scene::new();
    let mut stuck = Box::pin(scene.get("s", pending()));
    assert!(poll!(stuck.as_mut()).is_pending());
    let mut waiting = Box::pin(scene.granting("s"));
    assert!(poll!(waiting.as_mut()).is_pending());
    drop(stuck);
    assert_eq!(waiting.await, Ok(token(1)));
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_another_poll_without_end() {
    let scene = Scene::new();
    let mut stuck = Box::pin(scene.get("s", pending()));
    assert!(poll!(stuck.as_mut()).is_pending());
    assert_eq!(scene.granting("s").await, Err(TROUBLE));
    assert_eq!(scene.requests.get(), 0);
}

#[tokio::test]
async fn the_identity_that_was_not_used_for_longest_makes_room() {
    let scene =
        Scene { tokens: Tokens { capacity: 3, ..Tokens::new(SHORTEST_SERVICE) }, ..Scene::new() };
    for secret in ["a", "b", "c", "a", "d"] {
        scene.clock.advance(Duration::from_secs(1));
        scene.granting(secret).await.unwrap();
    }
    assert_eq!(scene.tokens.lock().len(), 3);
    assert_eq!(scene.requests.get(), 4);
    scene.granting("a").await.unwrap();
    assert_eq!(scene.requests.get(), 4);
    scene.granting("b").await.unwrap();
    assert_eq!(scene.requests.get(), 5);
}

/// How an authority, and Graph with it, may keep an identity asking.
#[derive(Clone, Copy, Debug)]
enum Malice {
    /// Tokens that are over as soon as they are there.
    ShortLives,
    /// Good tokens that Graph refuses.
    Refused,
    /// Refusals, each of which is met with another proof by the same caller.
    OtherProofs,
    Trouble,
    /// One after the other.
    Everything,
}

/// Three hours, with a poll every 100 ms; when tokens were asked for.
async fn asked_under(malice: Malice) -> Vec<Timestamp> {
    let scene = Scene::new();
    let mut asked = Vec::new();
    for step in 0..(3 * 3_600 * 10_u32) {
        let malice = match (malice, step / 50 % 4) {
            (Malice::Everything, 0) => Malice::ShortLives,
            (Malice::Everything, 1) => Malice::Refused,
            (Malice::Everything, 2) => Malice::OtherProofs,
            (Malice::Everything, _) => Malice::Trouble,
            (other, _) => other,
        };
        let before = scene.requests.get();
        match malice {
            Malice::ShortLives => {
                drop(scene.asking("s", || Ok(Duration::from_millis(1))).await);
            }
            Malice::Refused => {
                if let Ok(token) = scene.granting("s").await {
                    scene.refuse("s", &token);
                }
            }
            Malice::OtherProofs => {
                drop(scene.asking(&(step % 500).to_string(), || Err(REFUSED)).await);
            }
            Malice::Trouble | Malice::Everything => {
                drop(scene.asking("s", || Err(TROUBLE)).await);
            }
        }
        if before < scene.requests.get() {
            asked.push(scene.clock.now());
        }
        scene.clock.advance(Duration::from_millis(100));
    }
    asked
}

#[tokio::test]
async fn no_authority_can_make_an_identity_ask_more_often_than_its_ration() {
    // Requests with a proof that was never taken count for whoever brought it. So does the first one of
    // each that is taken then.
    for (malice, ration) in [
        (Malice::ShortLives, 71),
        (Malice::Refused, 71),
        (Malice::OtherProofs, 70),
        (Malice::Trouble, 70),
        (Malice::Everything, 140),
    ] {
        let asked = asked_under(malice).await;
        let most = asked
            .iter()
            .map(|begin| {
                asked.iter().filter(|at| *begin <= **at && **at < after(*begin, HOUR)).count()
            })
            .max();
        assert!(most.is_some_and(|most| (10..=ration).contains(&most)), "{malice:?}: {most:?}");
    }
}

/// Who knows the name of an app can bring proofs that are none, one after the other.
#[tokio::test]
async fn proofs_that_are_none_use_up_the_ration_of_who_brings_them() {
    let scene = Scene::new();
    assert_eq!(scene.granting("s").await, Ok(token(1)));
    let mut asked = 0;
    for n in 0..100 {
        let refused = async {
            asked += 1;
            Err(REFUSED)
        };
        scene.get_for("mallory", &format!("none {n}"), refused).await.unwrap_err();
        scene.clock.advance(Duration::from_millis(300));
    }
    assert_eq!(asked, 10);
    // A proof that she shares with another caller is asked with by that one, whatever she has used up.
    scene.get_for("mallory", "shared", pending()).await.unwrap_err();
    let shared =
        async { Ok(Granted { secret: "of both".into(), lives_for: HOUR, refresh_token: None }) };
    assert_eq!(scene.get_for("fabrikam", "shared", shared).await, Ok("of both".to_owned()));
    // Neither the connection that works nor another caller's new proof has to wait for it.
    scene.refuse("s", "token 1");
    assert_eq!(scene.granting("s").await, Ok(token(2)));
    let granted =
        async { Ok(Granted { secret: "new".into(), lives_for: HOUR, refresh_token: None }) };
    assert_eq!(scene.get_for("contoso", "replaced", granted).await, Ok("new".to_owned()));
}

#[tokio::test]
async fn renewals_of_what_began_together_do_not_stay_together() {
    let renewals: std::collections::BTreeSet<_> = (0..100)
        .map(|n| {
            let jitter = identity(&n.to_string()).jitter(Timestamp::UNIX_EPOCH);
            assert!((0.0..=1.0).contains(&jitter));
            Held::new("token".into(), Timestamp::UNIX_EPOCH, HOUR, jitter).renew_at
        })
        .collect();
    assert!(90 < renewals.len(), "{}", renewals.len());
    let (first, last) = (renewals.first().unwrap(), renewals.last().unwrap());
    assert!(after(Timestamp::UNIX_EPOCH, HOUR / 4 * 3) <= *first);
    assert!(*last <= after(Timestamp::UNIX_EPOCH, HOUR / 5 * 4));
}
