//! As CloudEvents has it: HTTP 1.1 Web Hooks for Event Delivery 1.0.2, §4.
//!
//! `WebHook-Request-Callback`, by which a receiver may agree later, is not sent: a registration waits
//! for its answer.

use std::num::NonZeroU32;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request};
use http_body_util::Full;

use super::{Answer, Consent, RequestOrigin, Verdict};
use crate::courier::CallbackUrl;
use crate::lane::Rate;

/// Attempts a minute that we ask for; what is granted may be more or less.
const WISH: u32 = 6_000;

pub(super) const EXPECTS: &str = "2xx with `WebHook-Allowed-Origin` (that name, or `*`) and \
    `WebHook-Allowed-Rate` (requests a minute, from 1 on, or `*`)";

pub(super) fn asks(origin: &RequestOrigin) -> String {
    format!("OPTIONS with `WebHook-Request-Origin: {origin}` and `WebHook-Request-Rate: {WISH}`")
}

/// `None` where the name cannot stand in a header, which any name can.
pub(super) fn question(url: &CallbackUrl, origin: &RequestOrigin) -> Option<Request<Full<Bytes>>> {
    let mut request = Request::new(Full::new(Bytes::new()));
    *request.method_mut() = Method::OPTIONS;
    *request.uri_mut() = url.uri().clone();
    let headers = request.headers_mut();
    headers.insert("webhook-request-origin", HeaderValue::try_from(origin.as_str()).ok()?);
    headers.insert("webhook-request-rate", HeaderValue::from(WISH));
    Some(request)
}

/// The status alone says nothing: many answer OPTIONS with 2xx for other reasons.
pub(super) fn verdict(answer: &Answer, origin: &RequestOrigin) -> Verdict {
    let status = answer.status;
    if !status.is_success() {
        return Err(format!("it answered {}", status.as_u16()));
    }
    let came = |what: &str| Err(format!("it answered {}, {what}", status.as_u16()));
    match header(&answer.headers, "webhook-allowed-origin") {
        Some(allowed) if allowed == "*" || allowed.eq_ignore_ascii_case(origin.as_str()) => {}
        Some(_) => return came("but its `WebHook-Allowed-Origin` is another"),
        None => return came("but without a `WebHook-Allowed-Origin`"),
    }
    match header(&answer.headers, "webhook-allowed-rate") {
        Some("*") => Ok(Consent { rate: None }),
        Some(text) => match rate(text) {
            Some(rate) => Ok(Consent { rate: Some(rate) }),
            None => came("but its `WebHook-Allowed-Rate` is none"),
        },
        None => came("but without a `WebHook-Allowed-Rate`"),
    }
}

/// The one value of a header. Of several, nobody could say which counts.
fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next().filter(|_| values.next().is_none())?;
    value.to_str().ok().map(str::trim)
}

fn rate(text: &str) -> Option<Rate> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // Digits alone can only fail to parse by being too many.
    NonZeroU32::new(text.parse().unwrap_or(u32::MAX)).map(Rate::per_minute)
}
