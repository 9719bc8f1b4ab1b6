//! A connection of one caller's that another uses by the operator's leave.

use reqwest::StatusCode;
use serde_json::json;

use crate::world::World;

const SHARES: &str = "/v1/admin/callers/shop/connections/contoso/shares";

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_connection_is_used_unseen_and_taking_it_back_blocks_and_loses_nothing() {
    let world = World::begin().await;
    let other = world.operator.add_caller("other").await;
    world.receiver.expect_secret(other.signing_secret());
    let share = format!("{SHARES}/other");
    let given = world.operator.put(&share, &json!({ "name": "lent" })).await;
    assert_eq!(given.status, StatusCode::NO_CONTENT, "{given:?}");
    for client in [&world.shop, &other] {
        let refused = client.put(&share, &json!({ "name": "lent" })).await;
        assert_eq!(refused.status, StatusCode::FORBIDDEN, "the operator alone");
    }
    let listed = other.get("/v1/connections").await;
    assert_eq!(listed.body["connections"][0]["kind"], "shared");
    let proof = json!({ "clientSecret": "of the other" });
    let changed = other.put("/v1/connections/lent/credential", &proof).await;
    assert_eq!(changed.status, StatusCode::CONFLICT, "{changed:?}");

    let stages = json!({ "stages": [
        { "fromMs": 0, "answer": { "status": "running" } },
        { "fromMs": 2_000_000, "answer": { "status": "succeeded" } },
    ] });
    let id = other.register(&world.registration(&world.start(&stages))).await;
    assert_eq!(other.operation(&id).await["connection"], "lent");
    world.first_poll().await;
    assert_eq!(world.operator.delete(&share).await.status, StatusCode::NO_CONTENT);
    let notice = world.receiver.next().await;
    assert_eq!(notice.json()["type"], "engagementAsyncOperation.credentialNeeded");
    assert_eq!(other.operation(&id).await["state"], "blocked");
    assert_eq!(world.operator.get(SHARES).await.body["shares"][0]["isWithdrawn"], true);

    let again = world.operator.put(&share, &json!({ "name": "lent" })).await;
    assert_eq!(again.status, StatusCode::NO_CONTENT, "{again:?}");
    let callback = world.receiver.next().await;
    assert_eq!(callback.json()["type"], "engagementAsyncOperation.succeeded");
    assert_eq!(callback.json()["tracking"]["id"], json!(id));
    world.stop().await;
}
