//! Over a real socket, with a client that knows nothing of the sandbox.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use reqwest::{Client as Http, RequestBuilder, Response, StatusCode};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::*;

/// A clock that is set by hand.
struct HandClock(Mutex<Timestamp>);

impl HandClock {
    fn advance(&self, span: Duration) {
        let mut now = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *now = now.checked_add(span).unwrap();
    }
}

impl Clock for HandClock {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A sandbox, its clock, and a client of both.
struct Scene {
    sandbox: Sandbox,
    clock: Arc<HandClock>,
    http: Http,
}

impl Scene {
    async fn new() -> Self {
        Self::with(Options::default()).await
    }

    async fn with(options: Options) -> Self {
        let start = "2026-11-24T09:00:00.250Z".parse().unwrap();
        let clock = Arc::new(HandClock(Mutex::new(start)));
        let sandbox = Sandbox::start(options, Arc::clone(&clock) as Arc<dyn Clock>).await.unwrap();
        Self { sandbox, clock, http: http_client() }
    }

    fn token(&self, identity: &str) -> String {
        let token = self.sandbox.hand_out_token(identity, Duration::from_hours(1)).unwrap();
        token.expose_secret().to_owned()
    }

    fn create(&self, script: Value) -> Created {
        let script = serde_json::from_value(script).unwrap();
        self.sandbox.create(Version::V1, script).unwrap()
    }

    fn get(&self, path: &str) -> RequestBuilder {
        self.http.get(format!("{}{path}", self.sandbox.root()))
    }

    fn post(&self, path: &str) -> RequestBuilder {
        self.http.post(format!("{}{path}", self.sandbox.root()))
    }

    fn poll(&self, id: &str, token: &str) -> RequestBuilder {
        self.get(&format!("/v1.0/employeeExperience/engagementAsyncOperations/{id}"))
            .bearer_auth(token)
            .header("prefer", "include-unknown-enum-members")
    }

    fn create_community(&self, token: &str, display_name: &str) -> RequestBuilder {
        self.post("/v1.0/employeeExperience/communities").bearer_auth(token).json(&json!({
            "displayName": display_name, "description": "Everyone", "privacy": "public",
        }))
    }

    async fn ask_for_token(&self, form: &[(&str, &str)]) -> Response {
        self.post("/contoso/oauth2/v2.0/token").form(form).send().await.unwrap()
    }
}

fn http_client() -> Http {
    // Only the first of the tests that call this installs it.
    let _already_installed = rustls::crypto::ring::default_provider().install_default();
    Http::builder().no_proxy().tls_certs_only([]).build().unwrap()
}

async fn body(response: Response) -> Value {
    response.json().await.unwrap()
}

fn header<'a>(response: &'a Response, name: &str) -> &'a str {
    response.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

const APP: [(&str, &str); 4] = [
    ("grant_type", "client_credentials"),
    ("client_id", "App-1"),
    ("client_secret", "s3cret"),
    ("scope", "https://graph.microsoft.com/.default"),
];

#[tokio::test]
async fn a_community_is_accepted_with_both_headers_and_an_empty_body() {
    let scene = Scene::new().await;
    let token = scene.token("alice");
    let answer = scene.create_community(&token, "All hands").send().await.unwrap();

    assert_eq!(answer.status(), StatusCode::ACCEPTED);
    assert_eq!(header(&answer, "content-type"), "application/json");
    let location = header(&answer, "location").to_owned();
    assert_eq!(header(&answer, "operation-location"), location);
    let prefix =
        format!("{}/v1.0/employeeExperience/engagementAsyncOperations('", scene.sandbox.root());
    let id = location.strip_prefix(&prefix).unwrap().strip_suffix("')").unwrap();
    assert_eq!(id.len(), 142);
    assert!(id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)));
    assert_eq!(answer.bytes().await.unwrap(), "");

    // The address as it was given works like the one with the id as a segment.
    let answer = scene.http.get(&location).bearer_auth(&token).send().await.unwrap();
    assert_eq!(body(answer).await["id"], id);
}

