//! Reads a script from JSON, and refuses what it cannot mean.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::{Answer, Fault, Plan, Reply, Script, Stage, TokenScript};

/// Why a script cannot mean anything.
#[derive(Debug, thiserror::Error)]
pub enum InvalidScript {
    #[error("a script needs at least one answer")]
    Empty,
    #[error("a script has at most {} answers or stages", Script::LONGEST)]
    TooLong,
    #[error("no ready-made script is called `{0}`")]
    UnknownName(String),
    #[error("the first stage begins at 0, and each other one later than the one before")]
    StagesOutOfOrder,
    #[error("an answer that says nothing: give it a `status`, an `http` code, a body or `drop`")]
    SaysNothing,
    #[error("`status` is not for the token endpoint")]
    StatusOfToken,
    #[error("`error` needs an `http` from 400 on, and no body")]
    ErrorWithoutErrorCode,
    #[error("`drop` stands alone, or beside `delayMs`")]
    DropWithAnswer,
    #[error("`status` and a body exclude each other")]
    StatusWithBody,
    #[error("`status` needs an `http` below 400, where it is given")]
    StatusWithErrorCode,
    #[error("`statusDetail` needs a `status`")]
    DetailWithoutStatus,
    #[error("`{0}` needs a body")]
    NeedsBody(&'static str),
    #[error("`body` and `bodyBase64` exclude each other")]
    TwoBodies,
    #[error("`bodyBase64` is not base64 with its padding")]
    NotBase64(#[source] base64::DecodeError),
    #[error("`http` is 200 to 599")]
    NotACode,
    #[error("`{member}` is at most {most}")]
    TooLarge { member: &'static str, most: u64 },
    #[error("`{0}` is no header value")]
    NotAHeaderValue(&'static str),
    #[error("`{0}` is no header, or its value is none, or it frames the message")]
    NotAHeader(String),
}

impl<'de> Deserialize<'de> for Script {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ScriptVisitor)
    }
}

/// Tells the three forms of a script apart by hand: an untagged enum could only say that none of
/// them fits, and not what is wrong with the one that was meant.
struct ScriptVisitor;

impl<'de> Visitor<'de> for ScriptVisitor {
    type Value = Script;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a script: a list of answers, an object with `stages`, or a word")
    }

    fn visit_str<E: Error>(self, word: &str) -> Result<Script, E> {
        Script::named(word)
            .ok_or_else(|| E::custom(InvalidScript::UnknownName(word.chars().take(40).collect())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Script, A::Error> {
        let answers = Vec::<Answer>::deserialize(SeqAccessDeserializer::new(list))?;
        per_poll(answers).map_err(A::Error::custom)
    }

    fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<Script, A::Error> {
        let StagesShape { stages } = StagesShape::deserialize(MapAccessDeserializer::new(members))?;
        over_time(stages).map_err(A::Error::custom)
    }
}

fn per_poll(mut first: Vec<Answer>) -> Result<Script, InvalidScript> {
    if Script::LONGEST < first.len() {
        return Err(InvalidScript::TooLong);
    }
    let then = first.pop().ok_or(InvalidScript::Empty)?;
    Ok(Script(Plan::PerPoll { first, then }))
}

fn over_time(stages: Vec<StageShape>) -> Result<Script, InvalidScript> {
    if Script::LONGEST < stages.len() {
        return Err(InvalidScript::TooLong);
    }
    if !stages.is_sorted_by(|one, next| one.from_ms < next.from_ms) {
        return Err(InvalidScript::StagesOutOfOrder);
    }
    let mut stages = stages.into_iter();
    let first = stages.next().ok_or(InvalidScript::Empty)?;
    if first.from_ms != 0 {
        return Err(InvalidScript::StagesOutOfOrder);
    }
    let later = stages
        .map(|stage| Stage { from: Duration::from_millis(stage.from_ms), answer: stage.answer })
        .collect();
    Ok(Script(Plan::OverTime { at_first: first.answer, later }))
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct StagesShape {
    stages: Vec<StageShape>,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct StageShape {
    from_ms: u64,
    answer: Answer,
}

impl<'de> Deserialize<'de> for Answer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::try_from(AnswerShape::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

impl<'de> Deserialize<'de> for TokenScript {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let answers = Vec::<Answer>::deserialize(deserializer)?;
        if Script::LONGEST < answers.len() {
            return Err(D::Error::custom(InvalidScript::TooLong));
        }
        let faults = answers.into_iter().map(|Answer { reply, headers, delay }| match reply {
            Reply::Fault(fault) => Ok(Answer { reply: fault, headers, delay }),
            Reply::Operation { .. } => Err(D::Error::custom(InvalidScript::StatusOfToken)),
        });
        faults.collect::<Result<_, _>>().map(Self)
    }
}

/// The members of an answer before they are known to agree.
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct AnswerShape {
    #[serde(default)]
    status: StatusMember,
    status_detail: Option<String>,
    http: Option<u16>,
    error: Option<String>,
    body: Option<String>,
    body_base64: Option<String>,
    content_type: Option<String>,
    missing_bytes: Option<u64>,
    retry_after: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    delay_ms: u64,
    #[serde(default)]
    drop: bool,
}

/// A status of null is something to say, and another thing than none.
#[derive(Default, PartialEq)]
enum StatusMember {
    #[default]
    LeftOut,
    Given(Option<String>),
}

impl<'de> Deserialize<'de> for StatusMember {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Option::deserialize(deserializer).map(Self::Given)
    }
}

const LONGEST_DELAY_MS: u64 = 600_000;
const MOST_MISSING_BYTES: u64 = 1_048_576;

impl TryFrom<AnswerShape> for Answer {
    type Error = InvalidScript;

    fn try_from(shape: AnswerShape) -> Result<Self, InvalidScript> {
        at_most("delayMs", LONGEST_DELAY_MS, shape.delay_ms)?;
        let delay = Duration::from_millis(shape.delay_ms);
        let headers = shape.headers()?;
        let reply = shape.reply()?;
        if reply == Reply::Fault(Fault::Dropped) && !headers.is_empty() {
            return Err(InvalidScript::DropWithAnswer);
        }
        Ok(Self { reply, headers, delay })
    }
}

impl AnswerShape {
    fn reply(self) -> Result<Reply, InvalidScript> {
        self.check()?;
        if self.drop {
            return Ok(Reply::Fault(Fault::Dropped));
        }
        let http = self.http.map(code).transpose()?;
        let body = match (self.body, self.body_base64) {
            (Some(text), _) => Some(Bytes::from(text)),
            (None, Some(text)) => {
                Some(STANDARD.decode(text).map_err(InvalidScript::NotBase64)?.into())
            }
            (None, None) => None,
        };
        match (self.status, body, http) {
            (StatusMember::Given(status), _, http) => {
                let http = http.unwrap_or(StatusCode::OK);
                Ok(Reply::Operation { http, status, detail: self.status_detail })
            }
            (StatusMember::LeftOut, Some(body), http) => {
                let http = http.unwrap_or(StatusCode::OK);
                let missing = self.missing_bytes.unwrap_or_default();
                Ok(Reply::Fault(Fault::Verbatim { http, body, missing }))
            }
            (StatusMember::LeftOut, None, Some(http)) => {
                Ok(Reply::Fault(Fault::Code { http, error: self.error }))
            }
            (StatusMember::LeftOut, None, None) => Err(InvalidScript::SaysNothing),
        }
    }

    /// Refuses members that contradict each other or would go unheeded.
    fn check(&self) -> Result<(), InvalidScript> {
        let has_status = self.status != StatusMember::LeftOut;
        let has_body = self.body.is_some() || self.body_base64.is_some();
        let is_error = self.http.is_some_and(|http| 400 <= http);
        at_most("missingBytes", MOST_MISSING_BYTES, self.missing_bytes.unwrap_or_default())?;
        let says_anything = has_status
            || has_body
            || self.http.is_some()
            || self.status_detail.is_some()
            || self.error.is_some()
            || self.missing_bytes.is_some();
        let contradictions = [
            (self.drop && says_anything, InvalidScript::DropWithAnswer),
            (self.body.is_some() && self.body_base64.is_some(), InvalidScript::TwoBodies),
            (has_status && has_body, InvalidScript::StatusWithBody),
            (has_status && is_error, InvalidScript::StatusWithErrorCode),
            (self.status_detail.is_some() && !has_status, InvalidScript::DetailWithoutStatus),
            (self.error.is_some() && (has_body || !is_error), InvalidScript::ErrorWithoutErrorCode),
            (self.content_type.is_some() && !has_body, InvalidScript::NeedsBody("contentType")),
            (self.missing_bytes.is_some() && !has_body, InvalidScript::NeedsBody("missingBytes")),
        ];
        match contradictions.into_iter().find(|(found, _)| *found) {
            Some((_, contradiction)) => Err(contradiction),
            None => Ok(()),
        }
    }

    fn headers(&self) -> Result<HeaderMap, InvalidScript> {
        let mut headers = HeaderMap::new();
        let own = [
            ("contentType", CONTENT_TYPE, &self.content_type),
            ("retryAfter", RETRY_AFTER, &self.retry_after),
        ];
        for (member, name, value) in own {
            if let Some(value) = value {
                let value = HeaderValue::from_str(value)
                    .map_err(|_| InvalidScript::NotAHeaderValue(member))?;
                headers.insert(name, value);
            }
        }
        for (name, value) in &self.headers {
            let header = name.parse::<HeaderName>().ok().zip(HeaderValue::from_str(value).ok());
            // A length that is not that of the body would be the server's own fault, and it
            // panics at one; `missingBytes` is the way to lie about it.
            match header.filter(|(name, _)| *name != CONTENT_LENGTH && *name != TRANSFER_ENCODING) {
                Some((name, value)) => headers.insert(name, value),
                None => return Err(InvalidScript::NotAHeader(name.clone())),
            };
        }
        Ok(headers)
    }
}

fn code(http: u16) -> Result<StatusCode, InvalidScript> {
    if !(200..=599).contains(&http) {
        return Err(InvalidScript::NotACode);
    }
    StatusCode::from_u16(http).map_err(|_| InvalidScript::NotACode)
}

fn at_most(member: &'static str, most: u64, value: u64) -> Result<(), InvalidScript> {
    if most < value { Err(InvalidScript::TooLarge { member, most }) } else { Ok(()) }
}
