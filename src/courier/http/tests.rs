mod answers;
mod bounds;
mod failures;
mod hostile;
mod proxied;
mod request;
mod secure;
mod stale;

use std::future::pending;

use jiff::Timestamp;

use super::super::egress::{Ports, RefusalCode, Rules};
use super::super::letter::FixedHeaders;
use super::super::signing::Signers;
use super::super::stand_in::{SetClock, ToldNames};
use super::classify::LONGEST_DETAIL;
use super::*;
use crate::callback::CallbackId;
use crate::names::LookupError;
use crate::operation::OperationId;
use crate::tests::peer::{Peer as Receiver, Then, Told};

const NOON: Timestamp = Timestamp::constant(1_800_000_000, 0);
const FIRST_SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
const SECOND_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const ID: &str = "msg_00000000000000000000000000000007_1";

/// Not as any library of ours would write it.
const BODY: &str = "{ \"type\" : \"x\",\t\"n\":1.0E+2, \"u\":\"\\u00e9é\u{2028}\\/\" }\r\n";

/// Long enough for a busy machine where no time-out is expected.
const PATIENT: Duration = HARD_DEADLINE;

/// Short where one is, and yet long enough for headers to arrive.
const IMPATIENT: Duration = Duration::from_secs(1);

struct Desk {
    courier: HttpCourier,
    names: Arc<ToldNames>,
    clock: Arc<SetClock>,
}

/// A courier that may go to `allowed` networks, besides the open internet, and gives up `within`.
fn desk_with(allowed: &[&str], within: Duration, root_pem: Option<&str>) -> Desk {
    let names = Arc::new(ToldNames::default());
    let clock = Arc::new(SetClock::at(NOON));
    let allowed = allowed.iter().map(|network| network.parse().unwrap()).collect();
    let rules = Rules { allowed_networks: allowed, ..any_port() };
    let egress = Egress::new(rules, Arc::clone(&names) as _, Arc::clone(&clock) as _);
    let courier = courier(egress, Arc::clone(&clock) as _, within, root_pem);
    Desk { courier, names, clock }
}

/// Receivers of tests listen where there is room.
fn any_port() -> Rules {
    Rules { allow_http: true, ports: Ports::Any, ..Rules::default() }
}

fn courier(
    egress: Egress,
    clock: Arc<dyn Clock>,
    within: Duration,
    root_pem: Option<&str>,
) -> HttpCourier {
    let tls = crate::tls::client_config(root_pem.map(str::as_bytes)).unwrap();
    let connect_within = CONNECT_WITHIN.min(within / 2);
    HttpCourier::with_deadlines(Arc::new(egress), &tls, None, clock, connect_within, within)
}

fn desk(within: Duration) -> Desk {
    desk_with(&["127.0.0.0/8"], within, None)
}

fn parcel(url: &str) -> Parcel {
    Parcel {
        id: CallbackId { operation: OperationId(7), number: 1 },
        url: url.to_owned(),
        headers: FixedHeaders::from("content-type: application/json\n".to_owned()),
        body: Bytes::from_static(BODY.as_bytes()),
        extra_headers: Vec::new(),
        signers: Signers::only(FIRST_SECRET.parse().unwrap()),
    }
}

impl Desk {
    async fn deliver(&self, url: &str) -> Receipt {
        self.courier.deliver(parcel(url)).await
    }
}

/// An answer with a body, complete.
fn answer(status: u16, headers: &str, body: &str) -> Told {
    let length = body.len();
    let text = format!("HTTP/1.1 {status} X\r\n{headers}content-length: {length}\r\n\r\n{body}");
    Told::new(text, Then::Listen)
}

/// What one attempt with a receiver that answers so comes to.
async fn delivered(within: Duration, told: Told) -> Receipt {
    let receiver = Receiver::start(told).await;
    desk(within).deliver(&receiver.url("/hooks")).await
}
