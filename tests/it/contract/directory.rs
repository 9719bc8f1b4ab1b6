//! Callers and what belongs to them.

use std::time::Duration;

use engagement_bridge::courier::{ExtraHeader, Format, SigningKey};
use engagement_bridge::graph::{
    ClientCertificate, Connection, Credential, ManagedIdentity, Proof, ProofKind,
};
use engagement_bridge::store::{
    ApiKey, CallbackSettings, CallerName, KeyAdded, KeyDigest, KeyUse, Page, Registration, Rotated,
    Rotation, Scope, Scopes, Share, Shared, Work,
};
use futures_util::future::join;
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};

use super::{Bench, laws};
use crate::support::certificates::{Made, today};
use crate::support::{NOON, SECRET, after, api_key, caller, connection, registration};

laws![
    a_name_is_given_once,
    a_key_opens_until_it_is_revoked,
    a_key_says_what_it_is_for_and_when_it_was_used,
    no_caller_has_more_keys_than_it_may_whoever_makes_them_at_once,
    secrets_overlap_while_they_are_rotated,
    the_newest_secret_cannot_be_revoked,
    no_more_secrets_are_live_than_may_be_whoever_rotates_at_once,
    keys_follow_one_another_as_secrets_do_until_there_are_none,
    a_caller_says_how_its_callbacks_are_sent,
    the_first_connection_is_the_default,
    a_connection_keeps_its_proof_of_whatever_kind,
    a_connection_is_shared_and_withdrawn,
    a_connection_in_use_stays,
];

fn rotation(older_until: Timestamp, now: Timestamp) -> Rotation {
    Rotation { now, older_until, most_live: 4 }
}

async fn a_name_is_given_once(bench: &Bench) {
    let secret = SECRET.parse().unwrap();
    let contoso = caller("contoso");
    assert!(!bench.add_caller(&contoso, api_key("second"), &secret, NOON).await.unwrap());
    assert_eq!(bench.key_holder(&api_key("second").digest).await.unwrap(), None);
    let fabrikam = caller("fabrikam");
    assert!(bench.add_caller(&fabrikam, api_key("second"), &secret, NOON).await.unwrap());

    let page = |after, limit| Page { after, limit };
    assert_eq!(bench.callers(page(None, 1)).await.unwrap(), std::slice::from_ref(&contoso));
    assert_eq!(bench.callers(page(Some(contoso), 9)).await.unwrap(), [fabrikam]);
}

async fn a_key_opens_until_it_is_revoked(bench: &Bench) {
    let contoso = caller("contoso");
    let add = async |name, id| bench.add_key(&caller(name), api_key(id), 9).await.unwrap();
    assert_eq!(add("contoso", "second").await, KeyAdded::Added);
    assert_eq!(add("nobody", "third").await, KeyAdded::NoSuchCaller);
    for id in ["first", "second"] {
        let holder = bench.key_holder(&api_key(id).digest).await.unwrap().unwrap();
        assert_eq!((&holder.caller, holder.id.as_str()), (&contoso, id));
    }
    assert_eq!(bench.key_holder(&KeyDigest([0; 32])).await.unwrap(), None);
    assert!(bench.revoke_key(&contoso, "first").await.unwrap());
    assert!(!bench.revoke_key(&contoso, "first").await.unwrap());
    assert_eq!(bench.key_holder(&api_key("first").digest).await.unwrap(), None);
    let left = bench.keys(&contoso).await.unwrap().unwrap();
    assert_eq!(left.iter().map(|key| key.id.as_str()).collect::<Vec<_>>(), ["second"]);
    assert!(bench.keys(&caller("nobody")).await.unwrap().is_none());
}

