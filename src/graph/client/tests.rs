mod hostile;
mod secure;

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use axum::body::{Body, Bytes};
use axum::response::{IntoResponse, Response};
use futures_util::future::join_all;
use futures_util::{StreamExt, stream};
use http::StatusCode;
use jiff::Timestamp;
use tokio::net::TcpListener;

use super::super::stand_in::{Arrived, SetClock, StandIn, connection};
use super::super::{ManagedIdentity, SHORTEST_SERVICE};
use super::*;
use crate::operation::OperationId;
use crate::tests::log::Log;

const RUNNING: &str = r#"{"id":"a-b_c","status":"running"}"#;
const SUCCEEDED: &str = include_str!("../../../tests/data/graph/succeeded.v1.json");
const STILL_RUNNING: Event = Event::Polled(Answer::StillRunning { retry_after: None });
const TROUBLE: Event = Event::Polled(Answer::Trouble { retry_after: None });
const HOUR: Duration = Duration::from_hours(1);
const CALLER: &str = "contoso";
const REFUSALS: [(StatusCode, Refusal); 2] = [
    (StatusCode::UNAUTHORIZED, Refusal::Unauthorized),
    (StatusCode::FORBIDDEN, Refusal::Forbidden),
];

/// Long enough for a busy machine where no time-out is expected.
const PATIENT: Deadlines = Deadlines::DEFAULT;

/// Short where one is, and yet long enough for headers to arrive.
const IMPATIENT: Deadlines = Deadlines {
    connect: Duration::from_secs(1),
    token: Duration::from_secs(1),
    exchange: Duration::from_secs(1),
};

fn graph_at(root: &str, deadlines: Deadlines, clock: &Arc<SetClock>) -> HttpGraph {
    graph_between(root, root, deadlines, clock, None)
}

/// Where the tokens come from elsewhere, and more may be believed than the usual roots.
fn graph_between(
    root: &str,
    login: &str,
    deadlines: Deadlines,
    clock: &Arc<SetClock>,
    root_pem: Option<&str>,
) -> HttpGraph {
    let settings = Settings {
        root: GraphRoot::parse(root).unwrap(),
        login: LoginRoot::parse(login).unwrap(),
        api: None,
        machine: MachineIdentity::instance_metadata(root).unwrap(),
        tls: crate::tls::client_config(root_pem.map(str::as_bytes)).unwrap(),
        resolver: None,
        deadlines,
        shortest_service: SHORTEST_SERVICE,
    };
    HttpGraph::new(settings, Arc::clone(clock) as Arc<dyn Clock>).unwrap()
}

fn graph(server: &StandIn) -> HttpGraph {
    graph_at(&server.root, PATIENT, &Arc::default())
}

fn inquiry(credential: Credential) -> Inquiry {
    let reference = Reference { version: ApiVersion::V1, id: "a-b_c".to_owned() };
    let over_by = Timestamp::UNIX_EPOCH + HOUR;
    Inquiry { operation: OperationId(7), caller: CALLER.to_owned(), reference, credential, over_by }
}

fn by_token() -> Inquiry {
    let expires_at = Timestamp::UNIX_EPOCH + HOUR;
    inquiry(Credential::Token(AccessToken { secret: "handed-in".into(), expires_at }))
}

fn by_connection() -> Inquiry {
    inquiry(Credential::Connection(Arc::new(connection("hunter2"))))
}

fn json(body: &'static str) -> Response {
    ([("content-type", "application/json")], body).into_response()
}

