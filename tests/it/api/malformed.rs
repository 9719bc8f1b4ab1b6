//! What is wrong with a request before anybody asks what it is about.

use reqwest::Method;
use serde_json::{Value, json};

use super::{
    MALFORMED, Row, TOO_LARGE, WRONG_TYPE, all_refused, ask, fault, post, put, quiet_world, tracked,
};

/// Every endpoint with a body, and whether it is the operator's.
fn with_bodies(id: &str) -> [(Method, String, bool); 18] {
    let endpoint = |method, path: &str, by_operator| (method, path.to_owned(), by_operator);
    [
        endpoint(Method::POST, "/v1/operations", false),
        endpoint(Method::PUT, &format!("/v1/operations/{id}/credential"), false),
        endpoint(Method::POST, "/v1/callbacks/resend", false),
        endpoint(Method::POST, "/v1/admin/callbacks/resend", true),
        endpoint(Method::POST, "/v1/keys", false),
        endpoint(Method::POST, "/v1/signing-secrets", false),
        endpoint(Method::POST, "/v1/signing-keys", false),
        endpoint(Method::PUT, "/v1/callback-settings", false),
        endpoint(Method::PUT, "/v1/callback-headers/x-api-key", false),
        endpoint(Method::POST, "/v1/connections", false),
        endpoint(Method::PUT, "/v1/connections/contoso/credential", false),
        endpoint(Method::POST, "/v1/admin/callers", true),
        endpoint(Method::POST, "/v1/admin/callers/shop/keys", true),
        endpoint(Method::POST, "/v1/admin/callers/shop/sign-ins", true),
        endpoint(Method::POST, "/v1/admin/callers/shop/signing-secrets", true),
        endpoint(Method::POST, "/v1/admin/callers/shop/connections", true),
        endpoint(Method::PUT, "/v1/admin/callers/shop/connections/contoso/credential", true),
        endpoint(Method::PUT, "/v1/admin/callers/shop/connections/contoso/shares/other", true),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn no_endpoint_takes_a_body_that_is_no_json_object() {
    let world = quiet_world().await;
    let id = tracked(&world).await;
    let document = world.shop.get("/openapi.json").await.body;
    let has_body = |path: &Value| {
        path.as_object().unwrap().values().filter(|it| it["requestBody"].is_object()).count()
    };
    let documented: usize = document["paths"].as_object().unwrap().values().map(has_body).sum();
    assert_eq!(with_bodies(&id).len(), documented, "an endpoint is missing here");

    let deep = |open: &str, close: &str| format!("{}{}", open.repeat(9_999), close.repeat(9_999));
    for (method, path, by_operator) in with_bodies(&id) {
        let request = ask(method, &path);
        let row =
            |name, body: &[u8], refusal| -> Row { (name, request.clone().body(body), refusal) };
        let typed = |name, media_type: &str| -> Row {
            (name, request.clone().body("{}").header("content-type", media_type), WRONG_TYPE)
        };
        let object = || fault("(body)", "invalid");
        let table = [
            row("empty", b"", MALFORMED),
            row("no JSON", b"name=contoso", MALFORMED),
            row("cut off", b"{\"name", MALFORMED),
            row("a comma alone", b"{,}", MALFORMED),
            row("a byte order mark", b"\xEF\xBB\xBF{}", MALFORMED),
            row("UTF-16", b"{\0}\0", MALFORMED),
            row("not UTF-8", b"{\"\xFF\":1}", MALFORMED),
            row("half a surrogate pair", br#"{"\ud800":1}"#, MALFORMED),
            row("a zero byte as it is", b"{\"a\0\":1}", MALFORMED),
            row("null", b"null", object()),
            row("a number", b"1", object()),
            row("text", b"\"contoso\"", object()),
            row("a list", b"[]", object()),
            row("members without their names", br#"["a","b","c","d","e","f","g"]"#, object()),
            row("a deep list", deep("[", "]").as_bytes(), object()),
            row("a member that is not known", br#"{"x":1}"#, fault("x", "unknown")),
            row(
                "a deep one",
                format!("{{\"x\":{}}}", deep("[", "]")).as_bytes(),
                fault("x", "unknown"),
            ),
            row("an empty name", br#"{"":1}"#, fault("", "unknown")),
            row("a name in dots", br#"{"a.b":1}"#, fault("a.b", "unknown")),
            row("64 KiB and a byte", &vec![b' '; 65_537], TOO_LARGE),
            typed("a form", "application/x-www-form-urlencoded"),
            typed("text", "text/json"),
            typed("nearly JSON", "application/jsonp"),
            typed("nothing", ""),
        ];
        let client = if by_operator { &world.operator } else { &world.shop };
        all_refused(&world, client, &table).await;
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_are_given_once_and_in_full() {
    let world = quiet_world().await;
    let id = tracked(&world).await;
    let twice = |method, path: &str, member: &str, value: &Value| {
        ask(method, path).body(format!(r#"{{"{member}":{value},"{member}":{value}}}"#))
    };
    let credential = format!("/v1/operations/{id}/credential");
    let secret = "/v1/connections/contoso/credential";
    let table = [
        (
            "an operation twice",
            twice(Method::POST, "/v1/operations", "operation", &json!("eyJf")),
            fault("operation", "duplicate"),
        ),
        (
            "a connection twice",
            twice(Method::PUT, &credential, "connection", &json!("contoso")),
            fault("connection", "duplicate"),
        ),
        ("no secret", put(secret, &json!({})), fault("clientSecret", "missing")),
        (
            "a secret twice",
            twice(Method::PUT, secret, "clientSecret", &json!("s")),
            fault("clientSecret", "duplicate"),
        ),
        ("no connection", post("/v1/connections", &json!({})), fault("name", "missing")),
        (
            "an overlap twice",
            twice(Method::POST, "/v1/signing-secrets", "overlapSeconds", &json!(1)),
            fault("overlapSeconds", "duplicate"),
        ),
        (
            "two bodies",
            ask(Method::POST, "/v1/signing-secrets").body(r#"{"overlapSeconds":1}{}"#),
            MALFORMED,
        ),
        (
            "a comma too many",
            ask(Method::POST, "/v1/signing-secrets").body(r#"{"overlapSeconds":1,}"#),
            MALFORMED,
        ),
        (
            "a number that is none",
            ask(Method::POST, "/v1/signing-secrets").body(r#"{"overlapSeconds":1e999}"#),
            MALFORMED,
        ),
    ];
    all_refused(&world, &world.shop, &table).await;
    let callers = "/v1/admin/callers";
    let table = [
        ("no name", post(callers, &json!({})), fault("name", "missing")),
        (
            "a name twice",
            twice(Method::POST, callers, "name", &json!("other")),
            fault("name", "duplicate"),
        ),
    ];
    all_refused(&world, &world.operator, &table).await;
    world.stop().await;
}
