//! Callers and what belongs to them.

use engagement_bridge::courier::{ExtraHeader, Format, SigningKey};
use engagement_bridge::store::{CallbackSettings, KeyDigest, Page, Rotated, Rotation};
use futures_util::future::join;
use jiff::Timestamp;
use secrecy::ExposeSecret;

use super::{Bench, laws};
use crate::support::{NOON, SECRET, after, api_key, caller, connection, registration};

laws![
    a_name_is_given_once,
    a_key_opens_until_it_is_revoked,
    secrets_overlap_while_they_are_rotated,
    the_newest_secret_cannot_be_revoked,
    no_more_secrets_are_live_than_may_be_whoever_rotates_at_once,
    keys_follow_one_another_as_secrets_do_until_there_are_none,
    a_caller_says_how_its_callbacks_are_sent,
    the_first_connection_is_the_default,
    a_connection_in_use_stays,
];

fn rotation(older_until: Timestamp, now: Timestamp) -> Rotation {
    Rotation { now, older_until, most_live: 4 }
}

async fn a_name_is_given_once(bench: &Bench) {
    let secret = SECRET.parse().unwrap();
    let contoso = caller("contoso");
    assert!(!bench.add_caller(&contoso, api_key("second"), &secret, NOON).await.unwrap());
    assert_eq!(bench.caller_by_key(&api_key("second").digest).await.unwrap(), None);
    let fabrikam = caller("fabrikam");
    assert!(bench.add_caller(&fabrikam, api_key("second"), &secret, NOON).await.unwrap());

    let page = |after, limit| Page { after, limit };
    assert_eq!(bench.callers(page(None, 1)).await.unwrap(), std::slice::from_ref(&contoso));
    assert_eq!(bench.callers(page(Some(contoso), 9)).await.unwrap(), [fabrikam]);
}

async fn a_key_opens_until_it_is_revoked(bench: &Bench) {
    let contoso = caller("contoso");
    assert!(bench.add_key(&contoso, api_key("second")).await.unwrap());
    assert!(!bench.add_key(&caller("nobody"), api_key("third")).await.unwrap());
    for id in ["first", "second"] {
        let opened = bench.caller_by_key(&api_key(id).digest).await.unwrap();
        assert_eq!(opened, Some(contoso.clone()));
    }
    assert_eq!(bench.caller_by_key(&KeyDigest([0; 32])).await.unwrap(), None);
    assert!(bench.revoke_key(&contoso, "first").await.unwrap());
    assert!(!bench.revoke_key(&contoso, "first").await.unwrap());
    assert_eq!(bench.caller_by_key(&api_key("first").digest).await.unwrap(), None);
    let left = bench.keys(&contoso).await.unwrap().unwrap();
    assert_eq!(left.iter().map(|key| key.id.as_str()).collect::<Vec<_>>(), ["second"]);
    assert!(bench.keys(&caller("nobody")).await.unwrap().is_none());
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
    assert_eq!(default.client_secret.expose_secret(), "client-secret");
    let named = bench.connection(&contoso, Some("another")).await.unwrap().unwrap();
    assert_eq!(named.name, "another");
    assert!(bench.connection(&contoso, Some("third")).await.unwrap().is_none());
    assert!(bench.connection(&nobody, None).await.unwrap().is_none());

    assert_eq!(bench.remove_connection(&contoso, "contoso").await.unwrap(), Some(true));
    assert_eq!(bench.remove_connection(&contoso, "contoso").await.unwrap(), None);
    assert_eq!(bench.connection(&contoso, None).await.unwrap().unwrap().name, "another");
}

async fn a_connection_in_use_stays(bench: &Bench) {
    bench.keep([registration(1)]).await;
    let contoso = caller("contoso");
    assert_eq!(bench.remove_connection(&contoso, "contoso").await.unwrap(), Some(false));
    bench.settle_one(after(60)).await;
    assert_eq!(bench.remove_connection(&contoso, "contoso").await.unwrap(), Some(true));
}
