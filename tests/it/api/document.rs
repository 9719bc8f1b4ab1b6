//! What the API says of itself at `/openapi.json`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use engagement_bridge::api::Kind;
use engagement_bridge::courier::Failure;
use engagement_bridge::operation::Outcome;
use serde_json::{Value, json};

use super::quiet_world;

async fn document() -> Value {
    let world = quiet_world().await;
    let answer = world.shop.with_key("").get("/openapi.json").await;
    world.stop().await;
    assert_eq!(answer.status, 200);
    answer.body
}

/// Every operation by its method and path.
fn operations(document: &Value) -> BTreeMap<String, &Value> {
    let mut found = BTreeMap::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            found.insert(format!("{} {path}", method.to_uppercase()), operation);
        }
    }
    found
}

/// What a reference leads to, or what is no reference.
fn resolved<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    match value["$ref"].as_str() {
        None => value,
        Some(reference) => document.pointer(reference.strip_prefix('#').unwrap()).unwrap(),
    }
}

/// Everything under `value` that is called `name`.
fn all<'a>(value: &'a Value, name: &str, found: &mut Vec<&'a Value>) {
    match value {
        Value::Object(members) => {
            found.extend(members.get(name));
            members.values().for_each(|value| all(value, name, found));
        }
        Value::Array(entries) => entries.iter().for_each(|value| all(value, name, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_document_is_reviewed_whenever_it_changes() {
    let document = document().await;
    insta::assert_snapshot!(serde_json::to_string_pretty(&document).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_reference_in_the_document_leads_somewhere() {
    let document = document().await;
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1."));
    let mut references = Vec::new();
    all(&document, "$ref", &mut references);
    assert!(20 < references.len(), "{references:?}");
    let mut used = BTreeSet::new();
    for reference in references {
        let pointer = reference.as_str().unwrap().strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
        used.insert(pointer.to_owned());
    }
    for schema in document["components"]["schemas"].as_object().unwrap().keys() {
        assert!(used.contains(&format!("/components/schemas/{schema}")), "{schema} is never used");
    }
    for (name, operation) in operations(&document) {
        for scheme in operation["security"].as_array().into_iter().flatten() {
            let scheme = scheme.as_object().unwrap().keys().next().unwrap();
            assert!(document["components"]["securitySchemes"][scheme].is_object(), "{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_has_an_id_of_its_own_a_summary_and_its_parameters() {
    let document = document().await;
    let mut ids = BTreeSet::new();
    for (name, operation) in operations(&document) {
        assert!(ids.insert(operation["operationId"].as_str().unwrap()), "{name}: an id twice");
        assert!(operation["summary"].is_string(), "{name}: no summary");
        let parameters = operation["parameters"].as_array().into_iter().flatten();
        let in_path = parameters.filter(|it| it["in"] == "path").map(|it| &it["name"]);
        let in_path: Vec<_> = in_path.map(|it| format!("{{{}}}", it.as_str().unwrap())).collect();
        let expected: Vec<_> = name.split('/').filter(|segment| segment.starts_with('{')).collect();
        assert_eq!(in_path, expected, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_tells_of_the_problems_it_may_answer_with() {
    let document = document().await;
    for (name, operation) in operations(&document) {
        let mut expected = BTreeSet::new();
        if operation["security"].is_array() {
            expected.extend(["401", "403", "408", "429", "500", "503", "default"]);
        }
        if operation["requestBody"].is_object() {
            expected.extend(["400", "413", "415", "422"]);
        }
        let mut parameters = operation["parameters"].as_array().into_iter().flatten();
        if parameters.clone().any(|it| it["in"] == "query") {
            expected.insert("422");
        }
        if parameters.any(|it| it["in"] == "path") {
            expected.insert("404");
        }
        let responses = operation["responses"].as_object().unwrap();
        for status in expected {
            assert!(responses.contains_key(status), "{name} does not tell of {status}");
        }
        for (status, response) in responses {
            let response = resolved(&document, response);
            if status.starts_with(['2', '3']) || name == "GET /readyz" {
                continue;
            }
            let content = &response["content"];
            let schema = &content["application/problem+json"]["schema"]["$ref"];
            assert_eq!(schema, "#/components/schemas/Problem", "{status} of {name}");
            assert_eq!(content.as_object().unwrap().len(), 1, "{status} of {name}");
            let says_when = response["headers"]["Retry-After"].is_object();
            assert_eq!(says_when, matches!(status.as_str(), "429" | "503"), "{status} of {name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_problem_has_a_name_for_good_and_a_documented_status() {
    let document = document().await;
    let operations = operations(&document);
    let documented: BTreeSet<_> =
        operations.values().flat_map(|it| it["responses"].as_object().unwrap().keys()).collect();
    let mut catalogue = String::new();
    for kind in Kind::ALL {
        let status = kind.status();
        // No operation in the document has a method that it does not take.
        let is_documented = documented.contains(&status.as_str().to_owned());
        assert_eq!(is_documented, kind != Kind::MethodNotAllowed, "{kind:?}");
        writeln!(catalogue, "{} {}", status.as_u16(), kind.uri()).unwrap();
    }
    let uris: BTreeSet<_> = Kind::ALL.map(Kind::uri).into();
    assert_eq!(uris.len(), Kind::ALL.len(), "two kinds of one name");
    insta::assert_snapshot!(catalogue);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_code_of_a_refused_url_and_of_a_failed_attempt_is_told() {
    let document = document().await;
    let told = |schema: &str, member: &str| {
        let path = format!("/components/schemas/{schema}/properties/{member}/description");
        document.pointer(&path).unwrap().as_str().unwrap().to_owned()
    };
    let of_urls = told("Registration", "callbackUrl");
    let of_attempts = told("Attempt", "failure");
    let mut codes = BTreeSet::new();
    for failure in Failure::all() {
        let code = failure.as_str();
        assert!(codes.insert(code), "{code} twice");
        let is_refusal = matches!(failure, Failure::Refused(_));
        let described = if is_refusal { &of_urls } else { &of_attempts };
        assert!(described.contains(&format!("`{code}`")), "{code} is not in: {described}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_receivers_get_stands_under_webhooks() {
    let document = document().await;
    let webhooks = document["webhooks"].as_object().unwrap();
    let outcomes =
        Outcome::ALL.map(Outcome::as_str).into_iter().chain(["credentialNeeded", "running"]);
    let expected: BTreeSet<_> =
        outcomes.map(|about| format!("engagementAsyncOperation.{about}")).collect();
    assert_eq!(webhooks.keys().cloned().collect::<BTreeSet<_>>(), expected);
    for (name, webhook) in webhooks {
        let post = &webhook["post"];
        let headers = post["parameters"].as_array().unwrap();
        let headers: Vec<_> = headers.iter().map(|it| it["name"].as_str().unwrap()).collect();
        assert_eq!(headers, ["webhook-id", "webhook-timestamp", "webhook-signature"]);
        let content = &post["requestBody"]["content"];
        let event = &content["application/cloudevents+json"]["schema"];
        assert_eq!(event["properties"]["type"]["enum"], json!([name]));
        let body = &content["application/json"]["schema"]["anyOf"][0];
        assert_eq!(body["properties"]["type"]["enum"], json!([name]));
        assert_eq!(body["properties"]["data"]["type"], json!(["object", "null"]));
        assert_eq!(body["required"], json!(["type", "timestamp", "data", "tracking"]));
    }
}
