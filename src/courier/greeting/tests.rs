use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use percent_encoding::percent_decode_str;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufStream};
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::super::egress::{Egress, Ports, RefusalCode, Rules};
use super::super::stand_in::{SetClock, ToldNames};
use super::*;
use crate::courier::Phase;
use crate::tests::log::Log;
use crate::tests::peer::{Peer as Receiver, Then, Told};

/// Long enough for a busy machine where no time-out is expected.
const PATIENT: Duration = GREETING_DEADLINE;

/// Short where one is, and yet long enough for headers to arrive.
const IMPATIENT: Duration = Duration::from_secs(1);

const PLAIN: &str = "content-type: text/plain\r\n";

fn cloud_events() -> Form {
    Form::CloudEvents("Bridge.example.com".parse().unwrap())
}

/// A greeter to whom loopback is open, and a guard that knows these names.
fn desk(form: Form, within: Duration) -> (HttpGreeter, Arc<Egress>, Arc<ToldNames>) {
    let clock = Arc::new(SetClock::at(Timestamp::constant(1_800_000_000, 0)));
    let allowed_networks = vec!["127.0.0.0/8".parse().unwrap()];
    let rules = Rules { allow_http: true, ports: Ports::Any, allowed_networks, ..Rules::default() };
    let names = Arc::new(ToldNames::default());
    let egress = Arc::new(Egress::new(rules, Arc::clone(&names) as _, clock));
    let tls = crate::tls::client_config(None).unwrap();
    let guard = Arc::clone(&egress);
    let greeter = HttpGreeter::with_deadlines(form, guard, &tls, None, within / 2, within);
    (greeter, egress, names)
}

async fn greeted(form: Form, within: Duration, url: &str) -> Result<Consent, Declined> {
    let (greeter, egress, _) = desk(form, within);
    greeter.greet(&egress.check_url(url).unwrap()).await
}

/// The token of a request, as whoever decodes it once finds it.
fn token_in(head: &str) -> String {
    let line = head.lines().next().unwrap();
    let (_, rest) = line.split_once("validationToken=").expect("a token");
    let encoded = rest.split([' ', '&']).next().unwrap();
    percent_decode_str(encoded).decode_utf8().unwrap().into_owned()
}

/// How a receiver makes an answer of a token.
type Echo = fn(&str) -> String;

/// Answers each request by `echo`; what came is in the second.
async fn echoing(echo: Echo) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let root = format!("http://{}", listener.local_addr().unwrap());
    let arrived = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&arrived);
    let serving = async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = BufStream::new(stream);
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                if stream.read_line(&mut head).await.unwrap() == 0 {
                    return;
                }
            }
            kept.lock().unwrap().push(head.clone());
            stream.write_all(echo(&token_in(&head)).as_bytes()).await.unwrap();
            stream.flush().await.unwrap();
            drop(stream.shutdown().await);
        }
    };
    drop(TaskTracker::new().spawn(serving));
    (root, arrived)
}

fn with_body(status: u16, headers: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status} X\r\n{headers}content-length: {length}\r\n\r\n{body}")
}

#[tokio::test]
async fn a_receiver_that_sends_the_token_back_agrees() {
    let echoes: [Echo; 3] = [
        |token| with_body(200, PLAIN, token),
        |token| with_body(200, "Content-Type: Text/Plain; charset=utf-8\r\n", token),
        |token| {
            let (one, other) = token.split_at(7);
            format!(
                "HTTP/1.1 200 OK\r\n{PLAIN}transfer-encoding: chunked\r\n\r\n\
                 7\r\n{one}\r\n{:x}\r\n{other}\r\n0\r\n\r\n",
                other.len()
            )
        },
    ];
    for echo in echoes {
        let (root, _) = echoing(echo).await;
        let greeted = greeted(Form::Graph, PATIENT, &format!("{root}/hooks")).await;
        assert_eq!(greeted, Ok(Consent { rate: None }));
    }
}

