//! What else is wrong with a registration is named, all of it at once.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::{Refusal, Request, Row, all_refused, fault, faults, get, post, quiet_world};
use crate::world::World;

/// A registration that is in order but for `members`, of which null ones are left out.
fn with(world: &World, members: &Value) -> Value {
    let mut registration = world.registration("eyJf");
    let registered = registration.as_object_mut().unwrap();
    for (name, value) in members.as_object().unwrap() {
        registered.insert(name.clone(), value.clone());
    }
    registered.retain(|_, value| !value.is_null());
    registration
}

/// Each registration is refused for one field, and for the reason beside it.
async fn refused_for<const N: usize>(rows: [(&'static str, Value, &'static str, &'static str); N]) {
    let world = quiet_world().await;
    let table = rows.map(|(name, members, field, code)| {
        (name, post("/v1/operations", &with(&world, &members)), fault(field, code))
    });
    all_refused(&world, &world.shop, &table).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_is_of_its_type_and_known() {
    refused_for([
        ("no operation", json!({ "operation": null }), "operation", "missing"),
        ("no callback", json!({ "callbackUrl": null }), "callbackUrl", "missing"),
        ("a number for text", json!({ "operation": 7 }), "operation", "invalid"),
        ("a list for text", json!({ "callbackUrl": ["x"] }), "callbackUrl", "invalid"),
        ("an object for text", json!({ "clientState": {} }), "clientState", "invalid"),
        ("a member of tomorrow", json!({ "priority": 1 }), "priority", "unknown"),
        ("another spelling", json!({ "callback_url": "x" }), "callback_url", "unknown"),
        ("another case", json!({ "Operation": "eyJf" }), "Operation", "unknown"),
        ("a token that is none", json!({ "accessToken": true }), "accessToken", "invalid"),
        ("half a second", json!({ "expiresIn": 0.5 }), "expiresIn", "invalid"),
        ("a life in text", json!({ "expiresIn": "3600" }), "expiresIn", "invalid"),
        ("a life below zero", json!({ "expiresIn": -1 }), "expiresIn", "invalid"),
        ("a life beyond 64 bits", json!({ "expiresIn": 1e300 }), "expiresIn", "invalid"),
        ("another format", json!({ "format": "cloudevents" }), "format", "invalid"),
        ("another notice", json!({ "notify": ["succeeded"] }), "notify", "invalid"),
        ("a notice by itself", json!({ "notify": "running" }), "notify", "invalid"),
        ("a notice with more", json!({ "notify": [{ "running": null }] }), "notify[0]", "invalid"),
        ("a format by number", json!({ "format": 0 }), "format", "invalid"),
        ("a format with more", json!({ "format": { "envelope": null } }), "format", "invalid"),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_brings_one_credential_that_can_be_used() {
    let token = |token: &str, life: u64| json!({ "accessToken": token, "expiresIn": life });
    let both = json!({ "connection": "contoso", "accessToken": "eyJ0", "expiresIn": 60 });
    refused_for([
        ("another connection", json!({ "connection": "x" }), "connection", "unknown"),
        ("an empty connection", json!({ "connection": "" }), "connection", "unknown"),
        ("a quote in it", json!({ "connection": "' OR 1=1 --" }), "connection", "unknown"),
        ("a zero byte in it", json!({ "connection": "contoso\0" }), "connection", "unknown"),
        ("both", both, "connection", "unexpected"),
        ("a token alone", json!({ "accessToken": "eyJ0" }), "expiresIn", "missing"),
        ("a life alone", json!({ "expiresIn": 60 }), "expiresIn", "unexpected"),
        ("an empty token", token("", 60), "accessToken", "invalid"),
        ("a token in two lines", token("ey\r\nX: y", 60), "accessToken", "invalid"),
        ("an umlaut in a token", token("eyÜ", 60), "accessToken", "invalid"),
        ("a token of 16 KiB", token(&"e".repeat(16_385), 60), "accessToken", "invalid"),
        ("a life of none", token("eyJ0", 0), "expiresIn", "outOfRange"),
        ("a life of more than two days", token("eyJ0", 172_801), "expiresIn", "outOfRange"),
        ("the longest life", token("eyJ0", u64::MAX), "expiresIn", "outOfRange"),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callback_secret_is_one_of_24_to_64_bytes() {
    let field = "callbackSecret";
    let secret = |text: &str| json!({ "callbackSecret": text });
    let of_bytes = |length: usize| format!("whsec_{}", STANDARD.encode(vec![7; length]));
    refused_for([
        ("empty", secret(""), field, "invalid"),
        ("without its prefix", secret(&of_bytes(24)[6..]), field, "invalid"),
        ("a key", secret(&of_bytes(64).replace("whsec", "whsk")), field, "invalid"),
        ("23 bytes", secret(&of_bytes(23)), field, "invalid"),
        ("65 bytes", secret(&of_bytes(65)), field, "invalid"),
        ("without its padding", secret(of_bytes(25).trim_end_matches('=')), field, "invalid"),
        ("no base64", secret("whsec_not base64"), field, "invalid"),
        ("no text", json!({ "callbackSecret": 7 }), field, "invalid"),
    ])
    .await;
}

#[rustfmt::skip]
const NO_WAITS: [&str; 22] = [
    "", " ", "24h", "1 day", "3600", "P", "PT", "P1", "-PT1H", "PT-1H", "+P1D", "PT0S", "PT0.01S",
    "P7DT1S", "P8D", "P1M", "P1Y", "PT999999999999999999999H", "PT1H ", " PT1H", "P1D ago", "P٣D",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_is_an_iso_8601_duration_within_bounds() {
    refused_for(
        NO_WAITS.map(|wait| (wait, json!({ "expiresAfter": wait }), "expiresAfter", "invalid")),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_faults_of_a_registration_are_named_at_once() {
    let world = quiet_world().await;
    let row = |name, members: Value, refusal: Refusal| -> Row {
        (name, post("/v1/operations", &with(&world, &members)), refusal)
    };
    let table = [
        row(
            "all that can be wrong",
            json!({ "operation": "", "callbackUrl": "", "expiresAfter": "", "expiresIn": 60,
                "connection": "contoso", "clientState": "ü".repeat(129) }),
            faults([
                ("operation", "empty"),
                ("expiresIn", "unexpected"),
                ("connection", "unexpected"),
                ("clientState", "tooLong"),
                ("expiresAfter", "invalid"),
                ("callbackUrl", "notAUrl"),
            ]),
        ),
        row(
            "a client state that no database takes",
            json!({ "clientState": "order\u{0}42" }),
            faults([("clientState", "invalid")]),
        ),
        row(
            "a token and its life",
            json!({ "accessToken": "", "expiresIn": 0 }),
            faults([("accessToken", "invalid"), ("expiresIn", "outOfRange")]),
        ),
    ];
    all_refused(&world, &world.shop, &table).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_without_a_connection_is_told_to_make_one() {
    let world = quiet_world().await;
    let newcomer = world.operator.add_caller("newcomer").await;
    let table = [(
        "none to use",
        post("/v1/operations", &world.registration("eyJf")),
        fault("connection", "unknown"),
    )];
    all_refused(&world, &newcomer, &table).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idempotency_key_is_one_header_of_visible_characters() {
    let world = quiet_world().await;
    let request = post("/v1/operations", &world.registration("eyJf"));
    let row = |name, key: &str| -> Row {
        let request = request.clone().header("idempotency-key", key);
        (name, request, fault("Idempotency-Key", "invalid"))
    };
    let broken = post("/v1/operations", &with(&world, &json!({ "operation": "" })));
    let table = [
        row("empty", ""),
        row("256 bytes", &"k".repeat(256)),
        row("not ASCII", "schlüssel"),
        (
            "two of them",
            request.clone().header("idempotency-key", "a").header("idempotency-key", "b"),
            fault("Idempotency-Key", "invalid"),
        ),
        (
            "together with another fault",
            broken.header("idempotency-key", ""),
            faults([("Idempotency-Key", "invalid"), ("operation", "empty")]),
        ),
    ];
    all_refused(&world, &world.shop, &table).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_odd_but_in_order_is_taken_as_it_is() {
    let world = quiet_world().await;
    let root = world.sandbox.root();
    let longest = "ü".repeat(128);
    let members = [
        json!({ "clientState": longest, "expiresAfter": "P7D" }),
        json!({ "clientState": "bell\u{7}, \u{1}, \u{202e}, \u{1f600}, \"'\\" }),
        json!({ "clientState": "", "expiresAfter": "pt36h" }),
        json!({ "operation": format!("{root}/BETA/employeeExperience/engagementOperations(%27eyJg%27)") }),
        json!({ "operation": "/v1.0/employeeExperience/engagementAsyncOperations/eyJh" }),
        json!({ "operation": "a".repeat(512), "format": "envelope" }),
        json!({ "operation": "eyJl", "notify": [], "format": "cloudEvents" }),
        json!({ "operation": "eyJm", "notify": ["running", "running"], "format": "operation" }),
        json!({ "operation": "eyJk", "accessToken": "eyJ0", "expiresIn": 3_600.0 }),
    ];
    for members in members {
        let registration = with(&world, &members);
        let id = world.shop.register(&registration).await;
        let seen = world.shop.operation(&id).await;
        assert_eq!(seen["clientState"], registration["clientState"]);
    }
    let nulls = r#"{"operation":"eyJi","callbackUrl":"URL","connection":null,"accessToken":null,
        "expiresIn":null,"clientState":null,"callbackSecret":null,"format":null,"notify":null,"expiresAfter":null}"#;
    let nulls = nulls.replace("URL", &world.receiver.url());
    let request = Request { method: "POST".parse().unwrap(), ..get("/v1/operations") };
    let answer = request.body(nulls).send(&world.shop).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    world.stop().await;
}
