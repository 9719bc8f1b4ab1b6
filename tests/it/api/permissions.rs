//! Who may do what: each endpoint, asked by each role about what is its own and about what is another's.
//!
//! Every cell is an answer of the bridge's own router. An endpoint that is in the document and not in
//! the table fails the test, and so does one whose answers are not those that the document promises.
//! On the way it is seen that every change leaves an entry in the audit log, and that what was refused
//! leaves none.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Duration;

use engagement_bridge::sandbox::Grants;
use engagement_bridge::store::{AuditFilter, Entry, Page};
use serde_json::{Value, json};

use super::door::{Door, words};
use super::house::{ADMIN_KEY, GUID, House};
use crate::contract::Bench;

/// Who asks, by what he sends.
///
/// The last five sign in by a token of Entra: a user who lets an app read, an app that may register, one
/// that may do all, one without any role, and one that the operator has let in as nobody.
const ROLES: [&str; 17] = [
    "nobody",
    "mistyped",
    "unknown",
    "revoked",
    "expired",
    "register",
    "read",
    "manage",
    "full",
    "another",
    "operator",
    "guess",
    "user-read",
    "app-register",
    "app-full",
    "app-none",
    "app-unbound",
];

/// Method, path as the document has it, path as it is asked for, and body.
type Request = (&'static str, &'static str, String, Option<Value>);

/// Each endpoint, by a request that is in order if it is asked by the right one: about what is the
/// caller `contoso`'s.
#[expect(clippy::too_many_lines, reason = "a line or two for each endpoint")]
async fn requests(house: &House, full: &str) -> Vec<Request> {
    let (_, spare) = house.make_key("contoso", &json!({})).await;
    let resend = json!({ "reason": "gone" });
    let (_, begun) = house.ask(Some(full), "POST", "/v1/callbacks/resend", Some(&resend)).await;
    let resend_id = begun["id"].as_str().unwrap();
    let connection = json!({ "name": "fabrikam", "tenant": "fabrikam.example",
        "clientId": "11111111-2222-3333-4444-555555555555", "clientSecret": "s" });
    let registration = json!({
        "operation": "eyJfdHlwZSI6IkxvbmdSdW5uaW5nT3BlcmF0aW9uIn0",
        "callbackUrl": "https://93.184.216.34/hooks",
        "connection": "contoso",
    });
    let credential = json!({ "accessToken": "eyJ0", "expiresIn": 60 });
    let secret = json!({ "clientSecret": "s" });
    let operation = |number: u8, rest: &str| format!("/v1/operations/op_{number:032x}{rest}");
    let gone = "/v1/destinations?url=https%3A%2F%2Fapp.example.com%2Fhooks";
    let admin = |rest: &str| format!("/v1/admin/callers/contoso/{rest}");
    let get = |template: &'static str, path: String| -> Request { ("GET", template, path, None) };
    let list = |template: &'static str| -> Request { ("GET", template, template.to_owned(), None) };
    let delete =
        |template: &'static str, path: String| -> Request { ("DELETE", template, path, None) };
    let post = |template: &'static str, body: &Value| -> Request {
        ("POST", template, template.to_owned(), Some(body.clone()))
    };
    let put = |template: &'static str, path: &str, body: &Value| -> Request {
        ("PUT", template, path.to_owned(), Some(body.clone()))
    };
    let nothing = &json!({});
    vec![
        post("/v1/operations", &registration),
        list("/v1/operations"),
        get("/v1/operations/{id}", operation(1, "")),
        delete("/v1/operations/{id}", operation(2, "")),
        put("/v1/operations/{id}/credential", &operation(2, "/credential"), &credential),
        ("POST", "/v1/operations/{id}/resend", operation(1, "/resend"), None),
        list("/v1/callbacks"),
        post("/v1/callbacks/resend", nothing),
        list("/v1/callbacks/resends"),
        get("/v1/callbacks/resends/{id}", format!("/v1/callbacks/resends/{resend_id}")),
        list("/v1/destinations"),
        delete("/v1/destinations", gone.to_owned()),
        list("/v1/keys"),
        post("/v1/keys", &json!({ "scopes": ["manage"] })),
        delete("/v1/keys/{id}", format!("/v1/keys/{spare}")),
        list("/v1/signing-secrets"),
        post("/v1/signing-secrets", nothing),
        delete("/v1/signing-secrets/{id}", "/v1/signing-secrets/1".to_owned()),
        list("/v1/signing-keys"),
        post("/v1/signing-keys", nothing),
        delete("/v1/signing-keys/{id}", "/v1/signing-keys/1".to_owned()),
        list("/v1/callback-settings"),
        put("/v1/callback-settings", "/v1/callback-settings", &json!({ "format": "operation" })),
        put(
            "/v1/callback-headers/{header}",
            "/v1/callback-headers/x-other",
            &json!({ "value": "s" }),
        ),
        delete("/v1/callback-headers/{header}", "/v1/callback-headers/x-api-key".to_owned()),
        list("/v1/connections"),
        post("/v1/connections", &connection),
        delete("/v1/connections/{name}", "/v1/connections/spare".to_owned()),
        put("/v1/connections/{name}/credential", "/v1/connections/spare/credential", &secret),
        ("POST", "/v1/connections/{name}/test", "/v1/connections/spare/test".to_owned(), None),
        list("/v1/admin/callers"),
        post("/v1/admin/callers", &json!({ "name": "newcomer" })),
        get("/v1/admin/callers/{caller}/keys", admin("keys")),
        ("POST", "/v1/admin/callers/{caller}/keys", admin("keys"), Some(nothing.clone())),
        delete("/v1/admin/callers/{caller}/keys/{id}", admin(&format!("keys/{spare}"))),
        (
            "POST",
            "/v1/admin/callers/{caller}/signing-secrets",
            admin("signing-secrets"),
            Some(nothing.clone()),
        ),
        get("/v1/admin/callers/{caller}/connections", admin("connections")),
        (
            "POST",
            "/v1/admin/callers/{caller}/connections",
            admin("connections"),
            Some(connection.clone()),
        ),
        put(
            "/v1/admin/callers/{caller}/connections/{name}/credential",
            &admin("connections/spare/credential"),
            &secret,
        ),
        (
            "POST",
            "/v1/admin/callers/{caller}/connections/{name}/test",
            admin("connections/spare/test"),
            None,
        ),
        get(
            "/v1/admin/callers/{caller}/connections/{name}/shares",
            admin("connections/contoso/shares"),
        ),
        put(
            "/v1/admin/callers/{caller}/connections/{name}/shares/{with}",
            &admin("connections/contoso/shares/tailspin"),
            &json!({ "name": "another" }),
        ),
        delete(
            "/v1/admin/callers/{caller}/connections/{name}/shares/{with}",
            admin("connections/contoso/shares/tailspin"),
        ),
        get("/v1/admin/callers/{caller}/sign-ins", admin("sign-ins")),
        (
            "POST",
            "/v1/admin/callers/{caller}/sign-ins",
            admin("sign-ins"),
            Some(json!({ "tenant": GUID, "app": "66666666-7777-8888-9999-000000000000" })),
        ),
        delete(
            "/v1/admin/callers/{caller}/sign-ins/{tenant}/{app}",
            admin(&format!("sign-ins/{GUID}/{GUID}")),
        ),
        list("/v1/admin/audit"),
        list("/v1/admin/vault"),
        ("POST", "/v1/admin/vault/rekey", "/v1/admin/vault/rekey".to_owned(), None),
        post("/v1/admin/callbacks/resend", nothing),
        list("/v1/admin/callbacks/resends"),
        get("/v1/admin/callbacks/resends/{id}", format!("/v1/admin/callbacks/resends/{resend_id}")),
        get("/v1/callers/{caller}/signing-keys", "/v1/callers/contoso/signing-keys".to_owned()),
        list("/healthz"),
        list("/readyz"),
        list("/metrics"),
    ]
}

