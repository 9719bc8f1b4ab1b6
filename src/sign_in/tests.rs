//! Tokens as Entra makes them, and as somebody would forge them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use ring::rand::SystemRandom;
use ring::rsa::PublicKeyComponents;
use ring::signature::{RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaEncoding, RsaKeyPair};
use serde_json::{Value, json};
use uuid::Uuid;

use super::*;
use crate::graph::KeysUnavailable;

const ROOT: &str = "https://login.microsoftonline.com";
const API: &str = "11111111-1111-4111-8111-111111111111";
const TENANT: &str = "aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa";
const OTHER_TENANT: &str = "bbbbbbbb-bbbb-4bbb-8bbb-bbbbbbbbbbbb";
const APP: &str = "22222222-2222-4222-8222-222222222222";
const USER: &str = "33333333-3333-4333-8333-333333333333";

/// Seconds since 1970 at which everything here happens.
const NOW: i64 = 1_800_000_000;

/// Keys that protect nothing: the sandbox signs with them as well.
const KEYS: [&[u8]; 2] =
    [include_bytes!("../sandbox/entra/keys/1.pk8"), include_bytes!("../sandbox/entra/keys/2.pk8")];

fn now() -> Timestamp {
    Timestamp::from_second(NOW).unwrap()
}

fn key(number: usize) -> RsaKeyPair {
    RsaKeyPair::from_pkcs8(KEYS[number]).unwrap()
}

