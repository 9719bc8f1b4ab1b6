//! Through a proxy of the operator's.

use tokio::net::TcpListener;

use super::super::super::exit::Proxy as Operators;
use super::*;
use crate::tests::proxy::{Asked, Proxy, Says, Spoken};
use crate::tests::secure::{Identity, identity};

const HOST: &str = "receiver.example";

/// Nobody dials it: the proxy of a test connects to the receiver of the test instead.
const ADDRESS: &str = "203.0.114.7";

/// A courier behind `proxy`, to which nothing is open but the open internet.
fn desk_behind(proxy: &str, root_pem: Option<&str>, leaves_names: bool) -> Desk {
    let names = Arc::new(ToldNames::default());
    names.tell(HOST, &[ADDRESS]);
    names.tell("proxy.example", &["127.0.0.1"]);
    let clock = Arc::new(SetClock::at(NOON));
    let rules = Rules { allow_http: true, ports: Ports::usual(true), ..Rules::default() };
    let egress = if leaves_names {
        Egress::without_names(rules, Arc::clone(&clock) as _)
    } else {
        Egress::new(rules, Arc::clone(&names) as _, Arc::clone(&clock) as _)
    };
    let proxy = Operators::parse(proxy).unwrap();
    let way = ProxyWay { proxy, names: Arc::clone(&names) as _ };
    let tls = crate::tls::client_config(root_pem.map(str::as_bytes)).unwrap();
    let (egress, time) = (Arc::new(egress), Arc::clone(&clock) as _);
    let (connect_within, within) = (IMPATIENT / 2, PATIENT);
    let courier =
        HttpCourier::with_deadlines(egress, &tls, Some(way), time, connect_within, within);
    Desk { courier, names, clock }
}

/// Believed for the proxy and for the receiver.
fn both() -> [Identity; 2] {
    [identity("proxy.example", 4_000, "http/1.1"), identity(HOST, 4_000, "http/1.1")]
}

fn asked(target: &str) -> Asked {
    Asked { target: target.to_owned(), credentials: None }
}

#[tokio::test]
async fn the_proxy_is_told_the_address_that_was_judged_and_the_receiver_its_name() {
    let [of_proxy, of_receiver] = both();
    let roots = of_proxy.pem.clone() + &of_receiver.pem;
    for (spoken, scheme) in [
        (Spoken::Http, "http"),
        (Spoken::Https(of_proxy.acceptor.clone()), "https"),
        (Spoken::Socks5, "socks5"),
    ] {
        for (url, port) in [("https://receiver.example/", 443), ("http://receiver.example/", 80)] {
            let receiver = match port {
                443 => Receiver::start_tls(of_receiver.acceptor.clone(), answer(204, "", "")).await,
                _ => Receiver::start(answer(204, "", "")).await,
            };
            let proxy = Proxy::start(spoken.clone(), receiver.port, &[Says::Yes]).await;
            let at = format!("{scheme}://proxy.example:{}", proxy.port);
            let receipt = desk_behind(&at, Some(&roots), false).deliver(url).await;
            assert_eq!(receipt.reply, Reply::Accepted, "{scheme} {url}: {:?}", receipt.detail);
            assert_eq!(proxy.asked(), [asked(&format!("{ADDRESS}:{port}"))], "{scheme} {url}");
            let [request] = receiver.arrived().try_into().unwrap();
            assert_eq!(request.header("host"), HOST);
            assert!(request.head.starts_with("POST / HTTP/1.1\r\n"), "{}", request.head);
        }
    }
}

#[tokio::test]
async fn an_address_of_ipv6_is_told_in_the_form_of_the_proxy() {
    for (spoken, scheme) in [(Spoken::Http, "http"), (Spoken::Socks5, "socks5")] {
        let receiver = Receiver::start(answer(204, "", "")).await;
        let proxy = Proxy::start(spoken, receiver.port, &[Says::Yes]).await;
        let desk = desk_behind(&format!("{scheme}://127.0.0.1:{}", proxy.port), None, false);
        desk.names.tell("six.example", &["2a01::7"]);
        for host in ["six.example", "[2a01::7]"] {
            let receipt = desk.deliver(&format!("http://{host}:8080/")).await;
            assert_eq!(receipt.reply, Reply::Accepted, "{:?}", receipt.detail);
        }
        assert_eq!(proxy.asked(), [asked("[2a01::7]:8080"), asked("[2a01::7]:8080")]);
    }
}

#[tokio::test]
async fn an_address_that_the_proxy_cannot_reach_is_followed_by_the_next() {
    let receiver = Receiver::start(answer(204, "", "")).await;
    let says = [Says::No(502), Says::Goodbye, Says::Yes];
    let proxy = Proxy::start(Spoken::Http, receiver.port, &says).await;
    let desk = desk_behind(&format!("http://127.0.0.1:{}", proxy.port), None, false);
    desk.names.tell("three.example", &["2a01::7", ADDRESS, "203.0.114.8"]);
    let receipt = desk.deliver("http://three.example/").await;
    assert_eq!(receipt.reply, Reply::Accepted, "{:?}", receipt.detail);
    let targets = ["[2a01::7]:80", "203.0.114.7:80", "203.0.114.8:80"];
    assert_eq!(proxy.asked(), targets.map(asked));
}

