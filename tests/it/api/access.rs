//! Whoever has no key, or not the right one, gets nothing and learns nothing.

use reqwest::Method;
use serde_json::{Value, json};

use super::{
    FORBIDDEN, NO_KEY, NOT_FOUND, Request, Row, all_refused, ask, assert_refused, delete, fault,
    get, post, put, quiet_world, tracked,
};

/// Every endpoint that asks for a caller's key, each by a request that would else be in order.
fn of_callers(id: &str) -> Vec<Request> {
    let credential = json!({ "accessToken": "eyJ0", "expiresIn": 60 });
    let connection = json!({ "name": "fabrikam", "tenant": "fabrikam.example",
        "clientId": "11111111-2222-3333-4444-555555555555", "clientSecret": "s" });
    vec![
        get("/v1/operations"),
        post("/v1/operations", &json!({})),
        get(&format!("/v1/operations/{id}")),
        delete(&format!("/v1/operations/{id}")),
        put(&format!("/v1/operations/{id}/credential"), &credential),
        ask(Method::POST, &format!("/v1/operations/{id}/resend")),
        get("/v1/callbacks"),
        post("/v1/callbacks/resend", &json!({})),
        get("/v1/callbacks/resends"),
        get("/v1/callbacks/resends/rs_00000000000000000000000000000000"),
        get("/v1/destinations"),
        delete("/v1/destinations?url=https://app.example.com/"),
        get("/v1/keys"),
        post("/v1/keys", &json!({})),
        delete("/v1/keys/key_000000000000"),
        get("/v1/signing-secrets"),
        post("/v1/signing-secrets", &json!({})),
        delete("/v1/signing-secrets/1"),
        get("/v1/signing-keys"),
        post("/v1/signing-keys", &json!({})),
        delete("/v1/signing-keys/1"),
        get("/v1/callback-settings"),
        put("/v1/callback-settings", &json!({ "format": "operation" })),
        put("/v1/callback-headers/x-api-key", &json!({ "value": "s" })),
        delete("/v1/callback-headers/x-api-key"),
        get("/v1/connections"),
        post("/v1/connections", &connection),
        put("/v1/connections/contoso/credential", &json!({ "clientSecret": "s" })),
        ask(Method::POST, "/v1/connections/contoso/test"),
        delete("/v1/connections/contoso"),
    ]
}