#[tokio::test]
async fn an_operation_goes_from_not_started_over_running_to_succeeded_with_time() {
    let scene = Scene::new().await;
    let token = scene.token("alice");
    let answer = scene.create_community(&token, "All hands").send().await.unwrap();
    let location = header(&answer, "location").to_owned();
    let id = location.split('\'').nth(1).unwrap();
    let status = async || {
        let answer = body(scene.poll(id, &token).send().await.unwrap()).await;
        (answer["status"].clone(), answer["resourceId"].is_null())
    };

    assert_eq!(status().await, (json!("notStarted"), true));
    scene.clock.advance(Duration::from_secs(4));
    assert_eq!(status().await, (json!("running"), true));
    scene.clock.advance(Duration::from_secs(17));
    assert_eq!(status().await, (json!("succeeded"), false));
}

#[tokio::test]
async fn an_operation_is_spelled_as_graph_spells_it_in_both_versions() {
    let scene = Scene::new().await;
    let token = scene.token("alice");
    let id = scene.create(json!([{"status": "succeeded"}])).id;
    let root = scene.sandbox.root();

    let answer = scene.poll(&id, &token).send().await.unwrap();
    assert!(header(&answer, "content-type").starts_with("application/json;odata.metadata=minimal"));
    assert_eq!(header(&answer, "preference-applied"), "include-unknown-enum-members");
    let v1 = answer.text().await.unwrap();
    let members: Value = serde_json::from_str(&v1).unwrap();
    let resource = members["resourceId"].as_str().unwrap();
    let (created, last) = (&members["createdDateTime"], &members["lastActionDateTime"]);
    assert_eq!(
        v1,
        format!(
            "{{\"@odata.context\":\"{root}/v1.0/employeeExperience/engagementAsyncOperations/$entity\",\
             \"id\":\"{id}\",\"createdDateTime\":{created},\"lastActionDateTime\":{last},\
             \"status\":\"succeeded\",\"statusDetail\":null,\
             \"resourceLocation\":\"{root}/v1.0/employeeExperience/communities('{resource}')\",\
             \"operationType\":\"createCommunity\",\"resourceId\":\"{resource}\"}}"
        )
    );
    let (created, last) = (created.as_str().unwrap(), last.as_str().unwrap());
    assert!(created.starts_with("2026-11-24T01:00:00.250"), "{created}");
    assert!(created.ends_with("-08:00") && created.len() == 32, "{created}");
    assert!(created.parse::<Timestamp>().unwrap() < last.parse().unwrap());

    let path = format!("/beta/employeeExperience/engagementAsyncOperations('{id}')");
    let beta = body(scene.get(&path).bearer_auth(&token).send().await.unwrap()).await;
    assert_eq!(beta.get("@odata.context"), None);
    let created = beta["createdDateTime"].as_str().unwrap();
    assert!(created.starts_with("2026-11-24T09:00:00.250"), "{created}");
    assert!(created.ends_with('Z') && created.len() == 28, "{created}");
    let location = format!("{root}/beta/employeeExperience/communities('{resource}')");
    assert_eq!(beta["resourceLocation"], location);
}

#[tokio::test]
async fn a_display_name_chooses_how_its_operation_ends() {
    let scene = Scene::new().await;
    let token = scene.token("alice");
    for (name, end) in [("x #fails", "failed"), ("x #skipped", "skipped"), ("x #slow", "running")] {
        let answer = scene.create_community(&token, name).send().await.unwrap();
        let location = header(&answer, "location").to_owned();
        scene.clock.advance(Duration::from_secs(20));
        let id = location.split('\'').nth(1).unwrap();
        let answer = body(scene.poll(id, &token).send().await.unwrap()).await;
        assert_eq!(answer["status"], end, "{name}");
        assert_eq!(answer["statusDetail"].is_string(), end == "failed", "{name}");
    }
}

