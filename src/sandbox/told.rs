//! What is sent back, and how badly: late, broken off, or not at all.

use std::io;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, stream};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderValue, StatusCode};

use super::script::{Answer, Fault};

/// An answer and the wait before it.
#[derive(Debug)]
pub(super) struct Told {
    response: Response,
    delay: Duration,
}

/// Marks a response in place of which the connection is closed.
///
/// A response is the only thing a router can return, so the one who writes it to the connection
/// has to look for this.
#[derive(Clone, Copy, Debug)]
struct Dropped;

impl Told {
    /// What a script says: `response`, with the headers and the delay of `answer`.
    pub(super) fn scripted<R>(mut response: Response, answer: Answer<R>) -> Self {
        response.headers_mut().extend(answer.headers);
        Self { response, delay: answer.delay }
    }

    /// `None` where there will be no answer.
    pub(super) fn status(&self) -> Option<StatusCode> {
        (!is_dropped(&self.response)).then(|| self.response.status())
    }

    /// Waits for as long as the script wants.
    pub(super) async fn deliver(self) -> Response {
        tokio::time::sleep(self.delay).await;
        self.response
    }
}

impl From<Response> for Told {
    fn from(response: Response) -> Self {
        Self { response, delay: Duration::ZERO }
    }
}

/// Whether the connection is to be closed instead of sending `response`.
pub(super) fn is_dropped(response: &Response) -> bool {
    response.extensions().get::<Dropped>().is_some()
}

impl Fault {
    /// The fault as a response; `spell` writes the error body of the service that has it.
    pub(super) fn response(
        &self,
        spell: impl FnOnce(StatusCode, Option<&str>) -> Response,
    ) -> Response {
        match self {
            Self::Code { http, error } if 400 <= http.as_u16() => spell(*http, error.as_deref()),
            Self::Code { http, .. } => http.into_response(),
            Self::Verbatim { http, body, missing: 0 } => {
                (*http, [(CONTENT_TYPE, "application/json")], body.clone()).into_response()
            }
            Self::Verbatim { http, body, missing } => broken_off(*http, body.clone(), *missing),
            Self::Dropped => {
                let mut response = StatusCode::OK.into_response();
                response.extensions_mut().insert(Dropped);
                response
            }
        }
    }
}

/// Promises `missing` bytes more than `body` has, and fails after those that there are.
fn broken_off(http: StatusCode, body: Bytes, missing: u64) -> Response {
    let promised = missing.saturating_add(body.len() as u64);
    // The body must not know its own length, or hyper would hold it against ours; and it must
    // pause before it fails, or hyper would close the connection with the bytes still unsent.
    let failure = async {
        tokio::task::yield_now().await;
        Err(io::Error::from(io::ErrorKind::UnexpectedEof))
    };
    let body = stream::iter([Ok(body)]).chain(stream::once(failure));
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (CONTENT_LENGTH, HeaderValue::from(promised)),
    ];
    (http, headers, Body::from_stream(body)).into_response()
}
