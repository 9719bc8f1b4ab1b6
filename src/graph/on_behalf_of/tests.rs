use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::response::{IntoResponse as _, Response};
use http::StatusCode;

use super::super::client::{Deadlines, Settings};
use super::super::stand_in::{Arrived, SetClock, StandIn};
use super::super::{
    ApiVersion, Credential, Graph as _, GraphRoot, Inquiry, LoginRoot, MachineIdentity, Reference,
    SHORTEST_SERVICE,
};
use super::*;
use crate::clock::Clock;
use crate::operation::{Answer, Event, OperationId, Refusal};

const API: &str = "99999999-9999-4999-8999-999999999999";
const STILL_RUNNING: Event = Event::Polled(Answer::StillRunning { retry_after: None });
const HOUR: Duration = Duration::from_hours(1);

fn alice() -> User {
    User {
        tenant: "aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa".to_owned(),
        object_id: "alice".to_owned(),
    }
}

fn graph(server: &StandIn, clock: &Arc<SetClock>, is_set_up: bool) -> HttpGraph {
    let proof = Proof::Secret("of the api".into());
    let api = ApiIdentity { client_id: API.to_owned(), proof };
    let settings = Settings {
        root: GraphRoot::parse(&server.root).unwrap(),
        login: LoginRoot::parse(&server.root).unwrap(),
        api: is_set_up.then_some(api),
        machine: MachineIdentity::instance_metadata(&server.root).unwrap(),
        tls: crate::tls::client_config(None).unwrap(),
        resolver: None,
        deadlines: Deadlines::DEFAULT,
        shortest_service: SHORTEST_SERVICE,
    };
    HttpGraph::new(settings, Arc::clone(clock) as Arc<dyn Clock>).unwrap()
}

/// What is granted, with what comes next if anything does.
fn granted(access: &str, refresh: Option<&str>) -> Response {
    let mut body =
        serde_json::json!({"token_type": "Bearer", "expires_in": 3_600, "access_token": access});
    if let Some(refresh) = refresh {
        body["refresh_token"] = refresh.into();
    }
    axum::Json(body).into_response()
}

fn form(request: &Arrived) -> HashMap<String, String> {
    url::form_urlencoded::parse(request.body.as_bytes()).into_owned().collect()
}

/// Grants `access-N` and `refresh-N` to the `N`-th who asks, and says to polls that it runs.
async fn granting() -> StandIn {
    let asked = Arc::new(AtomicUsize::new(0));
    StandIn::start(move |request| {
        if request.wants_a_token() {
            let n = asked.fetch_add(1, Ordering::SeqCst);
            granted(&format!("access-{n}"), Some(&format!("refresh-{n}")))
        } else {
            r#"{"id":"a-b_c","status":"running"}"#.into_response()
        }
    })
    .await
}

fn inquiry(connection: &Connection, now: Timestamp) -> Inquiry {
    Inquiry {
        operation: OperationId(7),
        caller: "contoso".to_owned(),
        reference: Reference { version: ApiVersion::V1, id: "a-b_c".to_owned() },
        credential: Credential::Connection(connection.clone().into()),
        over_by: crate::operation::after(now, HOUR),
    }
}

async fn exchanged(graph: &HttpGraph) -> Result<Connection, NotExchanged> {
    graph.exchange(&alice(), &"her token".into()).await
}

/// What is said of an answer to the exchange.
async fn refused(answer: impl Fn() -> Response + Clone + Send + Sync + 'static) -> NotExchanged {
    let server = StandIn::start(move |_| answer()).await;
    exchanged(&graph(&server, &Arc::default(), true)).await.unwrap_err()
}

#[tokio::test]
async fn a_token_of_the_users_that_graph_refuses_makes_way_for_another() {
    let asked = Arc::new(AtomicUsize::new(0));
    let server = StandIn::start(move |request| {
        if request.wants_a_token() {
            let n = asked.fetch_add(1, Ordering::SeqCst);
            return granted(&format!("access-{n}"), Some("refresh"));
        }
        match request.header("authorization") {
            Some("Bearer access-0") => StatusCode::UNAUTHORIZED.into_response(),
            _ => r#"{"id":"a-b_c","status":"running"}"#.into_response(),
        }
    })
    .await;
    let clock = Arc::<SetClock>::default();
    let graph = graph(&server, &clock, true);
    let connection = exchanged(&graph).await.unwrap();
    let poll = graph.poll(inquiry(&connection, clock.now())).await;
    assert!(matches!(poll.event, Event::Polled(Answer::CredentialRefused { .. })), "{poll:?}");
    clock.advance(Duration::from_secs(31));
    let poll = graph.poll(inquiry(&connection, clock.now())).await;
    assert_eq!(poll.event, STILL_RUNNING);
    assert_eq!(server.token_requests().len(), 2);
}

