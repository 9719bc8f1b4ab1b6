//! The sign-ins of users on whose behalf Graph is asked.

use engagement_bridge::graph::{Connection, Credential, Proof, User, UserGrant};
use engagement_bridge::operation::OperationId;
use engagement_bridge::store::{Registered, Registration, Share, Shared, Work};
use jiff::Timestamp;
use secrecy::ExposeSecret as _;

use super::{Bench, laws};
use crate::contract::keeping::cancel;
use crate::support::{NOON, SECRET, after, api_key, caller, registration};

laws![
    the_newest_sign_in_of_a_user_counts_for_all_of_its_operations,
    a_rotated_token_is_kept_unless_somebody_signed_in_anew,
    a_sign_in_is_none_of_the_connections_that_are_shown_or_changed,
    a_sign_in_is_forgotten_once_nothing_goes_by_it,
];

fn user(name: &str) -> User {
    User { tenant: "contoso".to_owned(), object_id: name.to_owned() }
}

/// A sign-in of `name` that is renewed by `token`.
fn sign_in(name: &str, signed_in_at: Timestamp, token: &str) -> Connection {
    let user = user(name);
    let grant = UserGrant { signed_in_at, refresh_token: token.into() };
    Connection {
        name: user.connection_name(),
        tenant: user.tenant,
        client_id: "11111111-2222-3333-4444-555555555555".to_owned(),
        proof: Proof::OnBehalfOf(grant),
    }
}

/// The `n`-th operation, on behalf of `name`.
fn on_behalf_of(n: u32, name: &str) -> Registration {
    let credential = Credential::Connection(sign_in(name, NOON, "whatever").into());
    Registration { credential, ..registration(n) }
}

async fn keep(bench: &Bench, whose: &str, connection: &Connection) -> bool {
    bench.keep_user(&caller(whose), connection).await.unwrap()
}

/// By what the only operation is asked for.
async fn claimed_token(bench: &Bench, now: Timestamp) -> String {
    let work = bench.claim_one(now).await.work;
    let Work::Poll { credential: Credential::Connection(connection), .. } = work else {
        panic!("a poll by a connection");
    };
    let grant = connection.proof.user_grant().unwrap();
    grant.refresh_token.expose_secret().to_owned()
}

async fn the_newest_sign_in_of_a_user_counts_for_all_of_its_operations(bench: &Bench) {
    assert!(!keep(bench, "nobody", &sign_in("alice", after(1), "one")).await);
    let none_yet = bench.register_one(on_behalf_of(1, "alice")).await;
    assert!(matches!(none_yet, Registered::CredentialGone));
    assert!(keep(bench, "contoso", &sign_in("alice", after(10), "second")).await);
    bench.keep([on_behalf_of(1, "alice")]).await;
    // Whoever was overtaken on the way is told that a sign-in is there, which is so.
    assert!(keep(bench, "contoso", &sign_in("alice", after(5), "first")).await);
    assert!(keep(bench, "contoso", &sign_in("bob", after(30), "another's")).await);
    assert_eq!(claimed_token(bench, after(60)).await, "second");
    assert!(keep(bench, "contoso", &sign_in("alice", after(20), "third")).await);
    assert_eq!(claimed_token(bench, after(60) + super::LEASE * 2).await, "third");
}

async fn a_rotated_token_is_kept_unless_somebody_signed_in_anew(bench: &Bench) {
    let (contoso, name) = (caller("contoso"), user("alice").connection_name());
    let renew = async |whose: &str, signed_in_at, token: &str| {
        let token = token.into();
        bench.renew_user(&caller(whose), &name, signed_in_at, &token).await.unwrap()
    };
    assert!(!renew("contoso", after(10), "nobody's").await);
    assert!(bench.keep_user(&contoso, &sign_in("alice", after(10), "first")).await.unwrap());
    bench.keep([on_behalf_of(1, "alice")]).await;
    assert!(!renew("nobody", after(10), "of nobody").await);
    assert!(renew("contoso", after(10), "rotated").await);
    assert_eq!(claimed_token(bench, after(60)).await, "rotated");
    assert!(keep(bench, "contoso", &sign_in("alice", after(20), "anew")).await);
    assert!(!renew("contoso", after(10), "of before").await, "she has signed in since");
    assert_eq!(claimed_token(bench, after(60) + super::LEASE * 2).await, "anew");
}

async fn a_sign_in_is_none_of_the_connections_that_are_shown_or_changed(bench: &Bench) {
    let contoso = caller("contoso");
    let alice = sign_in("alice", after(10), "hers");
    assert!(keep(bench, "contoso", &alice).await);
    let shown = bench.connections(&contoso).await.unwrap().unwrap();
    assert_eq!(shown.iter().map(|it| it.name.as_str()).collect::<Vec<_>>(), ["contoso"]);
    let proof = Proof::Secret("of somebody".into());
    assert!(!bench.replace_proof(&contoso, &alice.name, &proof).await.unwrap());
    let share = Share { with: caller("contoso"), name: "mine".to_owned(), is_withdrawn: false };
    let shared = bench.share_connection(&contoso, &alice.name, &share, NOON).await.unwrap();
    assert_eq!(shared, Shared::NoSuchConnection);
    assert_eq!(bench.remove_connection(&contoso, &alice.name).await.unwrap(), None);
    bench.keep([on_behalf_of(1, "alice")]).await;
    assert_eq!(claimed_token(bench, after(60)).await, "hers");
}

async fn a_sign_in_is_forgotten_once_nothing_goes_by_it(bench: &Bench) {
    let secret = SECRET.parse().unwrap();
    assert!(bench.add_caller(&caller("fabrikam"), api_key("its"), &secret, NOON).await.unwrap());
    for (whose, name, signed_in_at) in [
        ("contoso", "alice", after(10)),
        ("contoso", "bob", after(10)),
        ("contoso", "carol", after(10)),
        ("contoso", "dave", after(90)),
        ("fabrikam", "bob", after(10)),
    ] {
        assert!(keep(bench, whose, &sign_in(name, signed_in_at, "a token")).await);
    }
    bench.keep([on_behalf_of(1, "alice"), on_behalf_of(2, "carol")]).await;
    bench.keep([Registration { caller: caller("fabrikam"), ..on_behalf_of(3, "bob") }]).await;
    cancel(bench, OperationId(2), after(50)).await;

    let forget = async |limit| bench.forget_users(after(90), limit).await.unwrap();
    assert_eq!((forget(1).await, forget(9).await, forget(9).await), (1, 1, 0));
    let mut found = Vec::new();
    for (n, (whose, name)) in (10..).zip([
        ("contoso", "alice"),
        ("contoso", "bob"),
        ("contoso", "carol"),
        ("contoso", "dave"),
        ("fabrikam", "bob"),
    ]) {
        let again = Registration { caller: caller(whose), ..on_behalf_of(n, name) };
        if matches!(bench.register_one(again).await, Registered::New) {
            found.push((whose, name));
        }
    }
    assert_eq!(found, [("contoso", "alice"), ("contoso", "dave"), ("fabrikam", "bob")]);
}
