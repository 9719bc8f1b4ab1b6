//! Names, by the resolver that the product uses, from a name server that means no good.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use engagement_bridge::callback::{CallbackId, Reply};
use engagement_bridge::clock::SystemClock;
use engagement_bridge::courier::egress::Rules;
use engagement_bridge::courier::{
    Courier as _, Egress, FixedHeaders, HttpCourier, Parcel, Receipt, Signers,
};
use engagement_bridge::names::SystemNames;
use engagement_bridge::operation::OperationId;
use engagement_bridge::tls::client_config;
use hickory_resolver::proto::op::ResponseCode;
use serde_json::json;
use tokio::net::TcpListener;

use super::name_server::Said::{Code, Nothing, Records};
use super::name_server::{NameServer, Said};
use super::rules;
use crate::process::until;
use crate::support::SECRET;
use crate::world::{Receiver, World};

/// What lets a receiver of a test be called, if its address is allowed.
const LENIENT: &str = "--allow-http-callbacks --allow-callback-port any";

/// A public address that nobody here listens on, and that no test sends anything to.
const PUBLIC: Said = Records(&["203.0.114.7"]);

/// The guard and the courier behind it, as `serve` puts them together.
struct Bridge {
    egress: Arc<Egress>,
    courier: HttpCourier,
}

impl Bridge {
    fn asking(server: &NameServer, rules: Rules) -> Self {
        let names = Arc::new(SystemNames::asking(server.address));
        let egress = Arc::new(Egress::new(rules, names, Arc::new(SystemClock)));
        let tls = client_config(None).unwrap();
        let courier = HttpCourier::new(Arc::clone(&egress), &tls, None, Arc::new(SystemClock));
        Self { egress, courier }
    }

    /// The code that a registration is refused with.
    async fn registers(&self, url: &str) -> &'static str {
        match self.egress.check(url).await {
            Ok(_) => "allowed",
            Err(refusal) => refusal.code().as_str(),
        }
    }

    async fn attempt(&self, url: &str) -> Receipt {
        let parcel = Parcel {
            id: CallbackId { operation: OperationId(7), number: 1 },
            url: url.to_owned(),
            headers: FixedHeaders::default(),
            body: Bytes::from_static(b"{}"),
            extra_headers: Vec::new(),
            signers: Signers::only(SECRET.parse().unwrap()),
        };
        self.courier.deliver(parcel).await
    }
}

/// A listener that nobody should ever connect to.
struct Inside(TcpListener);

impl Inside {
    async fn listen() -> Self {
        Self::listen_at("127.0.0.1:0").await
    }

    async fn listen_at(address: &str) -> Self {
        Self(TcpListener::bind(address).await.unwrap())
    }

    fn url(&self, host: &str) -> String {
        format!("http://{host}:{}/hooks", self.0.local_addr().unwrap().port())
    }

    /// A connection that was made is in the queue of the listener, whoever made it.
    async fn was_left_alone(&self) {
        let accepted = tokio::time::timeout(Duration::from_millis(100), self.0.accept()).await;
        assert!(accepted.is_err(), "something was dialled inside");
    }
}

