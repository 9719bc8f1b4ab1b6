//! Callers and what belongs to them.

use engagement_bridge::store::{KeyDigest, Page};
use secrecy::ExposeSecret;

use super::{Bench, laws};
use crate::support::{NOON, SECRET, after, api_key, caller, connection, registration};

laws![
    a_name_is_given_once,
    a_key_opens_until_it_is_revoked,
    secrets_overlap_while_they_are_rotated,
    the_newest_secret_cannot_be_revoked,
    the_first_connection_is_the_default,
    a_connection_in_use_stays,
];

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
    let second = bench.rotate_secret(&contoso, &secret, after(100), after(10)).await.unwrap();
    let third = bench.rotate_secret(&contoso, &secret, after(500), after(20)).await.unwrap();
    assert_eq!((second, third), (Some(2), Some(3)));
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
    let nobody = bench.rotate_secret(&caller("nobody"), &secret, NOON, NOON).await.unwrap();
    assert_eq!(nobody, None);
}

async fn the_newest_secret_cannot_be_revoked(bench: &Bench) {
    let contoso = caller("contoso");
    assert!(!bench.revoke_secret(&contoso, 1, NOON).await.unwrap());
    let secret = SECRET.parse().unwrap();
    bench.rotate_secret(&contoso, &secret, after(100), NOON).await.unwrap();
    // Else nothing would sign once the first has expired.
    assert!(!bench.revoke_secret(&contoso, 2, NOON).await.unwrap());
    assert!(bench.revoke_secret(&contoso, 1, NOON).await.unwrap());
    assert!(!bench.revoke_secret(&contoso, 1, NOON).await.unwrap());
    assert!(!bench.revoke_secret(&contoso, 2, NOON).await.unwrap());
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