fn grant(token: &str) -> Response {
    let body = format!(r#"{{"token_type":"Bearer","expires_in":3599,"access_token":"{token}"}}"#);
    body.into_response()
}

/// A body that begins and does not go on.
fn stuck(status: StatusCode) -> Response {
    let first = stream::iter([Ok::<_, Infallible>(Bytes::from_static(b"{"))]);
    (status, Body::from_stream(first.chain(stream::pending()))).into_response()
}

/// A server that grants tokens, and answers polls with `answer`.
async fn granting(
    answer: impl Fn(&Arrived) -> Response + Clone + Send + Sync + 'static,
) -> StandIn {
    StandIn::start(
        move |request| {
            if request.wants_a_token() { grant("granted") } else { answer(request) }
        },
    )
    .await
}

#[tokio::test]
async fn a_poll_says_who_asks_and_what_it_understands() {
    let server = StandIn::start(|_| json(RUNNING)).await;
    let graph = graph(&server);
    assert_eq!(graph.poll(by_token()).await.event, STILL_RUNNING);
    assert_eq!(graph.poll(by_token()).await.event, STILL_RUNNING);

    let polls = server.polls();
    let [first, second] = polls.as_slice() else { panic!("{polls:?}") };
    assert_eq!(first.method, "GET");
    assert_eq!(first.path, "/v1.0/employeeExperience/engagementAsyncOperations/a-b_c");
    assert_eq!(first.header("authorization"), Some("Bearer handed-in"));
    assert_eq!(first.header("accept"), Some("application/json"));
    assert_eq!(first.header("prefer"), Some("include-unknown-enum-members"));
    assert_eq!(first.header("accept-encoding"), None);
    assert_eq!(first.header("sdkversion"), None);
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(first.header("user-agent"), Some(format!("engagement-bridge/{version}").as_str()));

    let id = |request: &Arrived| Uuid::parse_str(request.header("client-request-id").unwrap());
    let (first, second) = (id(first).unwrap(), id(second).unwrap());
    assert_eq!(first.get_version_num(), 4);
    assert_ne!(first, second);
}

#[tokio::test]
async fn the_operation_comes_back_byte_for_byte() {
    let server = StandIn::start(|_| json(SUCCEEDED)).await;
    let poll = graph(&server).poll(by_token()).await;
    assert_eq!(poll.event, Event::Polled(Answer::Finished(Verdict::Succeeded)));
    assert_eq!(poll.body.as_deref(), Some(SUCCEEDED.as_bytes()));
}

#[tokio::test]
async fn what_is_no_operation_leaves_no_body() {
    for (status, body) in [(200, "<html>"), (404, SUCCEEDED), (503, SUCCEEDED)] {
        let status = StatusCode::from_u16(status).unwrap();
        let server = StandIn::start(move |_| (status, body).into_response()).await;
        assert_eq!(graph(&server).poll(by_token()).await.body, None, "{status}");
    }
}

#[tokio::test]
async fn retry_after_is_passed_on() {
    let throttled = (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "2.128")]);
    let server = StandIn::start(move |_| throttled.into_response()).await;
    let retry_after = Some(Duration::from_millis(2_128));
    let event = graph(&server).poll(by_token()).await.event;
    assert_eq!(event, Event::Polled(Answer::Throttled { retry_after }));
}

#[tokio::test]
async fn a_body_may_be_as_large_as_the_limit_and_no_larger() {
    for (length, event) in [(BODY_LIMIT, STILL_RUNNING), (BODY_LIMIT + 1, TROUBLE)] {
        let body = RUNNING.to_owned() + &" ".repeat(length - RUNNING.len());
        let server = StandIn::start(move |_| body.clone().into_response()).await;
        assert_eq!(graph(&server).poll(by_token()).await.event, event, "{length}");
    }
}

#[tokio::test]
async fn the_status_counts_even_where_the_body_does_not_arrive() {
    let server = StandIn::start(|_| stuck(StatusCode::GONE)).await;
    let graph = graph_at(&server.root, IMPATIENT, &Arc::default());
    assert_eq!(graph.poll(by_token()).await.event, Event::Polled(Answer::Gone));
}

#[tokio::test]
async fn a_server_that_is_not_there_is_trouble() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let root = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let graph = graph_at(&root, PATIENT, &Arc::default());
    assert_eq!(graph.poll(by_token()).await.event, TROUBLE);
    let event = graph.poll(by_connection()).await.event;
    let retry_after = Some(Duration::from_secs(5));
    assert_eq!(event, Event::Unpolled(Hindrance::Trouble { retry_after }));
}