/// What a name leads to, and what becomes of a registration and of an attempt.
const HOSTILE: &[(&str, &[Said], &str)] = &[
    ("loopback", &[Records(&["127.0.0.1"])], "addressRefused"),
    ("loopback by IPv6", &[Records(&["::1"])], "addressRefused"),
    ("metadata", &[Records(&["169.254.169.254"])], "addressRefused"),
    ("metadata of AWS by IPv6", &[Records(&["fd00:ec2::254"])], "addressRefused"),
    ("loopback, mapped", &[Records(&["::ffff:127.0.0.1"])], "addressRefused"),
    ("metadata, mapped", &[Records(&["::ffff:169.254.169.254"])], "addressRefused"),
    ("private, by NAT64", &[Records(&["64:ff9b::10.0.0.1"])], "addressRefused"),
    ("private, by 6to4", &[Records(&["2002:a00:1::"])], "addressRefused"),
    ("nobody", &[Records(&["0.0.0.0"])], "addressRefused"),
    ("good, then bad", &[Records(&["203.0.114.7", "127.0.0.1"])], "addressRefused"),
    ("bad, then good", &[Records(&["127.0.0.1", "203.0.114.7"])], "addressRefused"),
    ("good by IPv4, bad by IPv6", &[Records(&["203.0.114.7", "::1"])], "addressRefused"),
    ("good by IPv6, bad by IPv4", &[Records(&["2a01::7", "127.0.0.1"])], "addressRefused"),
    (
        "good by IPv4, mapped by IPv6",
        &[Records(&["203.0.114.7", "::ffff:10.0.0.1"])],
        "addressRefused",
    ),
    ("an alias of loopback", &[Records(&["= inside.example"])], "addressRefused"),
    ("an alias of an alias of loopback", &[Records(&["= alias.example"])], "addressRefused"),
    (
        "an alias with an address of its own",
        &[Records(&["203.0.114.7", "= inside.example"])],
        "addressRefused",
    ),
    // Which the resolver knows by itself.
    ("an alias of localhost", &[Records(&["= localhost"])], "addressRefused"),
    ("no such name", &[Code(ResponseCode::NXDomain)], "hostNotFound"),
    ("a name without an address", &[Records(&[])], "hostNotFound"),
];

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_name_leads_to_inside_is_neither_registered_nor_dialled() {
    let (server, inside) = (NameServer::start().await, Inside::listen().await);
    server.tell("inside.example", [Records(&["127.0.0.1"])]);
    server.tell("alias.example", [Records(&["= inside.example"])]);
    let bridge = Bridge::asking(&server, rules(LENIENT));
    for (place, (name, said, expected)) in HOSTILE.iter().enumerate() {
        let host = format!("case-{place}.example");
        server.tell(&host, *said);
        let url = inside.url(&host);
        assert_eq!(bridge.registers(&url).await, *expected, "{name}");
        let receipt = bridge.attempt(&url).await;
        let failure = receipt.failure.unwrap().as_str();
        let at_attempt = if *expected == "hostNotFound" { "nameNotResolved" } else { expected };
        assert_eq!(failure, at_attempt, "{name}: {receipt:?}");
        let is_refused = receipt.reply == Reply::AddressRefused;
        assert_eq!(is_refused, *expected == "addressRefused", "{name}");
    }
    inside.was_left_alone().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_address_behind_hundreds_of_good_ones_is_found() {
    let (server, inside) = (NameServer::start().await, Inside::listen().await);
    let mut many: Vec<String> = (0..200).map(|n| format!("203.0.114.{n}")).collect();
    many.push("127.0.0.1".to_owned());
    let many: Vec<&'static str> = many.into_iter().map(|it| &*it.leak()).collect();
    server.tell("many.example", [Records(many.leak())]);
    let bridge = Bridge::asking(&server, rules(LENIENT));
    let url = inside.url("many.example");
    assert_eq!(bridge.registers(&url).await, "addressRefused");
    assert_eq!(bridge.attempt(&url).await.failure.unwrap().as_str(), "addressRefused");
    inside.was_left_alone().await;
    // By UDP, truncated, and again by TCP, for the only kind of address that it has.
    assert!(server.asked_for("many.example") >= 4 + 2, "{}", server.asked_for("many.example"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_rebound_between_two_attempts_is_refused_by_the_second() {
    let server = NameServer::start().await;
    let rules = rules(&format!("{LENIENT} --allow-callback-cidr 127.0.0.1"));
    let bridge = Bridge::asking(&server, rules);
    // What is allowed first has nobody at that port.
    let inside = Inside::listen_at("127.0.0.2:0").await;
    let url = inside.url("rebound.example");
    server.tell("rebound.example", [Records(&["127.0.0.1"]), Records(&["127.0.0.2"])]);
    let first = bridge.attempt(&url).await;
    assert_eq!(first.failure.unwrap().as_str(), "connectRefused", "{first:?}");
    assert_eq!(server.asked_for("rebound.example"), 2);
    let second = bridge.attempt(&url).await;
    assert_eq!(second.failure.unwrap().as_str(), "addressRefused", "{second:?}");
    assert_eq!(server.asked_for("rebound.example"), 4);
    inside.was_left_alone().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_asks_once_and_dials_what_that_answer_said() {
    let server = NameServer::start().await;
    let rules = rules(&format!("{LENIENT} --allow-callback-cidr 127.0.0.1"));
    let bridge = Bridge::asking(&server, rules);
    let receiver = Receiver::start().await;
    receiver.expect_secret(SECRET.parse().unwrap());
    let url = receiver.url().replace("127.0.0.1", "twice.example");
    // Whoever asks a second time, between judging and dialling, is sent inside.
    server.tell("twice.example", [Records(&["127.0.0.1"]), Records(&["127.0.0.2"])]);
    let port = url.rsplit(':').next().unwrap().split('/').next().unwrap();
    let inside = Inside::listen_at(&format!("127.0.0.2:{port}")).await;
    let receipt = bridge.attempt(&url).await;
    assert_eq!(receipt.reply, Reply::Accepted, "{receipt:?}");
    assert_eq!(server.asked_for("twice.example"), 2, "an A and an AAAA");
    assert!(receiver.next().await.header("host").starts_with("twice.example:"));
    inside.was_left_alone().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_server_in_trouble_refuses_no_registration_and_lets_no_attempt_pass() {
    let (server, inside) = (NameServer::start().await, Inside::listen().await);
    let bridge = Bridge::asking(&server, rules(LENIENT));
    server.tell("failing.example", [Code(ResponseCode::ServFail)]);
    server.tell("silent.example", [Nothing]);
    for (host, failure) in
        [("failing.example", "nameNotResolved"), ("silent.example", "timedOutResolving")]
    {
        let url = inside.url(host);
        assert_eq!(bridge.registers(&url).await, "allowed", "{host}");
        let receipt = bridge.attempt(&url).await;
        assert_eq!(receipt.failure.unwrap().as_str(), failure, "{host}: {receipt:?}");
        assert_eq!(receipt.reply, Reply::Unwell { retry_after: None });
    }
    inside.was_left_alone().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callback_to_a_name_that_is_rebound_after_its_registration_ends_as_undeliverable() {
    let server = NameServer::start().await;
    let names = Arc::new(SystemNames::asking(server.address));
    let flags: Vec<_> = LENIENT.split(' ').chain(["--callback-schedule", "0s,10ms"]).collect();
    let world = World::begin_asking(names, &flags).await;
    server.tell("rebound.example", [PUBLIC, Records(&["127.0.0.1"])]);
    let url = world.receiver.url().replace("127.0.0.1", "rebound.example");
    let operation = world.start(&json!([{ "status": "succeeded" }]));
    let id = world.shop.register(&json!({ "operation": operation, "callbackUrl": url })).await;
    let state = async || world.shop.operation(&id).await["callbacks"][0]["state"].clone();
    until(async || state().await == "undeliverable").await;

    let seen = world.shop.operation(&id).await;
    let callback = &seen["callbacks"][0];
    assert_eq!(callback["reason"], "addressRefused");
    let [attempt] = callback["attempts"].as_array().unwrap().as_slice() else { panic!("{seen}") };
    assert_eq!(attempt["failure"], "addressRefused");
    let detail = attempt["detail"].as_str().unwrap();
    assert!(detail.contains("loopback") && !detail.contains("127.0.0.1"), "{detail}");
    world.receiver.has_nothing_more().await;

    // It is looked up anew when it is registered again, once the verdict is no longer remembered.
    server.tell("mixed.example", [Records(&["203.0.114.7", "10.0.0.7"])]);
    let registration = json!({ "operation": "eyJf", "callbackUrl": "http://mixed.example/" });
    let refused = world.shop.post("/v1/operations", &registration).await;
    assert_eq!(refused.status, 422, "{refused:?}");
    let error = &refused.body["errors"][0];
    assert_eq!(
        (error["field"].as_str(), error["code"].as_str()),
        (Some("callbackUrl"), Some("addressRefused"))
    );
    assert!(!refused.body.to_string().contains("10.0.0.7"), "{refused:?}");
    world.stop().await;
}