#[tokio::test]
async fn the_question_is_a_post_with_another_token_each_time_and_nothing_else() {
    let (root, arrived) = echoing(|token| with_body(200, PLAIN, token)).await;
    let (greeter, egress, _) = desk(Form::Graph, PATIENT);
    for (path, before) in [
        ("/hooks", "/hooks?"),
        ("/hooks?", "/hooks?"),
        ("", "/?"),
        ("?a=b", "/?a=b&"),
        ("/hooks?key=a%2Bb&c", "/hooks?key=a%2Bb&c&"),
    ] {
        let url = egress.check_url(&format!("{root}{path}")).unwrap();
        greeter.greet(&url).await.unwrap();
        let head = arrived.lock().unwrap().last().unwrap().clone();
        let line = format!("POST {before}validationToken=");
        assert!(head.starts_with(&line), "{path}: {head}");
    }
    let arrived = arrived.lock().unwrap();
    let tokens: std::collections::BTreeSet<_> = arrived.iter().map(|head| token_in(head)).collect();
    assert_eq!(tokens.len(), arrived.len());
    for (head, token) in arrived.iter().zip(&tokens) {
        assert!(token.contains(": ") && token.len() > 40, "guessed, or echoed as it is: {token}");
        assert!(!head.lines().next().unwrap().contains('+'), "{head}");
    }
    let mut lines: Vec<&str> = arrived[0].trim_end().split("\r\n").skip(1).collect();
    lines.sort_unstable();
    let (host, version) = (root.trim_start_matches("http://"), env!("CARGO_PKG_VERSION"));
    assert_eq!(
        lines,
        [
            "accept: text/plain",
            "content-length: 0",
            "content-type: text/plain; charset=utf-8",
            &format!("host: {host}"),
            &format!("user-agent: engagement-bridge/{version}"),
        ]
    );
}

/// A refusal, and what is said of what came.
#[track_caller]
fn assert_refused(greeted: &Result<Consent, Declined>, came: &str) {
    let Err(declined) = greeted else { panic!("it agreed") };
    assert_eq!((declined.cause, declined.code()), (Cause::Answer, "handshakeRefused"));
    assert!(declined.detail.contains(&format!("; it answered {came}. Expected")), "{declined:?}");
    assert!(!declined.is_of_origin());
}

#[tokio::test]
async fn whoever_does_not_send_the_token_back_as_it_is_does_not_agree() {
    let altered = "200, but with something else than the token";
    let not_plain = "200, but not as `text/plain`";
    let echoes: [(Echo, &str); 16] = [
        (|token| with_body(201, PLAIN, token), "201"),
        (|token| with_body(202, PLAIN, token), "202"),
        (|_| with_body(204, "", ""), "204"),
        (|token| with_body(400, PLAIN, token), "400"),
        (|token| with_body(404, PLAIN, token), "404"),
        (|token| with_body(500, PLAIN, token), "500"),
        (|token| with_body(302, "location: http://127.0.0.1:9/\r\n", token), "302"),
        (|token| with_body(200, "", token), not_plain),
        (|token| with_body(200, "content-type: text/html\r\n", token), not_plain),
        (|token| with_body(200, "content-type: text/plainer\r\n", token), not_plain),
        (|_| with_body(200, PLAIN, ""), altered),
        (|token| with_body(200, PLAIN, &token[1..]), altered),
        (|token| with_body(200, PLAIN, &format!("{token}\n")), altered),
        (|token| with_body(200, PLAIN, &token.to_uppercase()), altered),
        (|token| with_body(200, PLAIN, &format!("\"{token}\"")), altered),
        (|token| with_body(200, PLAIN, &token.replace(' ', "%20")), altered),
    ];
    for (echo, came) in echoes {
        let (root, arrived) = echoing(echo).await;
        let greeted = greeted(Form::Graph, PATIENT, &format!("{root}/hooks")).await;
        assert_refused(&greeted, came);
        assert_eq!(arrived.lock().unwrap().len(), 1, "asked once");
        // What was sent and what is expected, and nothing that came but the status.
        let detail = greeted.unwrap_err().detail;
        assert!(detail.contains("a POST with `?validationToken=…`"), "{detail}");
        assert!(detail.contains("200, as `text/plain`, with the token"), "{detail}");
        assert!(!detail.contains("asks:"), "{detail}");
    }
}

#[tokio::test]
async fn a_body_without_end_is_not_read_on() {
    let told =
        Told::new(format!("HTTP/1.1 200 OK\r\n{PLAIN}\r\n"), Then::Flood("0123456789abcdef"));
    let receiver = Receiver::start(told).await;
    let greeted = greeted(Form::Graph, PATIENT, &receiver.url("/hooks")).await;
    assert_refused(&greeted, "200, but with something else than the token");
    // What the kernel buffers on both sides.
    assert!(receiver.flooded() < 32 * 1_024 * 1_024);
}

/// No answer came, for this reason.
#[track_caller]
fn assert_unanswered(greeted: &Result<Consent, Declined>, failure: Failure) {
    let Err(declined) = greeted else { panic!("it agreed") };
    assert_eq!(declined.cause, Cause::NoAnswer(failure), "{declined:?}");
    let came = format!("; no answer came: {} (", failure.as_str());
    assert!(declined.detail.contains(&came), "{declined:?}");
    assert!(declined.is_of_origin());
}

