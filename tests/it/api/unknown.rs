//! What is not there: addresses, ids, methods, and what a list can be asked for.

use reqwest::Method;
use serde_json::json;

use super::{
    NOT_FOUND, Row, WRONG_METHOD, all_refused, ask, assert_refused, delete, fault, faults, get,
    post, put, quiet_world, tracked,
};

#[tokio::test(flavor = "multi_thread")]
async fn every_list_takes_its_own_query_and_no_other() {
    let world = quiet_world().await;
    for (path, has_states, by_operator) in [
        ("/v1/operations", true, false),
        ("/v1/callbacks", true, false),
        ("/v1/callbacks/resends", false, false),
        ("/v1/admin/callbacks/resends", false, true),
        ("/v1/admin/callers", false, true),
        ("/v1/admin/audit", false, true),
    ] {
        let row = |query: &'static str, refusal| -> Row {
            (query, get(&format!("{path}?{query}")), refusal)
        };
        let state =
            |query| row(query, fault("state", if has_states { "invalid" } else { "unknown" }));
        let table = [
            row("limit=0", fault("limit", "outOfRange")),
            row("limit=201", fault("limit", "outOfRange")),
            row("limit=-1", fault("limit", "invalid")),
            row("limit=ten", fault("limit", "invalid")),
            row("limit=", fault("limit", "invalid")),
            row("limit=1.5", fault("limit", "invalid")),
            row("limit=4294967296", fault("limit", "invalid")),
            row("limit=1&limit=2", fault("limit", "duplicate")),
            row("after=", fault("after", "invalid")),
            row("after=-", fault("after", "invalid")),
            row("after=OP_0", fault("after", "invalid")),
            row("after=%00", fault("after", "invalid")),
            row("after=%FF", fault("after", "invalid")),
            row("after='%20OR%201=1", fault("after", "invalid")),
            row("limit=0&after=-", faults([("limit", "outOfRange"), ("after", "invalid")])),
            row("before=2026-01-01", fault("before", "unknown")),
            row("Limit=1", fault("Limit", "unknown")),
            row("x", fault("x", "unknown")),
            state("state="),
            state("state=SETTLED"),
            state("state=delivered,pending"),
            state("state[]=settled"),
        ];
        let table = table.map(|(name, request, refusal)| match name {
            "state[]=settled" => (name, request, fault("state[]", "unknown")),
            _ => (name, request, refusal),
        });
        let client = if by_operator { &world.operator } else { &world.shop };
        all_refused(&world, client, &table).await;
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_not_found_however_it_is_spelt() {
    let world = quiet_world().await;
    let id = tracked(&world).await;
    let upper = id.to_uppercase();
    let ids = [
        "op_00000000000000000000000000000000",
        "op_0",
        "op_",
        "0",
        "eyJf",
        upper.as_str(),
        "%00",
        "%FF",
        "%ED%A0%80",
        "..%2F..%2Fetc",
        "%2e%2e",
        "'%20OR%201=1",
        "ü",
        "%F0%9F%98%80",
    ];
    let bodies =
        [json!({ "accessToken": "eyJ0", "expiresIn": 60 }), json!({ "clientSecret": "s" })];
    let mut table: Vec<Row> = Vec::new();
    for id in ids {
        let requests = [
            get(&format!("/v1/operations/{id}")),
            delete(&format!("/v1/operations/{id}")),
            put(&format!("/v1/operations/{id}/credential"), &bodies[0]),
            ask(Method::POST, &format!("/v1/operations/{id}/resend")),
            delete(&format!("/v1/keys/{id}")),
            delete(&format!("/v1/signing-secrets/{id}")),
            delete(&format!("/v1/signing-keys/{id}")),
            delete(&format!("/v1/callback-headers/{id}")),
            delete(&format!("/v1/connections/{id}")),
            put(&format!("/v1/connections/{id}/credential"), &bodies[1]),
        ];
        table.extend(requests.map(|request| ("an id", request, NOT_FOUND)));
    }
    for path in [
        "/",
        "/v1",
        "/v1/",
        "/v2/operations",
        "/v1/operation",
        "/v1/operations/",
        "/V1/operations",
        "//v1/operations",
        "/v1/operations/x/y/z",
        "/v1/admin",
        "/openapi.yaml",
        "/%00",
        "/%FF",
        "/v1/keys/a/b",
    ] {
        table.push(("a path", get(path), NOT_FOUND));
    }
    for number in ["0", "2", "-1", "+1", "01x", "4294967296", "1.0"] {
        table.push(("a number", delete(&format!("/v1/signing-secrets/{number}")), NOT_FOUND));
    }
    all_refused(&world, &world.shop, &table).await;

    let connection = json!({ "name": "another", "tenant": "contoso.example",
        "clientId": "11111111-2222-3333-4444-555555555555", "clientSecret": "s" });
    let mut table: Vec<Row> = Vec::new();
    for caller in ["nobody", "SHOP", "%00", "%FF", "..", "a%2Fb"] {
        let connections = format!("/v1/admin/callers/{caller}/connections");
        let keys = format!("/v1/admin/callers/{caller}/keys");
        let requests = [
            post(&keys, &json!({})),
            get(&keys),
            delete(&format!("{keys}/key_000000000000")),
            get(&connections),
            post(&connections, &connection),
        ];
        table.extend(requests.map(|request| ("a caller", request, NOT_FOUND)));
    }
    all_refused(&world, &world.operator, &table).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_endpoint_takes_another_method() {
    let world = quiet_world().await;
    let document = world.shop.get("/openapi.json").await.body;
    let mut refused = 0;
    let before = world.stored();
    for (path, operations) in document["paths"].as_object().unwrap() {
        let path = path.replace("{id}", "x").replace("{name}", "x").replace("{caller}", "x");
        let mut allowed: Vec<_> =
            operations.as_object().unwrap().keys().map(|it| it.to_uppercase()).collect();
        if allowed.iter().any(|method| method == "GET") {
            allowed.push("HEAD".to_owned());
        }
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"] {
            if allowed.iter().any(|it| it == method) {
                continue;
            }
            let answer = ask(method.parse().unwrap(), &path).send(&world.shop).await;
            assert_refused(&answer, &WRONG_METHOD);
            let allow = answer.headers["allow"].to_str().unwrap();
            let mut named: Vec<_> = allow.split(',').map(str::trim).collect();
            named.sort_unstable();
            allowed.sort_unstable();
            assert_eq!(named, allowed, "{method} {path}");
            refused += 1;
        }
    }
    assert!(80 < refused, "{refused}");
    assert_eq!(world.stored(), before);
    world.stop().await;
}
