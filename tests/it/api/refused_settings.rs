//! What is wrong with a connection, a credential, a secret or a caller is named, all of it at once.

use serde_json::{Value, json};

use super::{
    CONFLICT, NOT_FOUND, Row, all_refused, delete, fault, faults, post, put, quiet_world, tracked,
};

#[tokio::test(flavor = "multi_thread")]
async fn every_fault_of_a_connection_is_named_whoever_makes_it() {
    let world = quiet_world().await;
    let connection = |name: &str, tenant: &str, client: &str, secret: &str| json!({ "name": name, "tenant": tenant, "clientId": client, "clientSecret": secret });
    let guid = "11111111-2222-3333-4444-555555555555";
    let named = |name: &str| connection(name, "contoso.example", guid, "s");
    let of_tenant = |tenant: &str| connection("another", tenant, guid, "s");
    let of_client = |client: &str| connection("another", "contoso.example", client, "s");
    let secret = |secret: &str| connection("another", "contoso.example", guid, secret);
    let connections = [
        ("no name", named(""), fault("name", "invalid")),
        ("a name in capitals", named("Contoso"), fault("name", "invalid")),
        ("a name of 65 letters", named(&"c".repeat(65)), fault("name", "invalid")),
        ("a slash in a name", named("a/b"), fault("name", "invalid")),
        ("a name that is up", named(".."), fault("name", "invalid")),
        ("a zero byte in a name", named("a\0"), fault("name", "invalid")),
        ("a name that is taken", named("contoso"), CONFLICT),
        ("no tenant", of_tenant(""), fault("tenant", "invalid")),
        ("a path for a tenant", of_tenant("a/../b"), fault("tenant", "invalid")),
        ("a tenant that is up", of_tenant(".."), fault("tenant", "invalid")),
        ("a tenant with an empty label", of_tenant("a..b"), fault("tenant", "invalid")),
        ("a query for a tenant", of_tenant("a?b"), fault("tenant", "invalid")),
        ("an encoded tenant", of_tenant("a%2Fb"), fault("tenant", "invalid")),
        ("a tenant of 254 letters", of_tenant(&"t".repeat(254)), fault("tenant", "invalid")),
        ("any tenant", of_tenant("common"), fault("tenant", "invalid")),
        ("any organisation", of_tenant("Organizations"), fault("tenant", "invalid")),
        ("no client", of_client(""), fault("clientId", "invalid")),
        ("a client in braces", of_client(&format!("{{{guid}}}")), fault("clientId", "invalid")),
        (
            "a client without dashes",
            of_client(&guid.replace('-', "")),
            fault("clientId", "invalid"),
        ),
        ("no secret", secret(""), fault("clientSecret", "invalid")),
        ("a secret of 1025 bytes", secret(&"s".repeat(1_025)), fault("clientSecret", "invalid")),
        (
            "nothing right",
            connection("", "", "", ""),
            faults([
                ("name", "invalid"),
                ("tenant", "invalid"),
                ("clientId", "invalid"),
                ("clientSecret", "invalid"),
            ]),
        ),
    ];
    for (path, client) in
        [("/v1/connections", &world.shop), ("/v1/admin/callers/shop/connections", &world.operator)]
    {
        let table: Vec<Row> = connections
            .iter()
            .map(|(name, body, refusal)| (*name, post(path, body), refusal.clone()))
            .collect();
        all_refused(&world, client, &table).await;
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_is_not_in_order_changes_nothing() {
    let world = quiet_world().await;
    let id = tracked(&world).await;
    let credential = |body: Value| put(&format!("/v1/operations/{id}/credential"), &body);
    let token = json!({ "connection": "contoso", "accessToken": "eyJ0", "expiresIn": 60 });
    let rotate =
        |overlap: Value| post("/v1/signing-secrets", &json!({ "overlapSeconds": overlap }));
    let replace = |name: &str, secret: &str| {
        put(&format!("/v1/connections/{name}/credential"), &json!({ "clientSecret": secret }))
    };
    let table = [
        ("no credential", credential(json!({})), fault("connection", "missing")),
        ("two credentials", credential(token), fault("connection", "unexpected")),
        (
            "a connection and oneself",
            credential(json!({ "connection": "contoso", "onBehalfOf": true })),
            fault("connection", "unexpected"),
        ),
        (
            "a token and oneself",
            credential(json!({ "accessToken": "eyJ0", "expiresIn": 60, "onBehalfOf": true })),
            fault("connection", "unexpected"),
        ),
        ("another's", credential(json!({ "connection": "x" })), fault("connection", "unknown")),
        (
            "a token without a life",
            credential(json!({ "accessToken": "eyJ0" })),
            fault("expiresIn", "missing"),
        ),
        (
            "a life without a token",
            credential(json!({ "expiresIn": 60 })),
            fault("expiresIn", "unexpected"),
        ),
        (
            "neither of them right",
            credential(json!({ "accessToken": "a b", "expiresIn": 172_801 })),
            faults([("accessToken", "invalid"), ("expiresIn", "outOfRange")]),
        ),
        ("a week and a second", rotate(json!(604_801)), fault("overlapSeconds", "outOfRange")),
        ("64 bits", rotate(json!(u64::MAX)), fault("overlapSeconds", "outOfRange")),
        ("less than none", rotate(json!(-1)), fault("overlapSeconds", "invalid")),
        ("an overlap in words", rotate(json!("1 day")), fault("overlapSeconds", "invalid")),
        ("no secret", replace("contoso", ""), fault("clientSecret", "invalid")),
        ("1025 bytes", replace("contoso", &"s".repeat(1_025)), fault("clientSecret", "invalid")),
        ("of a connection that is not there", replace("x", "s"), NOT_FOUND),
        ("of one that is no name", replace("%00", "s"), NOT_FOUND),
        ("the last secret", delete("/v1/signing-secrets/1"), CONFLICT),
    ];
    all_refused(&world, &world.shop, &table).await;

    let caller = |name: &str| post("/v1/admin/callers", &json!({ "name": name }));
    let table = [
        ("no name", caller(""), fault("name", "invalid")),
        ("a name that begins with a dot", caller(".shop"), fault("name", "invalid")),
        ("a name of 65 letters", caller(&"s".repeat(65)), fault("name", "invalid")),
        ("a line break in a name", caller("a\nb"), fault("name", "invalid")),
        ("a name that is taken", caller("shop"), CONFLICT),
    ];
    all_refused(&world, &world.operator, &table).await;
    world.stop().await;
}