#[tokio::test]
async fn a_faster_sandbox_shortens_progress_and_budgets_alike() {
    let scene = Scene::with(Options { speed: 100.0, ..Options::default() }).await;
    let token = scene.token("alice");
    let id = scene.create(json!("succeeds")).id;
    scene.clock.advance(Duration::from_millis(200));
    for _ in 0..10 {
        let answer = body(scene.poll(&id, &token).send().await.unwrap()).await;
        assert_eq!(answer["status"], "succeeded");
    }
    scene.clock.advance(Duration::from_millis(45));
    let answer = scene.poll(&id, &token).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(header(&answer, "retry-after"), "0.255");
    scene.clock.advance(Duration::from_millis(255));
    let answer = scene.poll(&id, &token).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
}

#[tokio::test]
async fn the_eleventh_request_within_30_s_is_throttled_whatever_it_is_for() {
    let scene = Scene::new().await;
    let (alice, bob) = (scene.token("alice"), scene.token("bob"));
    let id = scene.create(json!([{"status": "running"}])).id;
    for _ in 0..5 {
        let answer = scene.create_community(&alice, "All hands").send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::ACCEPTED);
        scene.clock.advance(Duration::from_millis(300));
        let answer = scene.poll(&id, &alice).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
    }
    let answer = scene.poll(&id, &alice).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(header(&answer, "retry-after"), "29", "28.5 s, in whole seconds and never early");
    let request_id = header(&answer, "request-id").to_owned();
    assert_eq!(
        answer.text().await.unwrap(),
        format!(
            "{{\"error\":{{\"code\":\"TooManyRequests\",\"innerError\":{{\"code\":\"429\",\
             \"date\":\"2026-11-24T09:00:01\",\"message\":\"Please retry after\",\
             \"request-id\":\"{request_id}\",\"status\":\"429\"}},\
             \"message\":\"Please retry again later.\"}}}}"
        )
    );
    // Another identity is not concerned, and another token of the same one is.
    assert_eq!(scene.poll(&id, &bob).send().await.unwrap().status(), StatusCode::OK);
    let another = scene.token("alice");
    let answer = scene.poll(&id, &another).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS);

    scene.clock.advance(Duration::from_millis(28_500));
    assert_eq!(scene.poll(&id, &alice).send().await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn a_scripted_answer_is_given_as_it_stands_in_the_script() {
    let scene = Scene::new().await;
    let token = scene.token("alice");
    let id = scene
        .create(json!([
            {"status": null},
            {"status": "running", "retryAfter": "2.128", "headers": {"X-Odd": "1"}},
            {"http": 503, "retryAfter": "Tue, 24 Nov 2026 09:00:30 GMT"},
            {"http": 502, "body": "<html>\u{e4}</html>", "contentType": "text/html"},
            {"body": "{\"trunc"},
            {"bodyBase64": "/wD+"},
            {"http": 302, "headers": {"location": "http://127.0.0.1:1/elsewhere"}},
            {"http": 403, "error": "Authorization_RequestDenied"},
        ]))
        .id;
    let builder = Http::builder().no_proxy().tls_certs_only([]);
    let http = builder.redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let next = async || {
        let request = scene.poll(&id, &token).build().unwrap();
        http.execute(request).await.unwrap()
    };

    let answer = body(next().await).await;
    assert_eq!(answer["status"], Value::Null);
    assert!(answer.get("status").is_some());

    let answer = next().await;
    assert_eq!(header(&answer, "retry-after"), "2.128");
    assert_eq!(header(&answer, "x-odd"), "1");
    assert_eq!(body(answer).await["status"], "running");

    let answer = next().await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(header(&answer, "retry-after"), "Tue, 24 Nov 2026 09:00:30 GMT");
    assert_eq!(body(answer).await["error"]["code"], "ServiceUnavailable");

    let answer = next().await;
    assert_eq!(answer.status(), StatusCode::BAD_GATEWAY);
    assert_eq!(header(&answer, "content-type"), "text/html");
    assert_eq!(answer.text().await.unwrap(), "<html>\u{e4}</html>");

    assert_eq!(next().await.text().await.unwrap(), "{\"trunc");
    assert_eq!(next().await.bytes().await.unwrap().as_ref(), [0xff, 0, 0xfe]);

    let answer = next().await;
    assert_eq!(answer.status(), StatusCode::FOUND);
    assert_eq!(header(&answer, "location"), "http://127.0.0.1:1/elsewhere");

    let answer = next().await;
    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    assert_eq!(body(answer).await["error"]["code"], "Authorization_RequestDenied");
}

#[tokio::test]
async fn a_broken_off_answer_arrives_as_far_as_it_goes() {
    let scene = Scene::new().await;
    let token = scene.token("alice");
    let id = scene.create(json!([{"body": "{\"id\":", "missingBytes": 100}])).id;
    let mut answer = scene.poll(&id, &token).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(header(&answer, "content-length"), "106");
    assert_eq!(answer.chunk().await.unwrap().unwrap(), "{\"id\":");
    assert!(answer.chunk().await.is_err());
}

#[tokio::test]
async fn a_dropped_connection_brings_no_answer_and_is_recorded_without_a_status() {
    let scene = Scene::new().await;
    let token = scene.token("alice");
    let id = scene.create(json!([{"drop": true}, {"status": "running"}])).id;
    let failure = scene.poll(&id, &token).send().await.unwrap_err();
    assert!(failure.is_request(), "{failure:?}");
    assert_eq!(scene.poll(&id, &token).send().await.unwrap().status(), StatusCode::OK);
    let statuses: Vec<_> = scene.sandbox.record().iter().map(|request| request.status).collect();
    assert_eq!(statuses, [None, Some(200)]);
}

#[tokio::test]
async fn a_delayed_answer_comes_late_and_holds_up_no_other() {
    let scene = Scene::new().await;
    let token = scene.token("alice");
    let slow = scene.create(json!([{"delayMs": 60_000, "status": "running"}])).id;
    let soon = scene.create(json!([{"delayMs": 50, "status": "running"}])).id;
    let slow = scene.poll(&slow, &token).timeout(Duration::from_millis(300)).send();
    let quick = async {
        let began = Instant::now();
        let answer = scene.poll(&soon, &token).send().await.unwrap();
        assert!(Duration::from_millis(50) <= began.elapsed());
        answer.status()
    };
    let (slow, quick) = tokio::join!(slow, quick);
    assert!(slow.unwrap_err().is_timeout());
    assert_eq!(quick, StatusCode::OK);
}

#[tokio::test]
async fn members_that_came_later_reach_only_those_who_prefer_to_know_them() {
    let scene = Scene::new().await;
    let token = scene.token("alice");
    for (word, without) in [
        ("skipped", "unknownFutureValue"),
        ("somethingNew", "unknownFutureValue"),
        ("Running", "Running"),
        ("failed", "failed"),
    ] {
        let id = scene.create(json!([{"status": word}])).id;
        let known = body(scene.poll(&id, &token).send().await.unwrap()).await;
        assert_eq!(known["status"], word);
        let path = format!("/v1.0/employeeExperience/engagementAsyncOperations/{id}");
        let plain = body(scene.get(&path).bearer_auth(&token).send().await.unwrap()).await;
        assert_eq!(plain["status"], without, "{word}");
    }
}

#[tokio::test]
async fn without_a_good_token_graph_answers_401_and_a_challenge() {
    let scene = Scene::new().await;
    let id = scene.create(json!([{"status": "running"}])).id;
    let short = scene.sandbox.hand_out_token("alice", Duration::from_secs(1)).unwrap();
    let life = Duration::from_hours(1);
    let foreign = scene.sandbox.hand_out_assertion("alice", "app-1", life).unwrap();
    scene.clock.advance(Duration::from_secs(1));

    let path = format!("/v1.0/employeeExperience/engagementAsyncOperations/{id}");
    let requests = [
        (scene.get(&path), "Access token is empty."),
        (scene.get(&path).basic_auth("alice", Some("x")), "Access token is empty."),
        (scene.poll(&id, "nobody"), "CompactToken parsing failed with error code: 80049217"),
        (
            scene.poll(&id, short.expose_secret()),
            "Lifetime validation failed, the token is expired.",
        ),
        (
            scene.poll(&id, foreign.expose_secret()),
            "Access token validation failure. Invalid audience.",
        ),
    ];
    for (request, message) in requests {
        let sent = "6e9c8a5c-1c5f-4c6e-9c3a-0a4f5b8e7d21";
        let answer = request.header("client-request-id", sent).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
        assert!(header(&answer, "www-authenticate").starts_with("Bearer realm=\"\""));
        let request_id = header(&answer, "request-id").to_owned();
        assert_eq!(
            body(answer).await,
            json!({"error": {
                "code": "InvalidAuthenticationToken",
                "message": message,
                "innerError": {
                    "date": "2026-11-24T09:00:01",
                    "request-id": request_id,
                    "client-request-id": sent,
                },
            }})
        );
    }
    let record = scene.sandbox.record();
    assert_eq!(record.len(), 5);
    for request in record {
        assert_eq!((request.identity, request.operation), (None, Some(id.clone())));
    }
}

#[tokio::test]
async fn every_answer_of_graph_names_the_exchange_and_the_time() {
    let scene = Scene::new().await;
    let token = scene.token("alice");
    let id = scene.create(json!([{"status": "running"}, {"http": 500}])).id;
    for status in [200, 500] {
        let answer = scene.poll(&id, &token).send().await.unwrap();
        assert_eq!(answer.status(), status);
        assert_eq!(header(&answer, "date"), "Tue, 24 Nov 2026 09:00:00 GMT");
        let request_id = header(&answer, "request-id");
        assert_eq!(request_id.len(), 36);
        assert_eq!(header(&answer, "client-request-id"), request_id);
        let server: Value = serde_json::from_str(header(&answer, "x-ms-ags-diagnostic")).unwrap();
        assert_eq!(server["ServerInfo"]["DataCenter"], "Sandbox");
    }
}

#[tokio::test]
async fn what_graph_does_not_have_is_refused_in_its_words() {
    let scene = Scene::new().await;
    let token = scene.token("alice");
    let communities = "/v1.0/employeeExperience/communities";
    let operations = "/v1.0/employeeExperience/engagementAsyncOperations";
    let post = |path: &str, body: Value| scene.post(path).bearer_auth(&token).json(&body);
    let named = |name: &str| json!({"displayName": name, "description": "", "privacy": "public"});
    let requests = [
        (scene.poll("nosuch", &token), 404, "NotFound"),
        (scene.get(communities).bearer_auth(&token), 405, "MethodNotAllowed"),
        (post(&format!("{operations}/x"), json!({})), 405, "MethodNotAllowed"),
        (scene.get("/v2.0/me").bearer_auth(&token), 400, "BadRequest"),
        (scene.get(operations).bearer_auth(&token), 400, "BadRequest"),
        (post(communities, json!({"displayName": "x"})), 400, "BadRequest"),
        (post(communities, named("")), 400, "BadRequest"),
        (post(communities, named(&"x".repeat(256))), 400, "BadRequest"),
        (post(communities, named(&"x".repeat(70_000))), 413, "RequestEntityTooLarge"),
    ];
    for (request, status, code) in requests {
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), status, "{code}");
        assert_eq!(body(answer).await["error"]["code"], code);
    }
}