/// What each role sends.
async fn bearers(house: &House, door: &Door) -> [Option<String>; ROLES.len()] {
    let scope =
        async |scope: &str| house.make_key("contoso", &json!({ "scopes": [scope] })).await.0;
    let (revoked, id) = house.make_key("contoso", &json!({})).await;
    let path = format!("/v1/admin/callers/contoso/keys/{id}");
    assert_eq!(house.ask(Some(ADMIN_KEY), "DELETE", &path, None).await.0, 204);
    let (expired, _) = house.make_key("contoso", &json!({ "expiresAfter": "PT1M" })).await;
    house.wait(Duration::from_mins(1));
    let (full, _) = house.make_key("contoso", &json!({})).await;
    let mistyped = full[..41].to_owned();
    let all = Grants::Roles(words(&["Register", "Read", "Manage"]));
    // By the format that the README tells.
    let unknown = format!("ebk_{}3WF97K", "0".repeat(32));
    [
        None,
        Some(mistyped),
        Some(unknown),
        Some(revoked),
        Some(expired),
        Some(scope("register").await),
        Some(scope("read").await),
        Some(scope("manage").await),
        Some(full),
        Some(house.add_caller("fabrikam").await),
        Some(ADMIN_KEY.to_owned()),
        Some("correct horse battery stapler".to_owned()),
        Some(door.token(GUID, Grants::Scopes(words(&["Read"])))),
        Some(door.token(GUID, Grants::Roles(words(&["Register"])))),
        Some(door.token(GUID, all.clone())),
        Some(door.token(GUID, Grants::Roles(Vec::new()))),
        Some(door.token("66666666-7777-8888-9999-000000000000", all)),
    ]
}

async fn entries(house: &House) -> Vec<Entry> {
    house.bench.changes(&AuditFilter::default(), Page { after: None, limit: 200 }).await.unwrap()
}