#[tokio::test]
async fn what_leads_inside_is_refused_before_the_proxy_hears_of_it() {
    let proxy = Proxy::start(Spoken::Http, 9, &[Says::Yes]).await;
    let desk = desk_behind(&format!("http://127.0.0.1:{}", proxy.port), None, false);
    desk.names.tell("inside.example", &["10.0.0.7"]);
    desk.names.tell("mixed.example", &[ADDRESS, "169.254.169.254"]);
    let at_proxy = "proxy.example";
    for host in ["inside.example", "mixed.example", "127.0.0.1", "[::ffff:a00:7]", at_proxy] {
        let receipt = desk.deliver(&format!("http://{host}/")).await;
        let refused = Some(Failure::Refused(RefusalCode::AddressRefused));
        assert_eq!(receipt.failure, refused, "{host}: {:?}", receipt.detail);
    }
    assert_eq!(proxy.asked(), []);
}

#[tokio::test]
async fn names_that_are_left_to_the_proxy_are_told_to_it_and_looked_up_by_nobody_else() {
    for (spoken, scheme) in [(Spoken::Http, "http"), (Spoken::Socks5, "socks5")] {
        let receiver = Receiver::start(answer(204, "", "")).await;
        let proxy = Proxy::start(spoken, receiver.port, &[Says::Yes]).await;
        let desk = desk_behind(&format!("{scheme}://127.0.0.1:{}", proxy.port), None, true);
        let receipt = desk.deliver("http://anything.example/").await;
        assert_eq!(receipt.reply, Reply::Accepted, "{:?}", receipt.detail);
        for refused in ["http://127.0.0.1/", "http://anything.example:22/", "http://metadata/"] {
            assert_eq!(desk.deliver(refused).await.reply, Reply::AddressRefused, "{refused}");
        }
        assert_eq!(proxy.asked(), [asked("anything.example:80")]);
        assert_eq!(desk.names.asked(), 0);
    }
}

#[tokio::test]
async fn the_proxy_is_opened_by_the_credentials_in_its_url() {
    // Of `bridge` and `p@ss:w%rd`, by RFC 7617.
    let basic = "Basic YnJpZGdlOnBAc3M6dyVyZA==";
    for (spoken, scheme, expected) in
        [(Spoken::Http, "http", basic), (Spoken::Socks5, "socks5", "bridge:p@ss:w%rd")]
    {
        let receiver = Receiver::start(answer(204, "", "")).await;
        let proxy = Proxy::start(spoken, receiver.port, &[Says::Yes]).await;
        let at = format!("{scheme}://bridge:p%40ss%3Aw%25rd@127.0.0.1:{}", proxy.port);
        let receipt = desk_behind(&at, None, false).deliver("http://receiver.example/").await;
        assert_eq!(receipt.reply, Reply::Accepted, "{:?}", receipt.detail);
        assert_eq!(proxy.asked()[0].credentials.as_deref(), Some(expected));
        // The receiver hears nothing of it.
        assert!(!receiver.arrived()[0].head.to_lowercase().contains("authorization"));
    }
}

#[tokio::test]
async fn a_proxy_that_fails_is_told_from_a_receiver_that_does() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody = format!("http://127.0.0.1:{}", closed.local_addr().unwrap().port());
    drop(closed);
    let mut proxies = vec![
        (nobody, Failure::ProxyFailed),
        ("http://absent.example".to_owned(), Failure::ProxyFailed),
    ];
    let mut kept = Vec::new();
    for (says, failure) in [
        (Says::No(407), Failure::ProxyFailed),
        (Says::No(403), Failure::ProxyFailed),
        (Says::Goodbye, Failure::ProxyFailed),
        (Says::Nothing, Failure::TimedOut(Phase::Connecting)),
    ] {
        let proxy = Proxy::start(Spoken::Http, 9, &[says]).await;
        proxies.push((format!("http://bridge:s3cret@127.0.0.1:{}", proxy.port), failure));
        kept.push(proxy);
    }
    // Nobody here believes its certificate.
    let [of_proxy, _] = both();
    let stranger = Proxy::start(Spoken::Https(of_proxy.acceptor), 9, &[Says::Yes]).await;
    proxies.push((format!("https://proxy.example:{}", stranger.port), Failure::ProxyFailed));
    let socks = Proxy::start(Spoken::Socks5, 9, &[Says::No(2)]).await;
    proxies.push((format!("socks5://127.0.0.1:{}", socks.port), Failure::ProxyFailed));
    for (at, failure) in proxies {
        let receipt = desk_behind(&at, None, false).deliver("http://receiver.example/").await;
        assert_eq!(receipt.failure, Some(failure), "{at}: {:?}", receipt.detail);
        assert_eq!(receipt.reply, Reply::Unwell { retry_after: None });
        let detail = receipt.detail.unwrap();
        for hidden in ["s3cret", "bridge:", "127.0.0.1"] {
            assert!(!detail.contains(hidden), "{hidden} is in {detail}");
        }
    }
}