async fn a_key_says_what_it_is_for_and_when_it_was_used(bench: &Bench) {
    let contoso = caller("contoso");
    let key = ApiKey {
        label: Some("web frontend, «ü»".to_owned()),
        scopes: Scopes::of([Scope::Read, Scope::Register]).unwrap(),
        created_at: after(1),
        expires_at: Some(after(100)),
        ..api_key("second")
    };
    assert_eq!(bench.add_key(&contoso, key.clone(), 9).await.unwrap(), KeyAdded::Added);
    let holder = bench.key_holder(&key.digest).await.unwrap().unwrap();
    assert_eq!((holder.scopes, holder.expires_at), (key.scopes, key.expires_at));

    let listed = async || bench.keys(&contoso).await.unwrap().unwrap();
    assert_eq!(listed().await, [api_key("first"), key.clone()]);
    let used = |name: &str, id: &str, at| KeyUse { caller: caller(name), id: id.to_owned(), at };
    let note = async |uses| bench.note_key_uses(uses).await.unwrap();
    note(vec![
        used("contoso", "second", after(20)),
        used("nobody", "second", after(30)),
        used("contoso", "revoked", after(30)),
    ])
    .await;
    // Another replica may be late with what it has seen.
    note(vec![used("contoso", "second", after(10)), used("contoso", "first", after(7))]).await;
    note(vec![]).await;
    let times: Vec<_> = listed().await.into_iter().map(|it| it.last_used_at).collect();
    assert_eq!(times, [Some(after(7)), Some(after(20))]);
}

async fn no_caller_has_more_keys_than_it_may_whoever_makes_them_at_once(bench: &Bench) {
    let contoso = caller("contoso");
    let add = async |id| bench.add_key(&contoso, api_key(id), 2).await.unwrap();
    // There is room for one of them.
    let both = join(add("second"), add("third")).await;
    assert!(
        matches!(both, (KeyAdded::Added, KeyAdded::TooMany) | (KeyAdded::TooMany, KeyAdded::Added)),
        "{both:?}"
    );
    assert_eq!(bench.keys(&contoso).await.unwrap().unwrap().len(), 2);
    assert!(bench.revoke_key(&contoso, "first").await.unwrap());
    assert_eq!(add("fourth").await, KeyAdded::Added);
}

async fn secrets_overlap_while_they_are_rotated(bench: &Bench) {
    let contoso = caller("contoso");
    let secret = SECRET.parse().unwrap();
    for (until, now, id) in [(100, 10, 2), (500, 20, 3)] {
        let rotation = rotation(after(until), after(now));
        let rotated = bench.rotate_secret(&contoso, &secret, rotation).await.unwrap();
        assert_eq!(rotated, Rotated::Made(id));
    }
    let live = |at| {
        let contoso = contoso.clone();
        async move {
            let live = bench.secrets(&contoso, at).await.unwrap().unwrap();
            live.into_iter().map(|secret| (secret.id, secret.expires_at)).collect::<Vec<_>>()
        }
    };
    // A later rotation never lets an older secret sign for longer than it was promised.
    let all = [(3, None), (2, Some(after(500))), (1, Some(after(100)))];
    assert_eq!(live(after(99)).await, all);
    assert_eq!(live(after(100)).await, all[..2]);
    assert_eq!(live(after(500)).await, all[..1]);
    let nobody = caller("nobody");
    let rotated = bench.rotate_secret(&nobody, &secret, rotation(NOON, NOON)).await.unwrap();
    assert_eq!(rotated, Rotated::NoSuchCaller);
}