/// Asks for the `number`th endpoint as each role, each in a house of its own: the endpoint, and the
/// statuses. Sees to it that the audit log has what was changed, and nothing else.
async fn row(number: usize, door: &Door) -> (String, Vec<u16>) {
    let (mut endpoint, mut statuses) = (String::new(), Vec::new());
    for place in 0..ROLES.len() {
        let mut house = House::with_door(Bench::memory().await, door).await;
        let (full, _) = house.make_key("contoso", &json!({})).await;
        if requests(&house, &full).await[number].1.starts_with("/v1/admin/vault") {
            // The memory seals nothing.
            house = House::with_door(Bench::sqlite().await, door).await;
        }
        let bearers = bearers(&house, door).await;
        let full = bearers[8].clone().unwrap();
        let (method, template, path, body) = requests(&house, &full).await.swap_remove(number);
        let before = entries(&house).await;
        let (status, answer) =
            house.ask(bearers[place].as_deref(), method, &path, body.as_ref()).await;
        assert!(status < 500, "{method} {path} as {}: {answer}", ROLES[place]);
        let after = entries(&house).await;
        let is_change = method != "GET" && (method, template) != ("POST", "/v1/operations");
        let added = usize::from(is_change && status < 400);
        let told = format!("{method} {path} as {}: {status}", ROLES[place]);
        // The clock stands, so that the order of entries tells nothing.
        let new: Vec<_> = after.into_iter().filter(|entry| !before.contains(entry)).collect();
        assert_eq!(new.len(), added, "{told}, {new:?}");
        for entry in new {
            let what = (entry.method.as_str(), entry.resource.as_str(), entry.result);
            assert_eq!(what, (method, template, Some(status)), "{told}");
            let is_by = match ROLES[place] {
                "operator" => "adminKey",
                role if role.starts_with("app-") || role.starts_with("user-") => "signIn",
                _ => "apiKey",
            };
            assert_eq!(entry.who.as_str(), is_by, "{told}");
        }
        endpoint = format!("{method} {template}");
        statuses.push(status);
    }
    (endpoint, statuses)
}

/// What the document says that an endpoint needs: nothing, the admin key, or a scope.
fn needs(document: &Value, endpoint: &str) -> Option<String> {
    let (method, path) = endpoint.split_once(' ').unwrap();
    let security = &document["paths"][path][method.to_lowercase()]["security"][0];
    let scheme = security.as_object()?.iter().next().unwrap();
    Some(scheme.1[0].as_str().unwrap_or(scheme.0).to_owned())
}

/// Who is let in, by what the endpoint needs; whether that is also so where it is about another's.
fn may(role: &str, needs: Option<&str>) -> bool {
    match needs {
        None => true,
        Some("adminKey") => role == "operator",
        Some(scope) => {
            let granted = role.split_once('-').map_or(role, |(_, granted)| granted);
            granted == scope || matches!(granted, "full" | "another")
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_endpoint_lets_in_whom_its_document_names_and_nobody_else() {
    let (house, door) = (House::furnished().await, Door::open().await);
    let full = house.make_key("contoso", &json!({})).await.0;
    let count = requests(&house, &full).await.len();
    let width = 68;
    let mut table = format!("{:width$} {}\n", "", ROLES.join(" "));
    let mut asked = BTreeSet::new();
    for number in 0..count {
        let (endpoint, statuses) = row(number, &door).await;
        let needs = needs(&house.document, &endpoint);
        write!(table, "{endpoint:width$}").unwrap();
        for (role, status) in ROLES.iter().zip(&statuses) {
            write!(table, " {status:>width$}", width = role.len()).unwrap();
            let is_in = !matches!(status, 401 | 403);
            assert_eq!(is_in, may(role, needs.as_deref()), "{endpoint} as {role}: {status}");
        }
        table.push('\n');
        let allowed = if needs.as_deref() == Some("adminKey") { "operator" } else { "full" };
        let status_of = |role: &str| statuses[ROLES.iter().position(|it| *it == role).unwrap()];
        assert!(status_of(allowed) < 300, "{endpoint} was not in order: {}", status_of(allowed));
        // Of another's there is nothing, where it is named.
        let is_of_callers = needs.is_some_and(|needs| needs != "adminKey");
        let names_one = endpoint.contains('{') && endpoint != "PUT /v1/callback-headers/{header}";
        if is_of_callers && names_one {
            // Numbers are the caller's own, and it has one of each, which is not to be revoked.
            let own = endpoint == "DELETE /v1/signing-secrets/{id}";
            assert_eq!(status_of("another"), if own { 409 } else { 404 }, "{endpoint}");
        }
        assert!(asked.insert(endpoint), "asked twice");
    }
    let mut documented = BTreeSet::new();
    for (path, operations) in house.document["paths"].as_object().unwrap() {
        for method in operations.as_object().unwrap().keys() {
            documented.insert(format!("{} {path}", method.to_uppercase()));
        }
    }
    assert_eq!(asked, documented, "an endpoint is missing here");
    insta::assert_snapshot!(table);
}