#[tokio::test]
async fn whoever_does_not_answer_in_time_does_not_agree() {
    let begun = format!("HTTP/1.1 200 OK\r\n{PLAIN}content-length: 99\r\n\r\nbegun");
    let drips = format!("HTTP/1.1 200 OK\r\n{PLAIN}transfer-encoding: chunked\r\n\r\n");
    for form in [Form::Graph, cloud_events()] {
        for told in [Told::new("", Then::Stall), Told::new("HTTP/1.1 200 OK\r\n", Then::Stall)] {
            let receiver = Receiver::start(told).await;
            let asked_at = Instant::now();
            let greeted = greeted(form.clone(), IMPATIENT, &receiver.url("/hooks")).await;
            assert_unanswered(&greeted, Failure::TimedOut(Phase::Waiting));
            assert!((IMPATIENT..PATIENT).contains(&asked_at.elapsed()));
        }
    }
    for told in [Told::new(begun, Then::Stall), Told::new(drips, Then::Drip("1\r\nx\r\n"))] {
        let receiver = Receiver::start(told).await;
        let greeted = greeted(Form::Graph, IMPATIENT, &receiver.url("/hooks")).await;
        assert!(greeted.is_err());
    }
}

#[tokio::test]
async fn whoever_breaks_off_or_speaks_no_http_does_not_agree() {
    let begun = format!("HTTP/1.1 200 OK\r\n{PLAIN}content-length: 99\r\n\r\nbegun");
    for (told, failure) in [
        (Told::new("", Then::Close), Failure::ClosedEarly),
        (Told::new(begun, Then::Close), Failure::ClosedEarly),
        (Told::new("SSH-2.0-OpenSSH_9.9\r\n", Then::Stall), Failure::AnswerMalformed),
        (Told::new("HTTP/1.1 200 OK\r\nx: ", Then::Flood("0123456789")), Failure::AnswerTooLarge),
        (Told::new("", Then::Flood("HTTP/1.1 100 Continue\r\n\r\n")), Failure::AnswerTooLarge),
    ] {
        let receiver = Receiver::start(told).await;
        let greeted = greeted(Form::Graph, PATIENT, &receiver.url("/hooks")).await;
        assert_unanswered(&greeted, failure);
        assert_eq!(greeted.unwrap_err().code(), "handshakeFailed");
        assert_eq!(receiver.arrived().len(), 1, "asked once");
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hooks", listener.local_addr().unwrap());
    drop(listener);
    assert_unanswered(&greeted(Form::Graph, PATIENT, &url).await, Failure::ConnectRefused);
}

#[tokio::test]
async fn a_name_that_leads_inside_by_now_is_not_dialled() {
    let receiver = Receiver::start(Told::new("", Then::Stall)).await;
    for form in [Form::Graph, cloud_events()] {
        let (greeter, egress, names) = desk(form, PATIENT);
        let url = format!("http://rebinding.example:{}/hooks", receiver.port);
        let url = egress.check_url(&url).unwrap();
        names.tell("rebinding.example", &["8.8.8.8"]);
        egress.check_host(&url).await.unwrap();
        names.tell("rebinding.example", &["127.0.0.1", "10.0.0.7"]);
        let answer = greeter.greet(&url).await;
        assert_unanswered(&answer, Failure::Refused(RefusalCode::AddressRefused));
        assert_eq!(answer.unwrap_err().code(), "addressRefused");
    }
    assert_eq!(receiver.connections(), 0);
}

async fn asked_by_options(status: u16, headers: &str) -> Result<Consent, Declined> {
    let told = Told::new(with_body(status, headers, "whatever"), Then::Listen);
    let receiver = Receiver::start(told).await;
    let greeted = greeted(cloud_events(), PATIENT, &receiver.url("/hooks?key=1")).await;

    let arrived = receiver.arrived();
    let [question] = arrived.as_slice() else { panic!("{arrived:?}") };
    assert!(question.head.starts_with("OPTIONS /hooks?key=1 HTTP/1.1\r\n"), "{}", question.head);
    assert_eq!(question.header("webhook-request-origin"), "bridge.example.com");
    assert_eq!(question.header("webhook-request-rate"), "6000");
    assert!(question.body.is_empty());
    greeted
}

#[tokio::test]
async fn a_receiver_that_allows_us_names_its_rate() {
    let rate = |number| Some(Rate::per_minute(std::num::NonZeroU32::new(number).unwrap()));
    for (status, origin, allowed, expected) in [
        (200, "*", "*", None),
        (204, "bridge.example.com", "120", rate(120)),
        (200, "BRIDGE.example.com", " 1 ", rate(1)),
        (299, "*", "0060", rate(60)),
        (200, "*", "4294967295", rate(u32::MAX)),
        (200, "*", "99999999999999999999999", rate(u32::MAX)),
    ] {
        let headers =
            format!("WebHook-Allowed-Origin: {origin}\r\nWEBHOOK-ALLOWED-RATE: {allowed}\r\n");
        let headers = format!("{headers}allow: POST\r\n");
        assert_eq!(asked_by_options(status, &headers).await, Ok(Consent { rate: expected }));
    }
}

#[tokio::test]
async fn whoever_answers_options_for_other_reasons_does_not_agree() {
    let allowed = "webhook-allowed-origin: *\r\nwebhook-allowed-rate: *\r\n";
    for status in [301, 400, 404, 405, 500] {
        assert_refused(&asked_by_options(status, allowed).await, &status.to_string());
    }
    let no_origin = "200, but without a `WebHook-Allowed-Origin`";
    let other_origin = "200, but its `WebHook-Allowed-Origin` is another";
    let no_rate = "200, but without a `WebHook-Allowed-Rate`";
    let odd_rate = "200, but its `WebHook-Allowed-Rate` is none";
    for (origins, rates, came) in [
        (&[][..], &["*"][..], no_origin),
        (&["*", "*"], &["*"], no_origin),
        (&[""], &["*"], other_origin),
        (&["other.example.com"], &["*"], other_origin),
        (&["https://bridge.example.com"], &["*"], other_origin),
        (&["example.com"], &["*"], other_origin),
        (&["*.example.com"], &["*"], other_origin),
        (&["bridge.example.com, *"], &["*"], other_origin),
        (&["*"], &[], no_rate),
        (&["*"], &["1", "2"], no_rate),
        (&["*"], &[""], odd_rate),
        (&["*"], &["0"], odd_rate),
        (&["*"], &["-1"], odd_rate),
        (&["*"], &["+1"], odd_rate),
        (&["*"], &["1.5"], odd_rate),
        (&["*"], &["many"], odd_rate),
        (&["*"], &["1 per second"], odd_rate),
    ] {
        let mut headers = String::from("access-control-allow-origin: *\r\n");
        for (name, values) in [("webhook-allowed-origin", origins), ("webhook-allowed-rate", rates)]
        {
            for value in values {
                headers.push_str(&[name, ": ", value, "\r\n"].concat());
            }
        }
        let greeted = asked_by_options(200, &headers).await;
        assert_refused(&greeted, came);
        let detail = greeted.unwrap_err().detail;
        assert!(detail.contains("`WebHook-Request-Origin: bridge.example.com`"), "{detail}");
        assert!(!detail.contains("whatever"), "{detail}");
    }
}

#[tokio::test]
async fn each_question_goes_over_a_connection_of_its_own() {
    let headers = "webhook-allowed-origin: *\r\nwebhook-allowed-rate: *\r\n";
    let receiver = Receiver::start(Told::new(with_body(200, headers, ""), Then::Listen)).await;
    let (greeter, egress, _) = desk(cloud_events(), PATIENT);
    let url = egress.check_url(&receiver.url("/hooks")).unwrap();
    for _ in 0..2 {
        greeter.greet(&url).await.unwrap();
    }
    assert_eq!(receiver.connections(), 2);
}

#[tokio::test]
async fn neither_log_nor_detail_tells_the_path_the_query_or_the_token() {
    let log = Log::collect();
    let hidden = "/in-the-path?key=in-the-query";
    let (root, _) = echoing(|token| with_body(200, PLAIN, token)).await;
    assert!(greeted(Form::Graph, PATIENT, &format!("{root}{hidden}")).await.is_ok());
    let mut details = String::new();
    for told in [Told::new(with_body(404, "", "no"), Then::Listen), Told::new("", Then::Close)] {
        let receiver = Receiver::start(told).await;
        let greeted = greeted(Form::Graph, PATIENT, &receiver.url(hidden)).await;
        details += &greeted.unwrap_err().detail;
    }
    let log = log.text();
    assert_eq!(log.matches("host=\"127.0.0.1\"").count(), 3, "\n{log}");
    for hidden in ["in-the-path", "in-the-query", "asks:", "asks%3A"] {
        assert!(!log.contains(hidden), "{hidden} is in\n{log}");
        assert!(!details.contains(hidden), "{hidden} is in\n{details}");
    }
}

#[test]
fn our_name_is_a_dns_name() {
    let origin = |text: &str| text.parse::<RequestOrigin>().map(|it| it.to_string());
    assert_eq!(origin(" Bridge.Example.com "), Ok("bridge.example.com".to_owned()));
    let too_long = "a.".repeat(127) + "example";
    for odd in ["", "*", "https://bridge.example.com", "a b", "a..b", "ü.example", &too_long] {
        assert_eq!(origin(odd), Err(InvalidOrigin), "{odd:?}");
    }
    assert_eq!(cloud_events().to_string(), "cloudEvents as bridge.example.com");
    assert_eq!(Form::Graph.to_string(), "graph");
}