async fn no_more_secrets_are_live_than_may_be_whoever_rotates_at_once(bench: &Bench) {
    let (contoso, secret) = (caller("contoso"), SECRET.parse().unwrap());
    let rotate = async |overlap, now| {
        let rotation = rotation(after(now + overlap), after(now));
        bench.rotate_secret(&contoso, &secret, rotation).await.unwrap()
    };
    let live = async |at| {
        let live = bench.secrets(&contoso, after(at)).await.unwrap().unwrap();
        live.into_iter().map(|it| it.id).collect::<Vec<_>>()
    };
    assert_eq!(rotate(1_000, 0).await, Rotated::Made(2));
    assert_eq!(rotate(1_000, 0).await, Rotated::Made(3));
    // There is room for one of them.
    let both = join(rotate(1_000, 1), rotate(1_000, 1)).await;
    assert!(
        matches!(
            both,
            (Rotated::Made(4), Rotated::TooManyLive) | (Rotated::TooManyLive, Rotated::Made(4))
        ),
        "{both:?}"
    );
    assert_eq!(live(2).await, [4, 3, 2, 1]);
    // Without an overlap there is room, for none of the others is live beside it.
    assert_eq!(rotate(0, 2).await, Rotated::Made(5));
    assert_eq!(live(2).await, [5]);
}

async fn keys_follow_one_another_as_secrets_do_until_there_are_none(bench: &Bench) {
    let contoso = caller("contoso");
    let [first, second, third] = [(); 3].map(|()| SigningKey::generate().unwrap());
    let live = async |at| {
        let live = bench.signing_keys(&contoso, after(at)).await.unwrap().unwrap();
        live.into_iter().map(|it| (it.id, it.public_key, it.expires_at)).collect::<Vec<_>>()
    };
    let rotate = async |key: &SigningKey, until, now| {
        let rotation = rotation(after(until), after(now));
        bench.rotate_signing_key(&contoso, key, rotation).await.unwrap()
    };
    let revoke = async |id, at| bench.revoke_signing_key(&contoso, id, after(at)).await.unwrap();
    assert_eq!(live(0).await, []);
    assert_eq!(rotate(&first, 100, 10).await, Rotated::Made(1));
    assert_eq!(rotate(&second, 100, 20).await, Rotated::Made(2));
    let both = [(2, second.public(), None), (1, first.public(), Some(after(100)))];
    assert_eq!(live(99).await, both);
    assert_eq!(live(100).await, both[..1]);

    assert!(!revoke(2, 30).await, "else nothing would sign once the first has expired");
    assert!(revoke(1, 30).await);
    assert!(!revoke(1, 30).await);
    assert!(revoke(2, 30).await, "the only one");
    assert!(!revoke(2, 30).await);
    assert_eq!(live(30).await, []);
    assert_eq!(rotate(&third, 100, 40).await, Rotated::Made(3), "no number is given again");
    assert_eq!(live(40).await, [(3, third.public(), None)]);

    let nobody = caller("nobody");
    assert_eq!(bench.signing_keys(&nobody, NOON).await.unwrap(), None);
    assert!(!bench.revoke_signing_key(&nobody, 1, NOON).await.unwrap());
    let rotated = bench.rotate_signing_key(&nobody, &third, rotation(NOON, NOON)).await.unwrap();
    assert_eq!(rotated, Rotated::NoSuchCaller);
}

async fn the_newest_secret_cannot_be_revoked(bench: &Bench) {
    let contoso = caller("contoso");
    assert!(!bench.revoke_secret(&contoso, 1, NOON).await.unwrap());
    let secret = SECRET.parse().unwrap();
    bench.rotate_secret(&contoso, &secret, rotation(after(100), NOON)).await.unwrap();
    // Else nothing would sign once the first has expired.
    assert!(!bench.revoke_secret(&contoso, 2, NOON).await.unwrap());
    assert!(bench.revoke_secret(&contoso, 1, NOON).await.unwrap());
    assert!(!bench.revoke_secret(&contoso, 1, NOON).await.unwrap());
    assert!(!bench.revoke_secret(&contoso, 2, NOON).await.unwrap());
}