#[tokio::test]
async fn an_app_gets_a_token_that_opens_graph_until_it_expires() {
    let scene = Scene::new().await;
    let answer = scene.ask_for_token(&APP).await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(header(&answer, "cache-control"), "no-store, no-cache");
    let granted = body(answer).await;
    assert_eq!(granted["token_type"], "Bearer");
    assert_eq!(granted["expires_in"], 3_599);
    assert_eq!(granted.get("refresh_token"), None);
    let token = granted["access_token"].as_str().unwrap();

    let id = scene.create(json!([{"status": "running"}])).id;
    assert_eq!(scene.poll(&id, token).send().await.unwrap().status(), StatusCode::OK);
    scene.clock.advance(Duration::from_secs(3_599));
    assert_eq!(scene.poll(&id, token).send().await.unwrap().status(), StatusCode::UNAUTHORIZED);

    let identities: Vec<_> =
        scene.sandbox.record().into_iter().map(|request| request.identity).collect();
    let app = Some("contoso/app-1".to_owned());
    assert_eq!(identities, [app.clone(), app, None]);
}

#[tokio::test]
async fn the_token_endpoint_refuses_in_the_words_of_entra() {
    let known = Client {
        tenant: "contoso".to_owned(),
        client_id: "app-1".to_owned(),
        secret: "s3cret".into(),
    };
    let options = Options { clients: vec![known], ..Options::default() };
    let scene = Scene::with(options).await;
    let app = BTreeMap::from(APP);
    let with = |name, value| {
        let mut form = app.clone();
        form.insert(name, value);
        form.into_iter().filter(|(_, value)| !value.is_empty()).collect::<Vec<_>>()
    };
    let requests = [
        (with("grant_type", ""), 400, "invalid_request", 900_144),
        (with("grant_type", "password"), 400, "unsupported_grant_type", 70_003),
        (with("client_id", "app-2"), 400, "unauthorized_client", 700_016),
        (with("client_secret", ""), 401, "invalid_client", 7_000_218),
        (with("client_secret", "wrong"), 401, "invalid_client", 7_000_215),
        (with("scope", ""), 400, "invalid_request", 900_144),
        (with("scope", "Community.Read.All"), 400, "invalid_scope", 1_002_012),
        (with("scope", "https://vault.azure.net/.default"), 400, "invalid_resource", 500_011),
    ];
    for (form, status, error, number) in requests {
        let answer = scene.ask_for_token(&form).await;
        assert_eq!(answer.status(), status, "{error}");
        let refusal = body(answer).await;
        assert_eq!(refusal["error"], error);
        assert_eq!(refusal["error_codes"], json!([number]));
        assert_eq!(refusal["timestamp"], "2026-11-24 09:00:00Z");
        let text = refusal["error_description"].as_str().unwrap();
        assert!(text.starts_with(&format!("AADSTS{number}: ")), "{text}");
        for trace in ["trace_id", "correlation_id"] {
            assert!(text.contains(refusal[trace].as_str().unwrap()), "{text}");
        }
    }
    let answer = scene.post("/fabrikam/oauth2/v2.0/token").form(&APP).send().await.unwrap();
    assert_eq!(body(answer).await["error_codes"], json!([90_002]));
    assert_eq!(scene.ask_for_token(&APP).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_user_token_is_exchanged_and_then_refreshed_with_a_new_token_each_time() {
    let scene = Scene::new().await;
    let life = Duration::from_hours(1);
    let assertion = scene.sandbox.hand_out_assertion("alice", "app-1", life).unwrap();
    let scope = "https://graph.microsoft.com/Community.Read.All offline_access";
    let exchange = |assertion: &str| {
        let form = [
            ("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"),
            ("requested_token_use", "on_behalf_of"),
            ("client_id", "app-1"),
            ("client_secret", "s3cret"),
            ("scope", scope),
        ];
        let mut form: Vec<(String, String)> =
            form.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        form.push(("assertion".to_owned(), assertion.to_owned()));
        scene.post("/contoso/oauth2/v2.0/token").form(&form).send()
    };
    let first = body(exchange(assertion.expose_secret()).await.unwrap()).await;
    assert_eq!(first["scope"], "https://graph.microsoft.com/Community.Read.All");
    let used = first["refresh_token"].as_str().unwrap();

    let refresh = async |token: &str, client: &str| {
        let form = [
            ("grant_type", "refresh_token"),
            ("client_id", client),
            ("client_secret", "s3cret"),
            ("scope", scope),
            ("refresh_token", token),
        ];
        body(scene.ask_for_token(&form).await).await
    };
    let second = refresh(used, "app-1").await;
    let newer = second["refresh_token"].as_str().unwrap();
    assert_ne!(used, newer);
    // The one that was used still works, so that a crash before the new one is saved does no harm.
    assert!(refresh(used, "app-1").await["access_token"].is_string());
    assert_eq!(refresh(newer, "app-2").await["error_codes"], json!([70_000]));
    assert_eq!(refresh("unknown", "app-1").await["error"], "invalid_grant");

    let id = scene.create(json!([{"status": "running"}])).id;
    let token = second["access_token"].as_str().unwrap();
    assert_eq!(scene.poll(&id, token).send().await.unwrap().status(), StatusCode::OK);
    let last = scene.sandbox.record().pop().unwrap();
    assert_eq!(last.identity.as_deref(), Some("contoso/app-1/alice"));

    let for_graph = scene.token("alice");
    let refusal = body(exchange(&for_graph).await.unwrap()).await;
    assert_eq!(refusal["error_codes"], json!([500_131]));
    scene.clock.advance(Duration::from_hours(90 * 24));
    assert_eq!(refresh(used, "app-1").await["error_codes"], json!([700_082]));
    let refusal = body(exchange(assertion.expose_secret()).await.unwrap()).await;
    assert_eq!(refusal["error_codes"], json!([500_133]));
}

#[tokio::test]
async fn the_token_endpoint_follows_its_script_and_then_behaves_again() {
    let scene = Scene::new().await;
    let script = json!([
        {"http": 429, "retryAfter": "3"},
        {"http": 400, "error": "interaction_required"},
        {"http": 502, "body": "<html>", "contentType": "text/html"},
    ]);
    let url = format!("{}/sandbox/token-script", scene.sandbox.root());
    let answer = scene.http.post(url).json(&script).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::NO_CONTENT);

    let answer = scene.ask_for_token(&APP).await;
    assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(header(&answer, "retry-after"), "3");
    assert_eq!(body(answer).await["error"], "temporarily_unavailable");
    let refusal = body(scene.ask_for_token(&APP).await).await;
    assert_eq!(refusal["error"], "interaction_required");
    assert_eq!(refusal["error_codes"], json!([50_076]));
    assert_eq!(scene.ask_for_token(&APP).await.text().await.unwrap(), "<html>");
    assert_eq!(scene.ask_for_token(&APP).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn other_processes_control_it_by_http() {
    let scene = Scene::new().await;
    let control = async |path: &str, wish: Value| {
        scene.post(&format!("/sandbox/{path}")).json(&wish).send().await.unwrap()
    };
    let answer = control("operations", json!({"version": "beta", "script": [{"http": 404}]})).await;
    assert_eq!(answer.status(), StatusCode::CREATED);
    let created: Created = answer.json().await.unwrap();
    let tail = format!("/beta/employeeExperience/engagementAsyncOperations('{}')", created.id);
    assert_eq!(created.location, format!("{}{tail}", scene.sandbox.root()));

    let answer = control("tokens", json!({"identity": "alice", "expiresIn": 60})).await;
    assert_eq!(answer.status(), StatusCode::CREATED);
    let handed = body(answer).await;
    assert_eq!(handed["expiresIn"], 60);
    let token = handed["accessToken"].as_str().unwrap();
    assert_eq!(scene.poll(&created.id, token).send().await.unwrap().status(), 404);

    let recorded = body(scene.get("/sandbox/record").send().await.unwrap()).await;
    assert_eq!(recorded["forgotten"], 0);
    let requests: Vec<RecordedRequest> =
        serde_json::from_value(recorded["requests"].clone()).unwrap();
    assert_eq!(requests, scene.sandbox.record());

    for (wish, reason) in [
        (json!({"script": [{"status": "running"}, {"http": 7}]}), "script[1]: `http` is 200"),
        (json!({"version": "v2"}), "version: unknown variant"),
        (json!({"scrpit": []}), "unknown field `scrpit`"),
    ] {
        let answer = control("operations", wish).await;
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
        let refusal = body(answer).await["error"].as_str().unwrap().to_owned();
        assert!(refusal.contains(reason), "{refusal}");
    }
    assert_eq!(control("nosuch", json!({})).await.status(), StatusCode::NOT_FOUND);

    assert_eq!(control("reset", json!({})).await.status(), StatusCode::NO_CONTENT);
    assert_eq!(scene.sandbox.record(), []);
    let answer = scene.poll(&created.id, token).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn the_record_shows_who_asked_what_and_holds_no_secret() {
    let scene = Scene::new().await;
    let granted = body(scene.ask_for_token(&APP).await).await;
    let token = granted["access_token"].as_str().unwrap();
    let id = scene.create(json!([{"status": "running"}])).id;
    scene.clock.advance(Duration::from_millis(1_500));
    scene
        .poll(&id, token)
        .header("user-agent", "engagement-bridge/0.1.0")
        .header("cookie", "s3cret")
        .send()
        .await
        .unwrap();
    for _ in 0..10 {
        scene.poll(&id, token).send().await.unwrap();
    }

    let record = scene.sandbox.record();
    let asked = &record[1];
    assert_eq!(asked.at_ms, record[0].at_ms + 1_500);
    assert_eq!((record[0].surface, asked.surface), (Surface::Entra, Surface::Graph));
    assert_eq!(asked.method, "GET");
    assert_eq!(asked.path, format!("/v1.0/employeeExperience/engagementAsyncOperations/{id}"));
    assert_eq!(asked.operation.as_ref(), Some(&id));
    assert_eq!(asked.identity.as_deref(), Some("contoso/app-1"));
    assert_eq!(asked.token_digest.as_ref().map(String::len), Some(12));
    let host = scene.sandbox.address().to_string();
    assert_eq!(
        asked.headers,
        BTreeMap::from(
            [
                ("accept", "*/*"),
                ("host", host.as_str()),
                ("prefer", "include-unknown-enum-members"),
                ("user-agent", "engagement-bridge/0.1.0"),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
        )
    );
    assert_eq!((asked.status, asked.throttled), (Some(200), false));
    let last = record.last().unwrap();
    assert_eq!((record.len(), last.status, last.throttled), (12, Some(429), true));

    let everything = scene.get("/sandbox/record").send().await.unwrap().text().await.unwrap();
    assert!(everything.contains("contoso/app-1"));
    assert!(!everything.contains(token) && !everything.contains("s3cret"));
    assert!(!format!("{:?}", scene.sandbox.shared.world()).contains(token));
}

#[tokio::test]
async fn it_names_itself_as_it_was_asked() {
    let scene = Scene::new().await;
    let token = scene.token("alice");
    let request = scene.create_community(&token, "All hands").header("host", "sandbox:8080");
    let answer = request.send().await.unwrap();
    assert!(header(&answer, "location").starts_with("http://sandbox:8080/v1.0/"));
    let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 80));
    assert_eq!(dialled(any), SocketAddr::from((Ipv6Addr::LOCALHOST, 80)));
}

#[tokio::test]
async fn after_stop_nobody_answers_and_open_requests_are_cut() {
    let scene = Scene::new().await;
    let token = scene.token("alice");
    let id = scene.create(json!([{"delayMs": 60_000, "status": "running"}])).id;
    let url = format!("{}/sandbox/record", scene.sandbox.root());
    let waiting = scene.poll(&id, &token).send();
    let Scene { sandbox, http, .. } = scene;
    let stop = async {
        while sandbox.record().is_empty() {
            tokio::task::yield_now().await;
        }
        sandbox.stop().await;
    };
    let both = async { tokio::join!(waiting, stop) };
    let (cut, ()) = tokio::time::timeout(Duration::from_secs(10), both).await.unwrap();
    assert!(cut.unwrap_err().is_request());
    assert!(http.get(url).send().await.unwrap_err().is_connect());
}

#[tokio::test]
async fn a_speed_out_of_range_is_refused_at_the_start() {
    for speed in [0.5, 0.0, -1.0, f64::NAN, f64::INFINITY, 1e7] {
        let clock = Arc::new(crate::clock::SystemClock);
        let refusal = Sandbox::start(Options { speed, ..Options::default() }, clock).await;
        let kind = refusal.err().map(|error| error.kind());
        assert_eq!(kind, Some(io::ErrorKind::InvalidInput), "{speed}");
    }
}
