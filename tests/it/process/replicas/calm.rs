//! Where nothing fails, or only one replica's way to the database.

use axum::http::header::RETRY_AFTER;

use tokio::task::block_in_place;

use super::*;
use crate::process::ordeal::rules_kept;
use crate::support::postgres;
use crate::support::relay::{Relay, Way};
use crate::world::{Receiver, sandbox};

/// How soon a key that was revoked anywhere is refused everywhere.
const TO_HEAR_OF_IT: Duration = Duration::from_secs(5);

/// How soon a replica says that it is of no use.
const TO_SAY_SO: Duration = Duration::from_secs(4);

/// How soon a registration is refused that the database does not answer.
const TO_REFUSE: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn replicas_share_work_and_budgets_on_postgres() {
    let (sandbox, receiver) = (sandbox().await, Receiver::start().await);
    let database = postgres::database();
    let homes = [
        replica(&sandbox, &database),
        replica(&sandbox, &database),
        on_a_fast_machine(replica(&sandbox, &database)),
    ];
    let added = homes[0].add_shop().await;
    receiver.expect_secret(added["signingSecret"].as_str().unwrap().parse().unwrap());
    let key = added["apiKey"].as_str().unwrap();
    let (one, another) = tokio::join!(homes[0].serve(), homes[1].serve());
    let replicas = [one, another, homes[2].serve().await];
    assert!(replicas[2].log().contains("clock is off by"), "{}", replicas[2].log());

    let mut registered = Vec::new();
    // All of one identity, whose budget they share.
    for turn in 0..24 {
        let shop = replicas[turn % 3].client(key);
        let script = json!([{ "status": "running" }, { "status": "succeeded" }]);
        let operation = operation(&sandbox, &script);
        let registration = json!({ "operation": operation, "callbackUrl": receiver.url() });
        registered.push(shop.register(&registration).await);
    }
    let mut told = Vec::new();
    for _ in &registered {
        let callback = receiver.next().await;
        assert_eq!(callback.about(), "succeeded");
        let sent_at: i64 = callback.header("webhook-timestamp").parse().unwrap();
        assert!((now_ms() / 1_000 - sent_at).abs() < 20, "not by the clock that counts");
        told.push(callback.json()["tracking"]["id"].as_str().unwrap().to_owned());
    }
    registered.sort();
    told.sort();
    assert_eq!(told, registered, "each is told, and told once");
    let shop = replicas[0].client(key);
    until(async || shop.get("/v1/callbacks?state=pending").await.body["callbacks"] == json!([]))
        .await;
    for replica in replicas {
        assert!(replica.terminate().await.success());
    }
    receiver.has_nothing_more().await;
    rules_kept(&sandbox);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_revoked_at_one_replica_is_refused_by_all_on_postgres() {
    let sandbox = sandbox().await;
    let database = postgres::database();
    let homes = [(); 3].map(|()| replica(&sandbox, &database));
    let added = homes[0].add_shop().await;
    let mut replicas = Vec::new();
    for home in &homes {
        replicas.push(home.serve().await);
    }
    let first = added["apiKey"].as_str().unwrap();
    let made = replicas[0].client(first).post("/v1/keys", &json!({})).await;
    assert_eq!(made.status, StatusCode::CREATED, "{made:?}");
    let (id, second) = (made.body["id"].as_str().unwrap(), made.body["apiKey"].as_str().unwrap());
    // They all know it from now on.
    for replica in &replicas {
        assert_eq!(replica.client(second).get("/v1/keys").await.status, StatusCode::OK);
    }

    let revoked = replicas[1].client(first).delete(&format!("/v1/keys/{id}")).await;
    assert_eq!(revoked.status, StatusCode::NO_CONTENT, "{revoked:?}");
    let revoked_at = Instant::now();
    for replica in &replicas {
        let client = replica.client(second);
        until(async || client.get("/v1/keys").await.status == StatusCode::UNAUTHORIZED).await;
    }
    assert!(revoked_at.elapsed() < TO_HEAR_OF_IT, "after {:?}", revoked_at.elapsed());
    for replica in &replicas {
        assert_eq!(replica.client(first).get("/v1/keys").await.status, StatusCode::OK);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_has_lost_its_database_says_so_on_postgres() {
    let (sandbox, receiver) = (sandbox().await, Receiver::start().await);
    let server = postgres::Server::shared();
    let database = server.create_database();
    let relay = Relay::to(server.address()).await;
    let far = replica(&sandbox, &relay.url(&database)).flag("--shutdown-grace", "10s");
    let homes = [replica(&sandbox, &database), far];
    let added = homes[0].add_shop().await;
    receiver.expect_secret(added["signingSecret"].as_str().unwrap().parse().unwrap());
    let key = added["apiKey"].as_str().unwrap();
    let (near, far) = (homes[0].serve().await, homes[1].serve().await);
    let (other, shop) = (near.client(key), far.client(key));

    for way in [Way::Closed, Way::Silent] {
        let script = json!([{ "status": "succeeded" }]);
        let registration = json!({
            "operation": operation(&sandbox, &script),
            "callbackUrl": receiver.url(),
        });
        assert!(is_ready(&shop).await);
        relay.make(way);
        let lost_at = Instant::now();
        let refused = shop.post("/v1/operations", &registration).await;
        assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE, "{way:?}: {refused:?}");
        assert!(refused.headers.contains_key(RETRY_AFTER), "{way:?}: {refused:?}");
        assert!(lost_at.elapsed() < TO_REFUSE, "{way:?}: after {:?}", lost_at.elapsed());

        let asked_at = Instant::now();
        let probed = shop.get("/readyz").await;
        assert_eq!(probed.status, StatusCode::SERVICE_UNAVAILABLE, "{way:?}: {probed:?}");
        assert_eq!(probed.body["status"], "storeUnavailable", "{way:?}");
        assert!(asked_at.elapsed() < TO_SAY_SO, "{way:?}: after {:?}", asked_at.elapsed());
        assert_eq!(shop.get("/healthz").await.status, StatusCode::NO_CONTENT);
        assert!(is_ready(&other).await, "the other has lost nothing");

        relay.make(Way::Open);
        until(async || is_ready(&shop).await).await;
        let id = shop.register(&registration).await;
        assert_eq!(receiver.next().await.json()["tracking"]["id"], id);
    }

    relay.make(Way::Silent);
    assert!(far.terminate().await.success(), "it need not wait for what does not come");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_cannot_start_is_in_nobodys_way_on_postgres() {
    let sandbox = sandbox().await;
    let server = postgres::Server::shared();
    let database = server.create_database();
    let mut homes = [(); 2].map(|()| replica(&sandbox, &database));
    let added = homes[0].add_shop().await;
    let running = homes[0].serve().await;
    let shop = running.client(added["apiKey"].as_str().unwrap());
    let registration = json!({
        "operation": operation(&sandbox, &json!([{ "status": "running" }])),
        "callbackUrl": "http://127.0.0.1:9/hooks",
    });
    let id = shop.register(&registration).await;
    until(async || shop.operation(&id).await["polls"].as_u64().unwrap() > 0).await;
    let paused = || {
        let sql = "SELECT max(paused_until) FROM lanes WHERE name LIKE 'graph:%'";
        block_in_place(|| server.ask(&database, sql))
    };

    let before = paused();
    let listens = homes[1].flags.iter_mut().find(|it| *it == "127.0.0.1:0").unwrap();
    *listens = running.address.to_string();
    let complaint = homes[1].try_serve().await.err().unwrap();
    assert!(complaint.contains("cannot listen"), "{complaint}");
    assert_eq!(paused(), before, "polls of all others were put off");
}