async fn a_caller_says_how_its_callbacks_are_sent(bench: &Bench) {
    let (contoso, nobody) = (caller("contoso"), caller("nobody"));
    let settings = async || bench.callback_settings(&contoso).await.unwrap().unwrap();
    let fresh = CallbackSettings { format: Format::Envelope, extra_headers: Vec::new() };
    assert_eq!(settings().await, fresh);
    assert_eq!(bench.default_format(&contoso).await.unwrap(), Some(Format::Envelope));
    assert!(bench.set_default_format(&contoso, Format::CloudEvents).await.unwrap());
    assert_eq!(bench.default_format(&contoso).await.unwrap(), Some(Format::CloudEvents));

    let header = |name: &str| ExtraHeader::new(name, "value".into()).unwrap();
    let set = async |name| bench.set_extra_header(&contoso, &header(name), 3).await.unwrap();
    assert_eq!((set("x-b").await, set("x-a").await), (Some(true), Some(true)));
    // There is room for one of them, and for those that are there.
    let both = join(set("x-c"), set("x-d")).await;
    assert!(matches!(both, (Some(true), Some(false)) | (Some(false), Some(true))), "{both:?}");
    assert_eq!(set("x-a").await, Some(true));
    let now = settings().await;
    assert_eq!(now.format, Format::CloudEvents);
    assert_eq!(now.extra_headers.len(), 3);
    assert_eq!(now.extra_headers[..2], ["x-a", "x-b"]);
    assert!(bench.remove_extra_header(&contoso, "x-a").await.unwrap());
    assert!(!bench.remove_extra_header(&contoso, "x-a").await.unwrap());
    assert!(!bench.remove_extra_header(&contoso, "x-b\0").await.unwrap());

    assert_eq!(bench.callback_settings(&nobody).await.unwrap(), None);
    assert_eq!(bench.default_format(&nobody).await.unwrap(), None);
    assert!(!bench.set_default_format(&nobody, Format::Operation).await.unwrap());
    assert_eq!(bench.set_extra_header(&nobody, &header("x-a"), 3).await.unwrap(), None);
    assert!(!bench.remove_extra_header(&nobody, "x-b").await.unwrap());
}

async fn the_first_connection_is_the_default(bench: &Bench) {
    let contoso = caller("contoso");
    let added = bench.add_connection(&contoso, &connection("another"), after(1)).await.unwrap();
    assert_eq!(added, Some(true));
    let taken = bench.add_connection(&contoso, &connection("another"), after(1)).await.unwrap();
    assert_eq!(taken, Some(false));
    let nobody = caller("nobody");
    assert_eq!(bench.add_connection(&nobody, &connection("x"), NOON).await.unwrap(), None);

    let listed = bench.connections(&contoso).await.unwrap().unwrap();
    let named: Vec<_> = listed.iter().map(|it| (it.name.as_str(), it.is_default)).collect();
    assert_eq!(named, [("another", false), ("contoso", true)]);
    let default = bench.connection(&contoso, None).await.unwrap().unwrap();
    assert_eq!(default.name, "contoso");
    assert_eq!(default.proof.secret().unwrap().expose_secret(), "client-secret");
    let named = bench.connection(&contoso, Some("another")).await.unwrap().unwrap();
    assert_eq!(named.name, "another");
    assert!(bench.connection(&contoso, Some("third")).await.unwrap().is_none());
    assert!(bench.connection(&nobody, None).await.unwrap().is_none());

    assert_eq!(bench.remove_connection(&contoso, "contoso").await.unwrap(), Some(true));
    assert_eq!(bench.remove_connection(&contoso, "contoso").await.unwrap(), None);
    assert_eq!(bench.connection(&contoso, None).await.unwrap().unwrap().name, "another");
}