fn part(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

fn signed_as(number: usize, padding: &'static dyn RsaEncoding, parts: (&Value, &Value)) -> String {
    let text = format!("{}.{}", part(parts.0), part(parts.1));
    let key = key(number);
    let mut signature = vec![0; key.public().modulus_len()];
    key.sign(padding, &SystemRandom::new(), text.as_bytes(), &mut signature).unwrap();
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn signed(number: usize, header: &Value, claims: &Value) -> String {
    signed_as(number, &RSA_PKCS1_SHA256, (header, claims))
}

/// Key `number`, published as `kid`.
fn published(number: usize, kid: &str, issuer: Option<&str>) -> Value {
    let components: PublicKeyComponents<Vec<u8>> = key(number).public().into();
    let mut key = json!({
        "kty": "RSA", "use": "sig", "kid": kid, "x5t": kid,
        "n": URL_SAFE_NO_PAD.encode(components.n), "e": URL_SAFE_NO_PAD.encode(components.e),
    });
    if let Some(issuer) = issuer {
        key["issuer"] = json!(issuer);
    }
    key
}

fn issuer(tenant: &str) -> String {
    format!("{ROOT}/{tenant}/v2.0")
}

fn header() -> Value {
    json!({"typ": "JWT", "alg": "RS256", "kid": "one"})
}

fn of_user() -> Value {
    json!({
        "ver": "2.0", "aud": API, "iss": issuer(TENANT), "tid": TENANT, "oid": USER, "azp": APP,
        "iat": NOW - 60, "nbf": NOW - 60, "exp": NOW + 3_600, "sub": "s", "uti": "u",
        "scp": "Operations.Register Operations.Read", "name": "Somebody",
    })
}

fn of_app() -> Value {
    let mut claims = of_user();
    claims.as_object_mut().unwrap().remove("scp");
    claims["roles"] = json!(["Operations.Manage", "Something.Else"]);
    claims
}

/// `claims` with some of them changed; null takes one away.
fn changed(claims: &Value, changes: &Value) -> Value {
    let mut claims = claims.clone();
    for (name, value) in changes.as_object().unwrap() {
        if value.is_null() {
            claims.as_object_mut().unwrap().remove(name);
        } else {
            claims[name] = value.clone();
        }
    }
    claims
}

fn rules() -> Rules {
    Rules::new(API.parse().unwrap(), [TENANT.parse::<Uuid>().unwrap()], ROOT)
}

fn keys() -> KeySet {
    let another = issuer(OTHER_TENANT);
    let keys = json!({"keys": [
        published(0, "one", Some(&issuer(TENANT))),
        published(1, "anybody's", None),
        published(1, "any tenant's", Some(&format!("{ROOT}/{{tenantid}}/v2.0"))),
        published(1, "another's", Some(&another)),
    ]});
    KeySet::read(keys.to_string().as_bytes()).unwrap()
}

/// What is said of a token by all rules, one after the other.
fn judged(text: &str) -> Result<Visitor, Refusal> {
    let rules = rules();
    let token = Token::read(text)?;
    let visitor = judge::claims(&rules, &token, now())?;
    judge::signature(&rules, &token, &keys())?;
    Ok(visitor)
}

#[test]
fn a_user_and_an_app_come_in_with_what_they_were_granted() {
    let user = Visitor {
        tenant: TENANT.to_owned(),
        object_id: USER.to_owned(),
        app: APP.to_owned(),
        is_user: true,
        rights: Rights { register: true, read: true, manage: false },
        expires_at: Timestamp::from_second(NOW + 3_600).unwrap(),
    };
    assert_eq!(judged(&signed(0, &header(), &of_user())), Ok(user.clone()));
    let app =
        Visitor { is_user: false, rights: Rights { manage: true, ..Rights::default() }, ..user };
    assert_eq!(judged(&signed(0, &header(), &of_app())), Ok(app));
}

#[test]
fn names_are_compared_as_guids_and_other_claims_do_not_matter() {
    let upper = json!({
        "tid": TENANT.to_uppercase(), "oid": USER.to_uppercase(), "azp": APP.to_uppercase(),
        "nbf": null, "xms_st": {"sub": 1}, "wids": [1, 2],
    });
    let visitor = judged(&signed(0, &header(), &changed(&of_user(), &upper))).unwrap();
    assert_eq!((visitor.tenant, visitor.object_id), (TENANT.to_owned(), USER.to_owned()));
    assert_eq!(visitor.app, APP);
}

#[test]
fn a_token_is_refused_for_each_claim_that_is_not_as_it_must_be() {
    let other = "44444444-4444-4444-8444-444444444444";
    for (changes, refusal) in [
        (json!({"aud": other}), Refusal::Audience),
        (json!({"aud": format!("api://{API}")}), Refusal::Audience),
        (json!({"aud": [API]}), Refusal::Malformed),
        (json!({"aud": "00000003-0000-0000-c000-000000000000"}), Refusal::ForGraph),
        (json!({"aud": "https://graph.microsoft.com/", "ver": "1.0"}), Refusal::ForGraph),
        (json!({"ver": "1.0", "aud": format!("api://{API}")}), Refusal::Version),
        (json!({"ver": null}), Refusal::Version),
        (json!({"tid": OTHER_TENANT, "iss": issuer(OTHER_TENANT)}), Refusal::Tenant),
        (json!({"tid": "contoso"}), Refusal::Tenant),
        (json!({"tid": null}), Refusal::Tenant),
        (json!({"iss": issuer(OTHER_TENANT)}), Refusal::Issuer),
        (json!({"iss": format!("{}/", issuer(TENANT))}), Refusal::Issuer),
        (json!({"iss": format!("https://sts.windows.net/{TENANT}/")}), Refusal::Issuer),
        (json!({"exp": NOW - 61}), Refusal::Expired),
        (json!({"exp": NOW - 60}), Refusal::Expired),
        (json!({"exp": null}), Refusal::Malformed),
        (json!({"exp": i64::MAX}), Refusal::Malformed),
        (json!({"nbf": NOW + 61}), Refusal::NotYetValid),
        (json!({"oid": null}), Refusal::Nobody),
        (json!({"azp": null}), Refusal::Nobody),
        (json!({"azp": "an app"}), Refusal::Nobody),
        (json!({"scp": null}), Refusal::NoRights),
        (json!({"scp": ""}), Refusal::NoRights),
        (json!({"scp": "operations.read Operations.Read.All"}), Refusal::NoRights),
        // What a user is in the app is not what the user let the app do.
        (json!({"scp": "profile", "roles": ["Operations.Manage"]}), Refusal::NoRights),
        (json!({"scp": null, "roles": []}), Refusal::NoRights),
        (json!({"roles": "Operations.Manage"}), Refusal::Malformed),
    ] {
        let token = signed(0, &header(), &changed(&of_user(), &changes));
        assert_eq!(judged(&token), Err(refusal), "{changes}");
    }
    for (changes, is_fine) in [(json!({"exp": NOW - 59}), true), (json!({"nbf": NOW + 60}), true)] {
        let token = signed(0, &header(), &changed(&of_user(), &changes));
        assert_eq!(judged(&token).is_ok(), is_fine, "clocks may be a minute apart: {changes}");
    }
}

#[test]
fn a_token_is_refused_whose_signature_is_not_that_of_a_key_of_its_tenant() {
    let with = |changes: &Value| changed(&header(), changes);
    for (number, changes, refusal) in [
        (0, json!({"alg": "none"}), Refusal::Algorithm),
        (0, json!({"alg": "HS256"}), Refusal::Algorithm),
        (0, json!({"alg": "rs256"}), Refusal::Algorithm),
        (0, json!({"alg": "PS256"}), Refusal::Algorithm),
        (0, json!({"crit": ["exp"]}), Refusal::Algorithm),
        (0, json!({"alg": null}), Refusal::Malformed),
        (0, json!({"kid": "two"}), Refusal::UnknownKey),
        (0, json!({"kid": null}), Refusal::UnknownKey),
        (0, json!({"kid": "anybody's"}), Refusal::Signature),
        (1, json!({}), Refusal::Signature),
        (1, json!({"kid": "another's"}), Refusal::KeyOfAnother),
    ] {
        let token = signed(number, &with(&changes), &of_user());
        assert_eq!(judged(&token), Err(refusal), "{changes} by key {number}");
    }
    for kid in ["anybody's", "any tenant's"] {
        assert!(judged(&signed(1, &with(&json!({"kid": kid})), &of_user())).is_ok(), "{kid}");
    }
    let pss = signed_as(0, &RSA_PSS_SHA256, (&header(), &of_user()));
    assert_eq!(judged(&pss), Err(Refusal::Signature));
}

#[test]
fn a_token_that_was_changed_anywhere_is_refused() {
    let token = signed(0, &header(), &of_user());
    for (place, byte) in token.bytes().enumerate() {
        let mut other = token.clone().into_bytes();
        other[place] = if byte == b'A' { b'B' } else { b'A' };
        let other = String::from_utf8(other).unwrap();
        assert!(judged(&other).is_err(), "at {place}");
    }
    let (rest, _) = token.rsplit_once('.').unwrap();
    assert_eq!(judged(&format!("{rest}.")), Err(Refusal::Signature));
}

#[test]
fn what_is_no_token_is_told_from_one_that_is_too_long() {
    for text in ["", "..", "a.b.c", "eyJ.eyJ.x", "e30.e30.e30", "a", "a.b", "a.b.c.d", "é.é.é"] {
        assert_eq!(judged(text), Err(Refusal::Malformed), "{text}");
    }
    let long = format!("{}.a.b", "a".repeat(token::LONGEST));
    assert_eq!(judged(&long), Err(Refusal::TooLong));
}

#[test]
fn no_key_is_taken_that_is_not_for_these_signatures() {
    let mut odd = published(0, "for encryption", None);
    odd["use"] = json!("enc");
    let mut pss = published(0, "for another algorithm", None);
    pss["alg"] = json!("PS256");
    let curve = json!({"kty": "EC", "kid": "curve", "crv": "P-256", "x": "AA", "y": "AA"});
    let mut empty = published(0, "empty", None);
    empty["n"] = json!("");
    let others = json!([odd, pss, curve, empty, 7, {"kid": 7}]);
    let only = json!({"keys": others}).to_string();
    assert_eq!(KeySet::read(only.as_bytes()).unwrap_err(), UnusableKeys::NoneUsable);
    let mut all = others.as_array().unwrap().clone();
    all.push(published(0, "one", None));
    let set = KeySet::read(json!({"keys": all}).to_string().as_bytes()).unwrap();
    assert!(set.has("one") && set.count() == 1);
    for text in ["", "[]", "{}", "{\"keys\": {}}", "<html>"] {
        assert_eq!(KeySet::read(text.as_bytes()).unwrap_err(), UnusableKeys::NotKeys, "{text}");
    }
    let many = json!({"keys": vec![published(0, "one", None); 129]}).to_string();
    assert_eq!(KeySet::read(many.as_bytes()).unwrap_err(), UnusableKeys::TooMany);
}

/// Publishes what it is told to, after a second, and counts how often it is asked.
struct StandIn {
    published: Mutex<Option<&'static str>>,
    asked: AtomicUsize,
}

impl StandIn {
    fn publish(&self, kid: Option<&'static str>) {
        *self.published.lock().unwrap_or_else(PoisonError::into_inner) = kid;
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

#[async_trait]
impl Authority for StandIn {
    async fn published_keys(&self, _tenant: &str) -> Result<Bytes, KeysUnavailable> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(1)).await;
        let kid = *self.published.lock().unwrap_or_else(PoisonError::into_inner);
        let unavailable = KeysUnavailable::Refused { url: ROOT.to_owned(), status: 503 };
        let keys = kid.map(|kid| json!({"keys": [published(0, kid, None)]}).to_string());
        keys.map(Bytes::from).ok_or(unavailable)
    }
}

/// Runs `scene` beside the task that keeps keys, in virtual time.
async fn with_keys<F: Future<Output = ()>>(
    first: Option<&'static str>,
    scene: impl FnOnce(Arc<SignIn>, Arc<StandIn>) -> F,
) {
    let authority = Arc::new(StandIn { published: Mutex::new(first), asked: AtomicUsize::new(0) });
    let asked: Arc<dyn Authority> = Arc::clone(&authority) as _;
    let sign_in = Arc::new(SignIn::new(rules(), asked, Pace::default()));
    let stop = CancellationToken::new();
    tokio::select! {
        () = sign_in.keep_keys(stop.clone()) => panic!("keys are kept for ever"),
        () = scene(Arc::clone(&sign_in), authority) => {}
    }
}

async fn visits(sign_in: &SignIn, kid: &str) -> Result<(), Refused> {
    let token = signed(0, &changed(&header(), &json!({"kid": kid})), &of_user());
    sign_in.visitor(&SecretString::from(token), now()).await.map(drop)
}

const UNKNOWN: Result<(), Refused> = Err(Refused::Token(Refusal::UnknownKey));

#[tokio::test(start_paused = true)]
async fn keys_are_fetched_once_for_all_who_wait_and_every_hour_from_then_on() {
    with_keys(Some("one"), async |sign_in, authority| {
        let both = tokio::join!(visits(&sign_in, "one"), visits(&sign_in, "one"));
        assert_eq!(both, (Ok(()), Ok(())));
        assert_eq!(authority.asked(), 1);
        tokio::time::sleep(Duration::from_secs(3_590)).await;
        assert_eq!((visits(&sign_in, "one").await, authority.asked()), (Ok(()), 1));
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert_eq!((visits(&sign_in, "one").await, authority.asked()), (Ok(()), 2));
        tokio::time::sleep(Duration::from_hours(20)).await;
        assert_eq!(authority.asked(), 22);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_not_known_is_asked_for_no_more_often_than_every_five_minutes() {
    with_keys(Some("one"), async |sign_in, authority| {
        assert_eq!(visits(&sign_in, "one").await, Ok(()));
        authority.publish(Some("two"));
        assert_eq!(visits(&sign_in, "two").await, UNKNOWN, "so soon after the last time");
        assert_eq!(authority.asked(), 1);
        tokio::time::sleep(Duration::from_mins(5)).await;
        let all = futures_util::future::join_all((0..50).map(|_| visits(&sign_in, "two"))).await;
        assert!(all.iter().all(Result::is_ok), "{all:?}");
        assert_eq!(authority.asked(), 2, "once for all who came with the new key");
        assert_eq!(visits(&sign_in, "one").await, UNKNOWN, "the old one was withdrawn");
        // Whoever makes keys up costs one request in five minutes, whether they wait or hang up.
        for _ in 0..3_600 {
            drop(tokio::time::timeout(Duration::from_millis(1), visits(&sign_in, "none")).await);
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert!((12..=14).contains(&authority.asked()), "{}", authority.asked());
        assert_eq!(visits(&sign_in, "two").await, Ok(()));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_last_keys_are_believed_for_a_day_while_the_authority_is_in_trouble() {
    with_keys(Some("one"), async |sign_in, authority| {
        assert_eq!(visits(&sign_in, "one").await, Ok(()));
        authority.publish(None);
        tokio::time::sleep(Duration::from_hours(23)).await;
        assert_eq!(visits(&sign_in, "one").await, Ok(()));
        // After the first failure it is asked every five minutes.
        assert!((255..=270).contains(&authority.asked()), "{}", authority.asked());
        tokio::time::sleep(Duration::from_hours(1)).await;
        let unsure = visits(&sign_in, "one").await;
        assert!(matches!(unsure, Err(Refused::Unsure { .. })), "{unsure:?}");
        authority.publish(Some("one"));
        tokio::time::sleep(Duration::from_mins(6)).await;
        assert_eq!(visits(&sign_in, "one").await, Ok(()));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn without_any_keys_nobody_is_believed_and_nobody_is_called_a_liar() {
    with_keys(None, async |sign_in, authority| {
        let unsure = visits(&sign_in, "one").await;
        assert!(matches!(unsure, Err(Refused::Unsure { .. })), "{unsure:?}");
        let Err(Refused::Unsure { retry_after }) = visits(&sign_in, "one").await else {
            panic!("there are no keys");
        };
        assert!(retry_after <= Duration::from_secs(10), "{retry_after:?}");
        authority.publish(Some("one"));
        tokio::time::sleep(retry_after + Duration::from_secs(1)).await;
        assert_eq!(visits(&sign_in, "one").await, Ok(()));
        assert_eq!(authority.asked(), 2);
    })
    .await;
}
