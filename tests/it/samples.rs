//! Microsoft's own sample bodies (see `tests/data/graph/README.md`), from registration to callback.

use axum::Router;
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::world::World;

const CREATED: &str = include_str!("../data/graph/create-202.http");
const THROTTLED: &str = include_str!("../data/graph/throttled.429.json");
const SAMPLES: [(&str, &str); 2] = [
    ("v1.0", include_str!("../data/graph/succeeded.v1.json")),
    ("beta", include_str!("../data/graph/succeeded.beta.json")),
];

/// The value of a header in Microsoft's sample of a 202.
fn header_of_202(name: &str) -> &'static str {
    let line = CREATED.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_once(": ").unwrap().1
}

fn id_of(sample: &str) -> String {
    serde_json::from_str::<Value>(sample).unwrap()["id"].as_str().unwrap().to_owned()
}

/// In the sample, it is not the id of the sample operation.
fn id_of_202() -> &'static str {
    header_of_202("Operation-Location").rsplit('\'').nth(1).unwrap()
}

/// A Graph that answers each sample at the address of its own `id`, and nothing else.
async fn microsoft() -> (String, JoinSet<std::io::Result<()>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let root = format!("http://{}", listener.local_addr().unwrap());
    let mut serving = JoinSet::new();
    let router = Router::new().fallback(answer);
    serving.spawn(axum::serve(listener, router).into_future());
    (root, serving)
}

async fn answer(method: Method, uri: Uri) -> Response {
    assert_eq!(method, Method::GET);
    assert_eq!(uri.query(), None);
    let found = SAMPLES.iter().find(|(version, body)| {
        let collection = format!("/{version}/employeeExperience/engagementAsyncOperations/");
        let asked = uri.path().strip_prefix(&collection);
        asked == Some(&id_of(body)) || (*version == "v1.0" && asked == Some(id_of_202()))
    });
    match found {
        Some((_, body)) => ([(header::CONTENT_TYPE, "application/json")], *body).into_response(),
        None => (StatusCode::NOT_FOUND, format!("nothing at {uri}")).into_response(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_graph_answers_comes_out_byte_for_byte() {
    let (root, _serving) = microsoft().await;
    let world = World::begin_with(&["--graph-root", &root]).await;
    let at_this_root = |location: &str| location.replace("https://graph.microsoft.com", &root);
    let mut registered = vec![
        (at_this_root(header_of_202("Operation-Location")), SAMPLES[0].1),
        // The same operation, as the other header names it, and from the root on.
        (header_of_202("Location").replace("https://graph.microsoft.com", ""), SAMPLES[0].1),
    ];
    for (version, body) in SAMPLES {
        let id = id_of(body);
        let collection = format!("/{version}/employeeExperience/engagementAsyncOperations");
        registered.push((format!("{collection}/{id}"), body));
        registered.push((format!("{root}{collection}('{id}')"), body));
    }
    for (number, (operation, sample)) in registered.into_iter().enumerate() {
        let token = world.token_of_alice();
        let mut registration = world.registration_with_token(&operation, &token);
        // Tells apart what would else be the same registration.
        registration["clientState"] = json!(number.to_string());
        world.shop.register(&registration).await;
        let told = world.receiver.next().await;
        assert_eq!(told.about(), "succeeded");
        assert_eq!(told.data(), sample.trim_end(), "{operation} was changed on the way");
        assert_eq!(told.json()["tracking"]["clientState"], number.to_string());
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sample_of_a_429_pauses_and_ends_nothing() {
    let world = World::begin().await;
    let throttled = json!({ "http": 429, "body": THROTTLED, "retryAfter": "1" });
    let told = world.tell(&json!([throttled, { "status": "succeeded" }])).await;
    assert_eq!(told.about(), "succeeded");
    let polls = world.polls();
    assert_eq!(polls.len(), 2);
    assert!(1_000 <= polls[1].at_ms - polls[0].at_ms);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_token_follows_a_redirect_or_a_location_in_a_body() {
    let world = World::begin().await;
    let elsewhere = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}/steal", elsewhere.local_addr().unwrap());
    let script = json!([
        { "http": 302, "headers": { "Location": address } },
        { "http": 307, "headers": { "Location": address } },
        { "http": 200, "body": json!({ "id": "x", "status": "running", "resourceLocation": address }).to_string() },
        { "status": "succeeded" },
    ]);
    let told = world.tell(&script).await;
    assert_eq!(told.about(), "succeeded");
    // Whatever had been sent there would be waiting to be accepted.
    let accepted = tokio::time::timeout(std::time::Duration::ZERO, elsewhere.accept()).await;
    assert!(accepted.is_err(), "somebody was followed elsewhere");
    world.end().await;
}
