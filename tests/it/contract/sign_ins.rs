//! Apps that sign in as callers.

use engagement_bridge::store::{Bound, SignInApp, SignInSummary};
use futures_util::future::join;

use super::{Bench, laws};
use crate::support::{NOON, SECRET, after, api_key, caller};

laws![
    an_app_signs_in_as_one_caller_until_it_no_longer_may,
    no_more_apps_sign_in_than_may_whoever_adds_them_at_once,
    the_same_app_of_another_tenant_is_another_app,
];

fn app(tenant: &str, app: &str) -> SignInApp {
    SignInApp { tenant: tenant.to_owned(), app: app.to_owned() }
}

async fn with_fabrikam(bench: &Bench) {
    let secret = SECRET.parse().unwrap();
    assert!(bench.add_caller(&caller("fabrikam"), api_key("its"), &secret, NOON).await.unwrap());
}

async fn an_app_signs_in_as_one_caller_until_it_no_longer_may(bench: &Bench) {
    with_fabrikam(bench).await;
    let (contoso, fabrikam, shop) = (caller("contoso"), caller("fabrikam"), app("t", "shop"));
    let add = async |whose: &str| bench.add_sign_in(&caller(whose), &shop, 9, after(5)).await;
    assert_eq!(bench.caller_by_sign_in(&shop).await.unwrap(), None);
    assert_eq!(add("nobody").await.unwrap(), Bound::NoSuchCaller);
    assert_eq!(bench.caller_by_sign_in(&shop).await.unwrap(), None);
    assert_eq!(add("contoso").await.unwrap(), Bound::Made);
    assert_eq!(bench.caller_by_sign_in(&shop).await.unwrap(), Some(contoso.clone()));
    for whose in ["contoso", "fabrikam"] {
        assert_eq!(add(whose).await.unwrap(), Bound::Taken);
    }
    let listed = bench.sign_ins(&contoso).await.unwrap().unwrap();
    assert_eq!(listed, [SignInSummary { app: shop.clone(), created_at: after(5) }]);
    assert_eq!(bench.sign_ins(&fabrikam).await.unwrap(), Some(vec![]));
    assert_eq!(bench.sign_ins(&caller("nobody")).await.unwrap(), None);

    assert!(!bench.remove_sign_in(&fabrikam, &shop).await.unwrap(), "it is another's");
    assert_eq!(bench.caller_by_sign_in(&shop).await.unwrap(), Some(contoso.clone()));
    assert!(bench.remove_sign_in(&contoso, &shop).await.unwrap());
    assert_eq!(bench.caller_by_sign_in(&shop).await.unwrap(), None);
    assert!(!bench.remove_sign_in(&contoso, &shop).await.unwrap());
    assert_eq!(add("fabrikam").await.unwrap(), Bound::Made);
    assert_eq!(bench.caller_by_sign_in(&shop).await.unwrap(), Some(fabrikam));
}

async fn no_more_apps_sign_in_than_may_whoever_adds_them_at_once(bench: &Bench) {
    with_fabrikam(bench).await;
    let (contoso, [one, two]) = (caller("contoso"), [app("t", "one"), app("t", "two")]);
    let add = async |it: &SignInApp| bench.add_sign_in(&contoso, it, 1, NOON).await.unwrap();
    let both = join(add(&one), add(&two)).await;
    assert!(
        matches!(both, (Bound::Made, Bound::TooMany) | (Bound::TooMany, Bound::Made)),
        "{both:?}"
    );
    assert_eq!(bench.sign_ins(&contoso).await.unwrap().unwrap().len(), 1);
    let others = bench.add_sign_in(&caller("fabrikam"), &app("t", "three"), 1, NOON).await;
    assert_eq!(others.unwrap(), Bound::Made, "each caller has room of its own");
}

async fn the_same_app_of_another_tenant_is_another_app(bench: &Bench) {
    with_fabrikam(bench).await;
    let [here, there] = [app("here", "shop"), app("there", "shop")];
    for (whose, app) in [("contoso", &here), ("fabrikam", &there)] {
        assert_eq!(bench.add_sign_in(&caller(whose), app, 9, NOON).await.unwrap(), Bound::Made);
    }
    assert_eq!(bench.caller_by_sign_in(&here).await.unwrap(), Some(caller("contoso")));
    assert_eq!(bench.caller_by_sign_in(&there).await.unwrap(), Some(caller("fabrikam")));
    assert!(!bench.remove_sign_in(&caller("contoso"), &there).await.unwrap());
}
