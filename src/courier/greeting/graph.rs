//! As Microsoft Graph asks before it sends change notifications: a token, to be sent back.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, header};
use http_body_util::Full;

use super::{Answer, Consent, Verdict};
use crate::courier::CallbackUrl;

pub(super) const ASKS: &str = "a POST with `?validationToken=…`";

pub(super) const EXPECTS: &str = "200, as `text/plain`, with the token as it is when it is URL-decoded and nothing else for a body";

const PARAMETER: &str = "validationToken";

/// Another one for each try. With a space and a colon in it, so that only whoever decodes it can send
/// it back, and with nothing that decoders disagree about.
pub(super) fn token() -> Result<String, getrandom::Error> {
    let mut drawn = [0; 24];
    getrandom::fill(&mut drawn)?;
    Ok(format!("engagement-bridge asks: {}", URL_SAFE_NO_PAD.encode(drawn)))
}

/// `None` where the client cannot take the URL with the token.
pub(super) fn question(url: &CallbackUrl, token: &str) -> Option<Request<Full<Bytes>>> {
    let mut request = Request::new(Full::new(Bytes::new()));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = url.uri_with(PARAMETER, token)?;
    let headers = request.headers_mut();
    headers.insert(header::ACCEPT, HeaderValue::from_static("text/plain"));
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    headers.insert(header::CONTENT_TYPE, kind);
    // Some refuse a POST that does not say how long it is.
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
    Some(request)
}

pub(super) fn verdict(answer: &Answer, token: &str) -> Verdict {
    let status = answer.status.as_u16();
    if status != 200 {
        return Err(format!("it answered {status}"));
    }
    let kind = answer.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = kind.unwrap_or_default().split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case("text/plain") {
        return Err("it answered 200, but not as `text/plain`".to_owned());
    }
    if answer.body != token.as_bytes() {
        return Err("it answered 200, but with something else than the token".to_owned());
    }
    Ok(Consent { rate: None })
}