async fn a_connection_keeps_its_proof_of_whatever_kind(bench: &Bench) {
    let contoso = caller("contoso");
    let made = Made::rsa();
    let pem = SecretString::from(made.pem());
    let certificate = ClientCertificate::from_pem(&pem, today()).unwrap();
    let expires_at = certificate.expires_at();
    let thumbprint = certificate.thumbprint().to_string();
    let file = "/var/run/secrets/azure/tokens/azure-identity-token";
    let proofs = [
        ("a", Proof::Secret("secret".into())),
        ("b", Proof::Certificate(certificate.clone())),
        ("c", Proof::FederatedToken { file: file.into() }),
        ("d", Proof::ManagedIdentity(ManagedIdentity::SystemAssigned)),
        ("e", Proof::ManagedIdentity(ManagedIdentity::UserAssigned)),
    ];
    let is_kept = async |name: &str, proof: &Proof| {
        let kept = bench.connection(&contoso, Some(name)).await.unwrap().unwrap();
        assert_eq!(kept.proof.kind(), proof.kind());
        let secret = |proof: &Proof| proof.secret().map(|it| it.expose_secret().to_owned());
        assert_eq!(secret(&kept.proof), secret(proof), "{name}");
        assert_eq!(kept.proof.token_file(), proof.token_file(), "{name}");
        let known =
            |proof: &Proof| proof.certificate().map(|it| (it.thumbprint(), it.expires_at()));
        assert_eq!(known(&kept.proof), known(proof), "{name}");
    };
    for (name, proof) in &proofs {
        let added = Connection { proof: proof.clone(), ..connection(name) };
        assert_eq!(bench.add_connection(&contoso, &added, NOON).await.unwrap(), Some(true));
        is_kept(name, proof).await;
    }
    // Each becomes each other one.
    for (name, _) in &proofs {
        for (_, proof) in &proofs {
            assert!(bench.replace_proof(&contoso, name, proof).await.unwrap());
            is_kept(name, proof).await;
        }
    }
    assert!(!bench.replace_proof(&contoso, "f", &proofs[0].1).await.unwrap());

    assert!(bench.replace_proof(&contoso, "b", &proofs[1].1).await.unwrap());
    let listed = bench.connections(&contoso).await.unwrap().unwrap();
    let with = listed.iter().find(|it| it.name == "b").unwrap();
    assert_eq!(with.proof.kind, ProofKind::Certificate);
    assert_eq!(
        (&with.proof.thumbprint, with.proof.expires_at),
        (&Some(thumbprint), Some(expires_at))
    );
    let without = listed.iter().find(|it| it.name == "a").unwrap();
    assert_eq!(without.proof.kind, ProofKind::UserAssignedIdentity);
    assert_eq!((&without.proof.thumbprint, without.proof.expires_at), (&None, None));

    let tick = Duration::from_millis(1);
    assert!(bench.expiring_proofs(expires_at, 10).await.unwrap().is_empty());
    let expected = [(contoso.clone(), "b".to_owned(), expires_at)];
    assert_eq!(bench.expiring_proofs(expires_at + tick, 10).await.unwrap(), expected);
    assert!(bench.expiring_proofs(expires_at + tick, 0).await.unwrap().is_empty());
}

