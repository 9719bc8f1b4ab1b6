//! Reads what a request carries, and says which field is at fault where it cannot.

use axum::RequestExt as _;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, FailedToBufferBody};
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use serde::de::{DeserializeOwned, Deserializer, IntoDeserializer as _, Unexpected};
use serde::{Deserialize as _, de};
use serde_json::Number;
use utoipa::IntoResponses;

use super::problem::{Kind, Problem, Responses, documented};

/// The field that stands for all of a body.
const BODY: &str = "(body)";

/// How serde begins to say what is wrong with a member as such, and our code for it.
const OF_MEMBERS: [(&str, &str); 3] = [
    ("missing field `", "missing"),
    ("duplicate field `", "duplicate"),
    ("unknown field `", "unknown"),
];

/// A JSON body, whole and without fields that we do not know.
pub(super) struct Json<T>(pub(super) T);

/// The query, likewise.
pub(super) struct Params<T>(pub(super) T);

/// The one part of the path that is the caller's to choose.
pub(super) struct Segment(pub(super) String);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        if !is_json(request.headers()) {
            return Err(Problem::new(Kind::UnsupportedMediaType));
        }
        let bytes: Bytes = request.extract().await.map_err(|rejection| match rejection {
            BytesRejection::FailedToBufferBody(FailedToBufferBody::LengthLimitError(_)) => {
                Problem::new(Kind::BodyTooLarge)
            }
            BytesRejection::FailedToBufferBody(_) | _ => {
                Problem::with_detail(Kind::MalformedBody, "The body broke off.")
            }
        })?;
        parse(&bytes).map(Self)
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let query = parts.uri.query().unwrap_or_default();
        let pairs =
            serde_urlencoded::Deserializer::new(url::form_urlencoded::parse(query.as_bytes()));
        let parsed = serde_path_to_error::deserialize(pairs);
        parsed.map(Self).map_err(|error| fault(error.path(), error.inner()))
    }
}

impl<T> IntoResponses for Json<T> {
    fn responses() -> Responses {
        documented([
            Kind::MalformedBody,
            Kind::BodyTooLarge,
            Kind::UnsupportedMediaType,
            Kind::InvalidRequest,
        ])
    }
}

impl<T> IntoResponses for Params<T> {
    fn responses() -> Responses {
        documented([Kind::InvalidRequest])
    }
}

/// Several of them, in their order.
pub(super) struct Segments<T>(pub(super) T);

impl<T, S> FromRequestParts<S> for Segments<T>
where
    T: DeserializeOwned + Send,
    S: Send + Sync,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let segments = Path::<T>::from_request_parts(parts, state).await;
        segments.map(|Path(texts)| Self(texts)).map_err(|_| Problem::new(Kind::NotFound))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Segment {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let segment = Path::<String>::from_request_parts(parts, state).await;
        // What is not even text is the name of nothing.
        segment.map(|Path(text)| Self(text)).map_err(|_| Problem::new(Kind::NotFound))
    }
}

/// Reads a word of an enum. By itself, serde would take `{"word": null}` as well.
pub(super) fn word<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: de::Deserialize<'de>,
    D: Deserializer<'de>,
{
    T::deserialize(String::deserialize(deserializer)?.into_deserializer())
}

/// The same where there may be none, or null.
pub(super) fn word_or_null<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
where
    T: de::Deserialize<'de>,
    D: Deserializer<'de>,
{
    let word = Option::<String>::deserialize(deserializer)?;
    word.map(|word| T::deserialize(word.into_deserializer())).transpose()
}

/// Reads a list of words, likewise.
pub(super) fn words_or_null<'de, T, D>(deserializer: D) -> Result<Option<Vec<T>>, D::Error>
where
    T: de::Deserialize<'de>,
    D: Deserializer<'de>,
{
    let words = Option::<Vec<String>>::deserialize(deserializer)?;
    let read = |word: String| T::deserialize(word.into_deserializer());
    words.map(|words| words.into_iter().map(read).collect()).transpose()
}

/// Reads a whole number, also where it is spelt `60.0`: to JSON Schema, and so to whoever reads the
/// document, that is an integer.
pub(super) fn whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let Some(number) = Option::<Number>::deserialize(deserializer)? else { return Ok(None) };
    let spelt_out = || {
        let number = number.as_f64().filter(|it| it.fract() == 0.0 && *it >= 0.0)?;
        format!("{:.0}", number.abs()).parse().ok()
    };
    number.as_u64().or_else(spelt_out).map(Some).ok_or_else(|| {
        let found = Unexpected::Other("another number");
        de::Error::invalid_value(found, &"a whole number from 0 upwards")
    })
}

/// `application/json`, with or without parameters.
fn is_json(headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    // To serde, a list is a struct whose members come in their order, without their names.
    if bytes.trim_ascii_start().starts_with(b"[") {
        return Err(Problem::field(BODY, "invalid", "a list, where an object is expected"));
    }
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let inner = error.inner();
        if inner.classify() == serde_json::error::Category::Data {
            fault(error.path(), inner)
        } else {
            Problem::with_detail(Kind::MalformedBody, inner.to_string())
        }
    })?;
    let rest = deserializer.end();
    rest.map_err(|error| Problem::with_detail(Kind::MalformedBody, error.to_string()))?;
    Ok(value)
}

fn fault(path: &serde_path_to_error::Path, error: &impl std::error::Error) -> Problem {
    let (path, detail) = (path.to_string(), error.to_string());
    let of_member = OF_MEMBERS.iter().find_map(|(beginning, code)| {
        let (member, _) = detail.strip_prefix(beginning)?.split_once('`')?;
        Some((member.to_owned(), *code))
    });
    let (member, code) = of_member.unwrap_or_else(|| (BODY.to_owned(), "invalid"));
    // A member that is missing is on no path.
    let field = if path == "." { member } else { path };
    Problem::field(field, code, unquoted(detail))
}

/// Without the text that was found where another was expected: it may be a secret that was put in the
/// wrong place, and problems are logged by whoever gets them.
fn unquoted(detail: String) -> String {
    let found = [
        ("unknown variant `", "another word"),
        ("invalid type: string \"", "a string"),
        ("invalid value: string \"", "another string"),
    ];
    let found = found.iter().find(|(beginning, _)| detail.starts_with(beginning));
    let expected = detail.rsplit_once(", expected ");
    match found.zip(expected) {
        Some(((_, found), (_, expected))) => format!("{found}, where {expected} is expected"),
        None => detail,
    }
}
