//! What the guard asks and remembers. What it decides is told by the tables of `tests/it/egress`.

use super::super::stand_in::{SetClock, SilentNames, ToldNames};
use super::*;

struct Guard {
    egress: Egress,
    names: Arc<ToldNames>,
    clock: Arc<SetClock>,
}

fn guard() -> Guard {
    let names = Arc::new(ToldNames::default());
    let clock = Arc::new(SetClock::at(Timestamp::UNIX_EPOCH));
    let (resolver, time) = (Arc::clone(&names), Arc::clone(&clock));
    Guard { egress: Egress::new(Rules::default(), resolver, time), names, clock }
}

impl Guard {
    /// The code of the refusal of a host, if it is refused.
    async fn verdict(&self, host: &str) -> Option<&'static str> {
        let checked = self.egress.check(&format!("https://{host}/")).await;
        checked.err().map(|refusal| refusal.code().as_str())
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn neither_refusal_nor_debug_tells_a_path() {
    let rules = Rules::default();
    let url = rules.check_url("https://app.example.com/hooks/s3cret?key=s3cret").unwrap();
    assert_eq!(format!("{url:?}"), "CallbackUrl(https://app.example.com:443/..)");
    let refusal = rules.check_url("https://127.1/hooks/s3cret?key=s3cret").unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "127.0.0.1 is loopback (RFC 1122), and the operator does not allow it",
        "{refusal:?}"
    );
}

#[tokio::test]
async fn what_a_name_leads_to_is_told_to_the_operator_and_not_to_the_caller() {
    let log = crate::tests::log::Log::collect();
    let guard = guard();
    guard.names.tell("db.example", &["10.0.0.7"]);
    let refusal = guard.egress.check("https://db.example/").await.unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "the host has an address that is private (RFC 1918), and the operator does not allow it"
    );
    assert_eq!(refusal.address(), Some(ip("10.0.0.7")));
    assert!(log.text().contains("refused db.example, which leads to 10.0.0.7"), "{}", log.text());
}

#[tokio::test]
async fn a_name_is_looked_up_as_a_complete_one() {
    let guard = guard();
    guard.names.tell("app.example", &["8.8.8.8"]);
    for host in ["app.example", "app.example."] {
        assert_eq!(guard.verdict(host).await, None);
    }
    assert_eq!(guard.names.asked_for(), ["app.example.", "app.example."]);
}

#[tokio::test]
async fn where_a_proxy_looks_names_up_addresses_in_urls_are_judged_all_the_same() {
    let clock = Arc::new(SetClock::at(Timestamp::UNIX_EPOCH));
    let egress = Egress::without_names(Rules::default(), clock);
    assert!(egress.check("https://anything.example/").await.is_ok());
    assert_eq!(egress.admit("anything.example").await.unwrap(), Admitted::Name);
    for inside in ["127.0.0.1", "localhost", "[::ffff:10.0.0.1]", "metadata.google.internal"] {
        assert!(egress.check(&format!("https://{inside}/")).await.is_err(), "{inside}");
    }
    assert!(egress.admit("[::1]").await.is_err());
    let explained = egress.explain("https://anything.example/").await;
    assert!(matches!(explained.verdict, Verdict::Allowed));
    let last = explained.looked.last().unwrap();
    assert!(last.finding.contains("left to the proxy"), "{}", last.finding);
}

#[tokio::test]
async fn an_explanation_comes_to_the_same_as_the_verdict() {
    let guard = guard();
    guard.names.tell("good.example", &["8.8.8.8", "2606:4700::1111"]);
    guard.names.tell("mixed.example", &["8.8.8.8", "10.0.0.7", "::ffff:169.254.169.254"]);
    guard.names.fail("silent.example", LookupError::TimedOut);
    for (host, refused, findings) in [
        ("good.example", None, 2),
        ("mixed.example", Some("addressRefused"), 3),
        ("absent.example", Some("hostNotFound"), 1),
        ("8.8.8.8", None, 1),
        ("localhost", Some("addressRefused"), 2),
    ] {
        assert_eq!(guard.verdict(host).await, refused, "{host}");
        let explained = guard.egress.explain(&format!("https://{host}/")).await;
        let code = match &explained.verdict {
            Verdict::Allowed => None,
            Verdict::Refused(refusal) => Some(refusal.code().as_str()),
            Verdict::Unknown(error) => panic!("{error}"),
        };
        assert_eq!(code, refused, "{host}");
        assert_eq!(explained.looked.len(), 6 + findings, "{explained:?}");
    }
    let explained = guard.egress.explain("https://silent.example/").await;
    assert!(matches!(explained.verdict, Verdict::Unknown(LookupError::TimedOut)));
}