#[tokio::test]
async fn connections_are_kept_until_a_503_comes_over_one() {
    let busy = Arc::new(AtomicBool::new(false));
    let is_busy = Arc::clone(&busy);
    let server = StandIn::start(move |_| {
        if is_busy.load(Ordering::SeqCst) {
            return StatusCode::SERVICE_UNAVAILABLE.into_response();
        }
        json(RUNNING)
    })
    .await;
    let graph = graph(&server);
    for _ in 0..3 {
        graph.poll(by_token()).await;
    }
    assert_eq!(server.connections(), 1);

    busy.store(true, Ordering::SeqCst);
    // Stopped for this one step alone: whenever nothing else is to do, a stopped time jumps on.
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(1)).await;
    tokio::time::resume();
    graph.poll(by_token()).await;
    assert_eq!(server.connections(), 1);
    for _ in 0..3 {
        graph.poll(by_token()).await;
    }
    // One for the first 503, and none for the others of the same second.
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn an_expired_token_is_not_sent() {
    let server = StandIn::start(|_| json(RUNNING)).await;
    let clock = Arc::new(SetClock::default());
    let graph = graph_at(&server.root, PATIENT, &clock);
    clock.advance(HOUR.saturating_sub(MARGIN + Duration::from_millis(1)));
    assert_eq!(graph.poll(by_token()).await.event, STILL_RUNNING);
    clock.advance(Duration::from_millis(1));
    let expired = Event::Unpolled(Hindrance::Refused(Refusal::TokenExpired));
    assert_eq!(graph.poll(by_token()).await.event, expired);
    assert_eq!(server.polls().len(), 1);
}