async fn a_connection_is_shared_and_withdrawn(bench: &Bench) {
    let (contoso, other) = (caller("contoso"), caller("other"));
    let secret = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD".parse().unwrap();
    assert!(bench.add_caller(&other, api_key("key-2"), &secret, NOON).await.unwrap());
    let as_name = |with: &CallerName, name: &str| Share {
        with: with.clone(),
        name: name.to_owned(),
        is_withdrawn: false,
    };
    let theirs = as_name(&other, "theirs");
    let share = async |name: &str, share: &Share| {
        bench.share_connection(&contoso, name, share, NOON).await.unwrap()
    };
    assert_eq!(share("nothing", &theirs).await, Shared::NoSuchConnection);
    assert_eq!(share("contoso", &as_name(&caller("nobody"), "x")).await, Shared::NoSuchCaller);
    assert_eq!(share("contoso", &theirs).await, Shared::Done);
    assert_eq!(share("contoso", &theirs).await, Shared::Done, "once more");
    bench.add_connection(&other, &connection("own"), NOON).await.unwrap();
    assert_eq!(share("contoso", &as_name(&other, "own")).await, Shared::NameTaken);
    assert_eq!(bench.shares(&contoso, "contoso").await.unwrap(), std::slice::from_ref(&theirs));

    // It is used like one of its own, and can be neither looked into nor changed.
    let found = async |name| bench.connection(&other, name).await.unwrap().unwrap();
    let used = found(None).await;
    assert_eq!((used.name.as_str(), used.tenant.as_str()), ("theirs", "contoso.example"));
    assert_eq!(used.proof.secret().unwrap().expose_secret(), "client-secret");
    let kind = async || {
        let listed = bench.connections(&other).await.unwrap().unwrap();
        listed.into_iter().find(|it| it.name == "theirs").unwrap().proof.kind
    };
    assert_eq!(kind().await, ProofKind::Shared);
    let replaced = Proof::Secret("replaced".into());
    assert!(!bench.replace_proof(&other, "theirs", &replaced).await.unwrap());
    let of_shared = bench.share_connection(&other, "theirs", &as_name(&contoso, "x"), NOON).await;
    assert_eq!(of_shared.unwrap(), Shared::NoSuchConnection);

    // What its owner changes holds at once, for polls too.
    bench.keep([shared_registration(1)]).await;
    assert!(bench.replace_proof(&contoso, "contoso", &replaced).await.unwrap());
    assert_eq!(found(Some("theirs")).await.proof.secret().unwrap().expose_secret(), "replaced");
    assert_eq!(proof_of_poll(bench, after(60)).await.secret().unwrap().expose_secret(), "replaced");
    assert_eq!(bench.remove_connection(&contoso, "contoso").await.unwrap(), Some(false));

    assert_eq!(bench.withdraw_connection(&contoso, "contoso", &other).await.unwrap(), 1);
    assert_eq!(bench.withdraw_connection(&contoso, "contoso", &other).await.unwrap(), 0);
    assert_eq!(kind().await, ProofKind::Withdrawn);
    assert_eq!(found(Some("theirs")).await.proof.kind(), ProofKind::Withdrawn);
    assert_eq!(proof_of_poll(bench, after(3_600)).await.kind(), ProofKind::Withdrawn);
    let withdrawn = Share { is_withdrawn: true, ..theirs.clone() };
    assert_eq!(bench.shares(&contoso, "contoso").await.unwrap(), [withdrawn]);
    assert_eq!(bench.remove_connection(&other, "theirs").await.unwrap(), Some(false), "in use");
    assert_eq!(share("contoso", &theirs).await, Shared::Done);
    assert_eq!(found(Some("theirs")).await.proof.secret().unwrap().expose_secret(), "replaced");

    bench.withdraw_connection(&contoso, "contoso", &other).await.unwrap();
    assert_eq!(bench.remove_connection(&contoso, "contoso").await.unwrap(), Some(true));
    assert_eq!(found(Some("theirs")).await.proof.kind(), ProofKind::Withdrawn);
}

/// An operation of the caller `other` that asks by what is shared with it.
fn shared_registration(n: u32) -> Registration {
    let used = Connection { name: "theirs".to_owned(), ..connection("contoso") };
    Registration {
        caller: caller("other"),
        credential: Credential::Connection(used.into()),
        ..registration(n)
    }
}

/// What the next poll is to be made by.
async fn proof_of_poll(bench: &Bench, at: Timestamp) -> Proof {
    let claimed = bench.claim_one(at).await;
    let Work::Poll { credential: Credential::Connection(used), .. } = claimed.work else {
        panic!("a poll by a connection")
    };
    used.proof.clone()
}

async fn a_connection_in_use_stays(bench: &Bench) {
    bench.keep([registration(1)]).await;
    let contoso = caller("contoso");
    assert_eq!(bench.remove_connection(&contoso, "contoso").await.unwrap(), Some(false));
    bench.settle_one(after(60)).await;
    assert_eq!(bench.remove_connection(&contoso, "contoso").await.unwrap(), Some(true));
}