#[tokio::test]
async fn one_bad_address_among_good_ones_refuses_the_name() {
    let guard = guard();
    guard.names.tell("good.example", &["8.8.8.8", "2606:4700::1111"]);
    guard.names.tell("mixed.example", &["8.8.8.8", "2606:4700::1111", "10.0.0.7"]);
    guard.names.tell("mapped.example", &["8.8.8.8", "::ffff:169.254.169.254"]);
    assert_eq!(guard.verdict("good.example").await, None);
    assert_eq!(guard.verdict("mixed.example").await, Some("addressRefused"));
    assert_eq!(guard.verdict("mapped.example").await, Some("addressRefused"));
    assert_eq!(guard.verdict("absent.example").await, Some("hostNotFound"));

    let admitted = guard.egress.admit("good.example").await.unwrap();
    assert_eq!(admitted, Admitted::Addresses(vec![ip("8.8.8.8"), ip("2606:4700::1111")]));
    let NotDialled::Refused(refusal) = guard.egress.admit("mixed.example").await.unwrap_err()
    else {
        panic!("it was not found")
    };
    assert_eq!(refusal.address(), Some(ip("10.0.0.7")));
}

#[tokio::test]
async fn literals_are_not_looked_up() {
    let guard = guard();
    assert_eq!(guard.verdict("8.8.8.8").await, None);
    assert_eq!(guard.verdict("[2606:4700::1111]").await, None);
    assert_eq!(guard.names.asked(), 0);
}

#[tokio::test]
async fn a_resolver_in_trouble_refuses_nobody_and_is_asked_again() {
    let guard = guard();
    for trouble in [LookupError::TimedOut, LookupError::Unavailable("refused".to_owned())] {
        guard.names.fail("app.example", trouble);
        assert_eq!(guard.verdict("app.example").await, None);
    }
    guard.names.tell("app.example", &["10.0.0.7"]);
    assert_eq!(guard.verdict("app.example").await, Some("addressRefused"));
    assert_eq!(guard.names.asked(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_silent_resolver_is_waited_for_so_long_and_no_longer() {
    let clock = Arc::new(SetClock::at(Timestamp::UNIX_EPOCH));
    let egress = Egress::new(Rules::default(), Arc::new(SilentNames), clock);
    let url = egress.check_url("https://app.example/").unwrap();
    let began_at = tokio::time::Instant::now();
    assert!(egress.check_host(&url).await.is_ok());
    let waited = began_at.elapsed();
    assert!((PATIENCE..PATIENCE * 2).contains(&waited), "{waited:?}");
}

#[tokio::test]
async fn a_verdict_is_remembered_for_thirty_seconds() {
    let guard = guard();
    guard.names.tell("good.example", &["8.8.8.8"]);
    guard.names.tell("bad.example", &["127.0.0.1"]);
    let hosts = ["good.example", "bad.example", "absent.example"];
    let before = [None, Some("addressRefused"), Some("hostNotFound")];
    for (host, expected) in hosts.into_iter().zip(before) {
        assert_eq!(guard.verdict(host).await, expected, "{host}");
    }
    guard.names.tell("good.example", &["127.0.0.1"]);
    guard.names.tell("bad.example", &["8.8.8.8"]);
    guard.names.tell("absent.example", &["8.8.8.8"]);

    guard.clock.advance(Duration::from_millis(29_999));
    for (host, expected) in hosts.into_iter().zip(before) {
        assert_eq!(guard.verdict(host).await, expected, "{host}");
    }
    assert_eq!(guard.names.asked(), 3);
    guard.clock.advance(Duration::from_millis(1));
    for (host, expected) in hosts.into_iter().zip([Some("addressRefused"), None, None]) {
        assert_eq!(guard.verdict(host).await, expected, "{host}");
    }
    assert_eq!(guard.names.asked(), 6);
}

#[tokio::test]
async fn an_attempt_looks_again_whatever_is_remembered() {
    let guard = guard();
    guard.names.tell("app.example", &["8.8.8.8"]);
    assert_eq!(guard.verdict("app.example").await, None);
    guard.names.tell("app.example", &["127.0.0.1"]);
    let refused = guard.egress.admit("app.example").await.unwrap_err();
    assert!(matches!(refused, NotDialled::Refused(_)), "{refused:?}");
}

#[tokio::test]
async fn no_more_than_so_many_verdicts_are_remembered() {
    let guard = guard();
    let remembered = || guard.egress.remembered.lock().unwrap().len();
    for n in 0..MOST_REMEMBERED + 5 {
        guard.verdict(&format!("n{n}.example")).await;
    }
    assert_eq!(remembered(), MOST_REMEMBERED);
    // Those that found no room are right all the same.
    guard.names.tell("late.example", &["127.0.0.1"]);
    assert_eq!(guard.verdict("late.example").await, Some("addressRefused"));

    guard.clock.advance(REMEMBERED_FOR);
    guard.verdict("next.example").await;
    assert_eq!(remembered(), 1);
}