#[tokio::test]
async fn a_token_that_no_header_can_hold_is_not_sent() {
    let server = StandIn::start(|_| json(RUNNING)).await;
    let secret = "a\r\nx-injected: b".into();
    let expires_at = Timestamp::UNIX_EPOCH + HOUR;
    let inquiry = inquiry(Credential::Token(AccessToken { secret, expires_at }));
    let refused = Event::Unpolled(Hindrance::Refused(Refusal::Unauthorized));
    assert_eq!(graph(&server).poll(inquiry).await.event, refused);
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn only_a_token_of_our_own_can_be_renewed() {
    for (status, refusal) in REFUSALS {
        let server = granting(move |_| status.into_response()).await;
        let graph = graph(&server);
        for (inquiry, renewal) in
            [(by_token(), Renewal::Impossible), (by_connection(), Renewal::Possible)]
        {
            let refused = Event::Polled(Answer::CredentialRefused { refusal, renewal });
            assert_eq!(graph.poll(inquiry).await.event, refused);
        }
    }
}

#[tokio::test]
async fn a_connection_proves_itself_by_its_secret_and_the_token_goes_to_graph() {
    let server = granting(|_| json(RUNNING)).await;
    assert_eq!(graph(&server).poll(by_connection()).await.event, STILL_RUNNING);

    let requests = server.token_requests();
    let [request] = requests.as_slice() else { panic!("{requests:?}") };
    assert_eq!(request.method, "POST");
    assert_eq!(request.path, "/contoso.onmicrosoft.com/oauth2/v2.0/token");
    assert_eq!(request.header("content-type"), Some("application/x-www-form-urlencoded"));
    let form: Vec<(String, String)> =
        url::form_urlencoded::parse(request.body.as_bytes()).into_owned().collect();
    let scope = format!("{}/.default", server.root);
    let expected = [
        ("client_id", "6731de76-14a6-49ae-97bc-6eba6914391e"),
        ("scope", &scope),
        ("grant_type", "client_credentials"),
        ("client_secret", "hunter2"),
    ];
    assert_eq!(form, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    assert_eq!(server.polls()[0].header("authorization"), Some("Bearer granted"));
}

#[tokio::test]
async fn no_poll_leaves_once_its_time_is_over() {
    let server = granting(|_| json(RUNNING)).await;
    let clock = Arc::<SetClock>::default();
    let graph = graph_at(&server.root, PATIENT, &clock);
    clock.advance(HOUR / 2);
    assert_eq!(graph.poll(by_connection()).await.event, STILL_RUNNING);
    clock.advance(HOUR / 2);
    let late = Event::Unpolled(Hindrance::Trouble { retry_after: None });
    assert_eq!(graph.poll(by_connection()).await.event, late);
    assert_eq!(server.polls().len(), 1);
}

#[tokio::test]
async fn a_poll_under_way_is_cut_off_when_its_time_is_over() {
    let server = StandIn::silent().await;
    let graph = graph(&server);
    let over_by = Timestamp::UNIX_EPOCH + Duration::from_millis(50);
    let inquiry = Inquiry { over_by, ..by_token() };
    let poll = tokio::time::timeout(PATIENT.exchange / 2, graph.poll(inquiry));
    let poll = poll.await.expect("cut off by then");
    assert_eq!(poll.event, TROUBLE);
    assert_eq!(server.polls().len(), 1);
}

#[tokio::test]
async fn fifty_polls_at_once_share_one_token() {
    let server = granting(|_| json(RUNNING)).await;
    let graph = graph(&server);
    let polls = join_all((0..50).map(|_| graph.poll(by_connection()))).await;
    assert!(polls.iter().all(|poll| poll.event == STILL_RUNNING));
    assert_eq!(server.polls().len(), 50);
    assert_eq!(server.token_requests().len(), 1);
}

#[tokio::test]
async fn a_refused_token_makes_way_for_another() {
    for (status, refusal) in REFUSALS {
        let granted = Arc::new(AtomicU32::new(0));
        let server = StandIn::start(move |request| {
            if request.wants_a_token() {
                return grant(&format!("token-{}", granted.fetch_add(1, Ordering::SeqCst)));
            }
            match request.header("authorization") {
                Some("Bearer token-0") => status.into_response(),
                _ => json(RUNNING),
            }
        })
        .await;
        let clock = Arc::new(SetClock::default());
        let graph = graph_at(&server.root, PATIENT, &clock);
        let refused = Answer::CredentialRefused { refusal, renewal: Renewal::Possible };
        assert_eq!(graph.poll(by_connection()).await.event, Event::Polled(refused));
        clock.advance(Duration::from_secs(31));
        assert_eq!(graph.poll(by_connection()).await.event, STILL_RUNNING);
        assert_eq!(graph.poll(by_connection()).await.event, STILL_RUNNING);
        assert_eq!(server.token_requests().len(), 2);
    }
}

#[tokio::test]
async fn a_token_endpoint_in_trouble_is_left_alone_for_a_while() {
    let busy = (StatusCode::SERVICE_UNAVAILABLE, [("retry-after", "120")]);
    let server = StandIn::start(move |_| busy.into_response()).await;
    let clock = Arc::new(SetClock::default());
    let graph = graph_at(&server.root, PATIENT, &clock);
    for rest in [120, 80, 40] {
        let retry_after = Some(Duration::from_secs(rest));
        let event = graph.poll(by_connection()).await.event;
        assert_eq!(event, Event::Unpolled(Hindrance::Trouble { retry_after }));
        clock.advance(Duration::from_secs(40));
    }
    assert_eq!(server.token_requests().len(), 1);
    graph.poll(by_connection()).await;
    assert_eq!(server.token_requests().len(), 2);
    assert_eq!(server.polls().len(), 0);
}

#[tokio::test]
async fn a_token_endpoint_that_refuses_is_told_from_one_in_trouble() {
    let refusing = StandIn::start(|_| {
        let body = r#"{"error":"invalid_client","error_codes":[7000215]}"#;
        (StatusCode::UNAUTHORIZED, body).into_response()
    })
    .await;
    let redirecting = StandIn::start(|_| {
        (StatusCode::FOUND, [("location", "/elsewhere/oauth2/v2.0/token")]).into_response()
    })
    .await;
    let silent = StandIn::silent().await;
    let trouble = Hindrance::Trouble { retry_after: Some(Duration::from_secs(5)) };
    for (server, hindrance, deadlines) in [
        (&refusing, Hindrance::Refused(Refusal::ClientRefused), PATIENT),
        (&redirecting, trouble, PATIENT),
        (&silent, trouble, IMPATIENT),
    ] {
        let graph = graph_at(&server.root, deadlines, &Arc::default());
        let poll = graph.poll(by_connection()).await;
        assert_eq!(poll.event, Event::Unpolled(hindrance));
        assert_eq!(server.token_requests().len(), 1);
        assert_eq!(server.polls().len(), 0);
    }
}

#[tokio::test]
async fn the_log_names_requests_and_holds_no_secret() {
    let log = Log::collect();

    let server = granting(|_| {
        let headers = [("request-id", "graph-7"), ("x-ms-ags-diagnostic", r#"{"Ring":"5"}"#)];
        (headers, r#"{"id":"another","status":"failed"}"#).into_response()
    })
    .await;
    let clock = Arc::new(SetClock::default());
    let graph = graph_at(&server.root, PATIENT, &clock);
    graph.poll(by_token()).await;
    graph.poll(by_connection()).await;
    clock.advance(HOUR);
    graph.poll(by_token()).await;
    let refusing = StandIn::start(|_| {
        let body = r#"{"error":"invalid_client","error_codes":[7000215],"trace_id":"entra-7",
            "error_description":"hunter2 is wrong"}"#;
        (StatusCode::UNAUTHORIZED, body).into_response()
    })
    .await;
    graph_at(&refusing.root, PATIENT, &clock).poll(by_connection()).await;

    let log = log.text();
    for named in [
        "operation.id=op_00000000000000000000000000000007",
        r#"request_id="graph-7""#,
        r#"diagnostic="{\"Ring\":\"5\"}""#,
        r#"other_id="another""#,
        "aadsts=[7000215]",
        r#"trace_id="entra-7""#,
        "client_request_id=",
        "took_ms=",
    ] {
        assert!(log.contains(named), "{named} is not in\n{log}");
    }
    for secret in ["hunter2", "handed-in", "granted"] {
        assert!(!log.contains(secret), "{secret} is in\n{log}");
    }
    let token = AccessToken { secret: "handed-in".into(), expires_at: Timestamp::MAX };
    assert!(!format!("{:?} {token:?}", bearer(&token)).contains("handed-in"));
}

#[test]
fn the_deadline_that_a_lease_must_outlast_covers_both_exchanges() {
    assert_eq!(HARD_DEADLINE, Duration::from_secs(35));
}

/// What a test of a connection finds where Graph answers `status`.
async fn examined(status: StatusCode, body: &'static str) -> (Examination, StandIn) {
    let server = StandIn::start(move |request| {
        if request.wants_a_token() {
            return grant("granted");
        }
        (status, [("request-id", "of-graph")], body).into_response()
    })
    .await;
    let examined = graph(&server).examine(&connection("hunter2"), CALLER).await.unwrap();
    (examined, server)
}

#[tokio::test]
async fn a_test_of_a_connection_asks_graph_once_and_tells_the_token_from_the_permission() {
    let denied = r#"{"error":{"code":"Forbidden","message":"prose"}}"#;
    for (status, body, finding) in [
        (StatusCode::NOT_FOUND, "", Finding::Works),
        (StatusCode::FORBIDDEN, denied, Finding::PermissionMissing),
        (StatusCode::UNAUTHORIZED, denied, Finding::TokenRefused),
        (StatusCode::BAD_GATEWAY, "<html>", Finding::Trouble),
    ] {
        let (examination, server) = examined(status, body).await;
        assert_eq!(examination.finding, finding, "{status}");
        let said = examination.graph.unwrap();
        assert_eq!((said.status, said.request_id.as_deref()), (status.as_u16(), Some("of-graph")));
        assert_eq!(said.code.as_deref(), (body == denied).then_some("Forbidden"));
        assert_eq!((server.polls().len(), server.token_requests().len()), (1, 1));
        assert_eq!(server.polls()[0].header("authorization"), Some("Bearer granted"));
    }
}

#[tokio::test]
async fn the_token_of_a_test_is_there_for_the_polls_that_follow() {
    let server = granting(|_| json(RUNNING)).await;
    let graph = graph(&server);
    graph.examine(&connection("hunter2"), CALLER).await.unwrap();
    assert_eq!(graph.poll(by_connection()).await.event, STILL_RUNNING);
    assert_eq!(server.token_requests().len(), 1);
}

#[tokio::test]
async fn an_identity_is_tested_twice_in_half_a_minute_and_no_more() {
    let server = granting(|_| json(RUNNING)).await;
    let clock = Arc::new(SetClock::default());
    let graph = graph_at(&server.root, PATIENT, &clock);
    for _ in 0..2 {
        graph.examine(&connection("hunter2"), CALLER).await.unwrap();
    }
    // Another secret is no other identity.
    let wait = graph.examine(&connection("hunter3"), CALLER).await.unwrap_err().wait;
    assert_eq!(wait, Duration::from_secs(30));
    clock.advance(wait);
    graph.examine(&connection("hunter3"), CALLER).await.unwrap();
    assert_eq!(server.polls().len(), 3);
}

/// And however many new proofs there are, Graph is asked as often as with one.
#[tokio::test]
async fn tests_with_proofs_that_are_none_keep_only_who_makes_them_from_testing() {
    let server = StandIn::start(|request| {
        if !request.wants_a_token() {
            return json(RUNNING);
        }
        if request.body.contains("hunter") {
            return grant("granted");
        }
        (StatusCode::UNAUTHORIZED, r#"{"error":"invalid_client"}"#).into_response()
    })
    .await;
    let graph = graph_at(&server.root, PATIENT, &Arc::default());
    for _ in 0..2 {
        graph.examine(&connection("none"), "mallory").await.unwrap();
    }
    graph.examine(&connection("none"), "mallory").await.unwrap_err();
    assert_eq!(
        graph.examine(&connection("hunter2"), CALLER).await.unwrap().finding,
        Finding::Works
    );
    // Each of these is new as well, and taken.
    graph.examine(&connection("hunter3"), "fabrikam").await.unwrap();
    graph.examine(&connection("hunter4"), "litware").await.unwrap_err();
    assert_eq!(server.polls().len(), 2);
}

#[tokio::test]
async fn a_managed_identity_is_asked_for_where_the_machine_has_it_and_refusals_are_trouble() {
    let of_the_machine =
        |identity| Connection { proof: Proof::ManagedIdentity(identity), ..connection("unused") };
    let server = StandIn::start(|request| {
        if request.path.starts_with("/metadata") {
            assert_eq!(request.header("metadata"), Some("true"));
            if request.path.contains("client_id") {
                let body =
                    r#"{"error":"invalid_request","error_description":"Identity not found"}"#;
                return (StatusCode::BAD_REQUEST, body).into_response();
            }
            return grant("of-the-machine");
        }
        json(RUNNING)
    })
    .await;
    let graph = graph(&server);
    let own = Credential::Connection(of_the_machine(ManagedIdentity::SystemAssigned).into());
    assert_eq!(graph.poll(inquiry(own)).await.event, STILL_RUNNING);
    let assigned = Credential::Connection(of_the_machine(ManagedIdentity::UserAssigned).into());
    let event = graph.poll(inquiry(assigned)).await.event;
    assert!(matches!(event, Event::Unpolled(Hindrance::Trouble { .. })), "{event:?}");
    let asked = server.arrived();
    let resource: String = url::form_urlencoded::byte_serialize(server.root.as_bytes()).collect();
    let expected =
        format!("/metadata/identity/oauth2/token?api-version=2018-02-01&resource={resource}");
    assert_eq!(asked[0].path, expected);
    assert_eq!(asked[2].path, format!("{expected}&client_id=6731de76-14a6-49ae-97bc-6eba6914391e"));
}