/// Every endpoint that asks for the admin key.
fn of_the_operator() -> Vec<Request> {
    let connection = json!({ "name": "fabrikam", "tenant": "fabrikam.example",
        "clientId": "11111111-2222-3333-4444-555555555555", "clientSecret": "s" });
    vec![
        get("/metrics"),
        get("/v1/admin/callers"),
        post("/v1/admin/callers", &json!({ "name": "another" })),
        get("/v1/admin/callers/shop/keys"),
        post("/v1/admin/callers/shop/keys", &json!({})),
        delete("/v1/admin/callers/shop/keys/key_000000000000"),
        post("/v1/admin/callers/shop/signing-secrets", &json!({})),
        get("/v1/admin/callers/shop/connections"),
        post("/v1/admin/callers/shop/connections", &connection),
        put(
            "/v1/admin/callers/shop/connections/contoso/credential",
            &json!({ "clientSecret": "s" }),
        ),
        ask(Method::POST, "/v1/admin/callers/shop/connections/contoso/test"),
        get("/v1/admin/callers/shop/connections/contoso/shares"),
        put(
            "/v1/admin/callers/shop/connections/contoso/shares/other",
            &json!({ "name": "contoso" }),
        ),
        delete("/v1/admin/callers/shop/connections/contoso/shares/other"),
        get("/v1/admin/vault"),
        ask(Method::POST, "/v1/admin/vault/rekey"),
        post("/v1/admin/callbacks/resend", &json!({})),
        get("/v1/admin/audit"),
        get("/v1/admin/callers/shop/sign-ins"),
        post(
            "/v1/admin/callers/shop/sign-ins",
            &json!({ "tenant": connection["clientId"], "app": connection["clientId"] }),
        ),
        delete(
            "/v1/admin/callers/shop/sign-ins/11111111-2222-3333-4444-555555555555/\
             11111111-2222-3333-4444-555555555555",
        ),
        get("/v1/admin/callbacks/resends"),
        get("/v1/admin/callbacks/resends/rs_00000000000000000000000000000000"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_endpoint_but_the_probes_asks_for_the_right_key() {
    let world = quiet_world().await;
    let id = tracked(&world).await;
    let document = world.shop.get("/openapi.json").await.body;
    let (callers, operator) = (of_callers(&id), of_the_operator());
    let secured = |path: &Value| {
        let operations = path.as_object().unwrap().values();
        operations.filter(|operation| operation["security"].is_array()).count()
    };
    let paths = document["paths"].as_object().unwrap();
    let documented: usize = paths.values().map(secured).sum();
    assert_eq!(callers.len() + operator.len(), documented, "an endpoint is missing here");

    let nobody = world.shop.with_key("");
    let stranger = world.shop.with_key("ebk_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA");
    let before = world.stored();
    for (requests, not_theirs) in [(callers, &world.operator), (operator, &world.shop)] {
        for request in requests {
            for client in [&nobody, &stranger] {
                let answer = request.send(client).await;
                assert_refused(&answer, &NO_KEY);
                assert_eq!(answer.headers["www-authenticate"], "Bearer", "{request:?}");
            }
            assert_refused(&request.send(not_theirs).await, &FORBIDDEN);
        }
    }
    assert_eq!(world.stored(), before);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_bearer_key_is_no_key() {
    use secrecy::ExposeSecret as _;
    let world = quiet_world().await;
    let key = world.shop.key.expose_secret();
    let row = |name, value: &str| -> Row {
        (name, get("/v1/keys").header("authorization", value), NO_KEY)
    };
    let table = [
        row("empty", ""),
        row("the scheme alone", "Bearer"),
        row("the scheme and a space", "Bearer "),
        row("the key alone", key),
        row("another scheme", &format!("Basic {key}")),
        row("shortened by one", &format!("Bearer {}", &key[..key.len() - 1])),
        row("in capitals", &format!("Bearer {}", key.to_uppercase())),
        row("two keys", &format!("Bearer {key}, Bearer {key}")),
        row("not ASCII", "Bearer ébk"),
    ];
    all_refused(&world, &world.shop, &table).await;
    for spelling in ["bearer", "BEARER"] {
        let header = format!("{spelling} {key}");
        let answer = get("/v1/keys").header("authorization", &header).send(&world.shop).await;
        assert!(answer.status.is_success(), "{answer:?}");
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_belongs_to_another_caller_looks_as_if_it_were_not_there() {
    let world = quiet_world().await;
    let id = tracked(&world).await;
    let (keys, secrets) =
        (world.shop.get("/v1/keys").await.body, world.shop.get("/v1/signing-secrets").await.body);
    let key = keys["keys"][0]["id"].as_str().unwrap();
    let secret = &secrets["signingSecrets"][0]["id"];
    let other = world.operator.add_caller("other").await;
    // With a second one, or its last live secret would be refused as such.
    let rotated = other.post("/v1/signing-secrets", &json!({})).await;
    assert!(rotated.status.is_success(), "{rotated:?}");
    for number in [1, 2] {
        let revoked = other.delete(&format!("/v1/signing-secrets/{number}")).await;
        assert_eq!(revoked.status, if number == 1 { 204 } else { 409 }, "{revoked:?}");
    }

    let credential = json!({ "accessToken": "eyJ0", "expiresIn": 60 });
    let secret_of_client = json!({ "clientSecret": "s" });
    let operation = |rest| format!("/v1/operations/{id}{rest}");
    let table = [
        ("look", get(&operation("")), NOT_FOUND),
        ("cancel", delete(&operation("")), NOT_FOUND),
        ("renew", put(&operation("/credential"), &credential), NOT_FOUND),
        ("resend", ask(Method::POST, &operation("/resend")), NOT_FOUND),
        ("revoke its key", delete(&format!("/v1/keys/{key}")), NOT_FOUND),
        ("revoke its secret", delete(&format!("/v1/signing-secrets/{secret}")), NOT_FOUND),
        ("remove its connection", delete("/v1/connections/contoso"), NOT_FOUND),
        ("test its connection", ask(Method::POST, "/v1/connections/contoso/test"), NOT_FOUND),
        (
            "repair its connection",
            put("/v1/connections/contoso/credential", &secret_of_client),
            NOT_FOUND,
        ),
    ];
    all_refused(&world, &other, &table).await;

    let operation = world.start(&json!([{ "status": "running" }]));
    let mut registration = world.registration(&operation);
    registration["connection"] = json!("contoso");
    let answer = other.post("/v1/operations", &registration).await;
    assert_refused(&answer, &fault("connection", "unknown"));
    for (path, member) in [
        ("/v1/operations", "operations"),
        ("/v1/callbacks", "callbacks"),
        ("/v1/connections", "connections"),
    ] {
        assert_eq!(other.get(path).await.body[member], json!([]), "{path}");
    }
    world.stop().await;
}