#[tokio::test]
async fn what_came_of_an_exchange_serves_polls_at_once_and_is_renewed_by_what_came_with_it() {
    let (server, clock) = (granting().await, Arc::<SetClock>::default());
    let graph = graph(&server, &clock, true);
    let connection = exchanged(&graph).await.unwrap();
    assert_eq!((connection.user(), connection.client_id.as_str()), (Some("alice"), API));
    assert_eq!(User::of_connection(&connection.name), Some(alice()));

    let poll = graph.poll(inquiry(&connection, clock.now())).await;
    assert_eq!(poll.event, STILL_RUNNING);
    assert!(poll.renewed.is_none());
    assert_eq!(server.polls()[0].header("authorization"), Some("Bearer access-0"));
    let [exchange] = &server.token_requests()[..] else { panic!("one request for a token") };
    assert_eq!(exchange.path, format!("/{}/oauth2/v2.0/token", alice().tenant));
    let scope = format!("{}/Community.Read.All offline_access", server.root);
    for (name, value) in [
        ("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"),
        ("requested_token_use", "on_behalf_of"),
        ("assertion", "her token"),
        ("client_id", API),
        ("client_secret", "of the api"),
        ("scope", &scope),
    ] {
        assert_eq!(form(exchange).get(name).map(String::as_str), Some(value), "{name}");
    }

    clock.advance(HOUR);
    let poll = graph.poll(inquiry(&connection, clock.now())).await;
    assert_eq!(poll.event, STILL_RUNNING);
    let renewed = poll.renewed.unwrap();
    assert_eq!(secrecy::ExposeSecret::expose_secret(&renewed), "refresh-1");
    assert_eq!(server.polls()[1].header("authorization"), Some("Bearer access-1"));
    let renewal = form(&server.token_requests()[1]);
    assert_eq!(
        (&*renewal["grant_type"], &*renewal["refresh_token"]),
        ("refresh_token", "refresh-0")
    );
}

#[tokio::test]
async fn a_rotated_token_is_the_same_sign_in_and_a_new_sign_in_is_another() {
    let (server, clock) = (granting().await, Arc::<SetClock>::default());
    let graph = graph(&server, &clock, true);
    let first = exchanged(&graph).await.unwrap();
    let grant = first.proof.user_grant().unwrap().clone();
    let rotated = UserGrant { refresh_token: "rotated".into(), ..grant };
    let rotated = Connection { proof: Proof::OnBehalfOf(rotated), ..first };
    graph.poll(inquiry(&rotated, clock.now())).await;
    assert_eq!(server.token_requests().len(), 1, "the token of before is held for it as well");
    clock.advance(Duration::from_secs(1));
    let anew = exchanged(&graph).await.unwrap();
    graph.poll(inquiry(&anew, clock.now())).await;
    assert_eq!(server.token_requests().len(), 2);
    assert_eq!(server.polls()[1].header("authorization"), Some("Bearer access-1"));
}

#[tokio::test]
async fn each_refusal_says_who_must_act() {
    let error = |status: u16, error: &'static str, claims: Option<&'static str>| {
        move || {
            let body = serde_json::json!({"error": error, "claims": claims});
            let status = StatusCode::from_u16(status).unwrap();
            (status, axum::Json(body)).into_response()
        }
    };
    let asked = || Some(r#"{"access_token":{}}"#.to_owned());
    for (word, claims, expected) in [
        ("interaction_required", None, NotExchanged::Interaction { claims: None }),
        ("interaction_required", asked(), NotExchanged::Interaction { claims: asked() }),
        ("login_required", None, NotExchanged::Interaction { claims: None }),
        ("invalid_grant", asked(), NotExchanged::Interaction { claims: asked() }),
        ("invalid_grant", None, NotExchanged::Grant),
        ("consent_required", None, NotExchanged::Consent),
        ("invalid_client", None, NotExchanged::Client),
        ("unauthorized_client", None, NotExchanged::Client),
    ] {
        let claims = claims.map(|it| &*it.leak());
        assert_eq!(refused(error(400, word, claims)).await, expected, "{word}");
    }
    let trouble = NotExchanged::Trouble { retry_after: None };
    assert_eq!(refused(error(503, "temporarily_unavailable", None)).await, trouble);
    // Without a token to go on by, the operation would end with the first.
    assert_eq!(refused(|| granted("access", None)).await, NotExchanged::Consent);
}

#[tokio::test]
async fn nobody_is_acted_for_by_an_api_that_is_another_or_is_not_set_up() {
    let (server, clock) = (granting().await, Arc::<SetClock>::default());
    let not_set_up = graph(&server, &clock, false);
    assert_eq!(exchanged(&not_set_up).await.unwrap_err(), NotExchanged::NotSetUp);
    let connection = exchanged(&graph(&server, &clock, true)).await.unwrap();
    let another = Connection { client_id: "another".to_owned(), ..connection.clone() };
    for (graph, connection) in [(not_set_up, &connection), (graph(&server, &clock, true), &another)]
    {
        let poll = graph.poll(inquiry(connection, clock.now())).await;
        let refused = Hindrance::Refused(Refusal::ClientRefused);
        assert_eq!(poll.event, Event::Unpolled(refused));
    }
    assert_eq!((server.token_requests().len(), server.polls().len()), (1, 0));
}

#[tokio::test]
async fn exchanges_of_one_user_are_rationed_and_others_are_not_kept_from_theirs() {
    let (server, clock) = (granting().await, Arc::<SetClock>::default());
    let graph = graph(&server, &clock, true);
    let mut wait = None;
    for _ in 0..100 {
        if let Err(why) = exchanged(&graph).await {
            let NotExchanged::Trouble { retry_after } = why else { panic!("{why:?}") };
            wait = retry_after;
        }
    }
    assert_eq!(server.token_requests().len(), 10);
    let bob = User { object_id: "bob".to_owned(), ..alice() };
    assert!(graph.exchange(&bob, &"his token".into()).await.is_ok());
    clock.advance(wait.unwrap());
    assert!(exchanged(&graph).await.is_ok());
}
