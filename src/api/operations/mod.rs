//! What is being tracked.

mod agreed;
pub(super) mod cancel;
pub(super) mod credential;
pub(super) mod inspect;
pub(super) mod list;
pub(super) mod register;
pub(super) mod resend;
pub(super) mod view;

use super::problem::{Kind, Problem};
use super::{Api, FieldError};
use crate::graph::{AccessToken, Credential};
use crate::operation::{Decision, Event, Operation, OperationId, after, decide};
use crate::store::{Amended, Amendment, CallerName, Tracked};
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};

/// How often a change that was overtaken is decided anew.
const TRIES: usize = 8;

/// Bytes of an access token at the most. Entra's are between 1 and 4 KiB.
const LONGEST_TOKEN: usize = 16 * 1024;

/// How long a handed-in token may say to live, in seconds. Entra's live for 60 to 90 minutes, and
/// for 28 hours where continuous access evaluation applies.
const LONGEST_TOKEN_LIFE: u64 = 48 * 3_600;

/// The operation of this id, if it is the caller's. Another's looks like none.
async fn find(api: &Api, caller: &CallerName, id: &str) -> Result<Tracked, Problem> {
    let id: OperationId = id.parse().map_err(|_| Problem::new(Kind::NotFound))?;
    let found = api.store.operation(id).await?;
    found.filter(|it| it.caller == *caller).ok_or_else(|| Problem::new(Kind::NotFound))
}

/// What became of a change that somebody asked for.
enum Changed {
    Saved(Tracked),
    Ignored(Tracked),
    CredentialGone,
}

/// Lets `event` happen to an operation, however often others get in between, and gives it
/// `credential` in the same commit.
async fn change(
    api: &Api,
    caller: &CallerName,
    id: &str,
    event: Event,
    credential: Option<&Credential>,
) -> Result<Changed, Problem> {
    for _ in 0..TRIES {
        let tracked = find(api, caller, id).await?;
        let before = tracked.operation.clone();
        let now = api.clock.now();
        let next = match decide(&api.operations, &before, event, now) {
            Decision::Become(next, _) => next,
            Decision::Ignore(_) if credential.is_some() && !before.state.is_at_rest() => {
                before.clone()
            }
            Decision::Ignore(_) => return Ok(Changed::Ignored(tracked)),
        };
        let amendment = Amendment::Operation {
            before,
            after: next.clone(),
            // Neither a cancellation nor a renewal owes the caller a message: it asked for it.
            owed: None,
            credential: credential.cloned(),
        };
        match api.store.amend(amendment).await? {
            Amended::Saved => {
                if let Some(due) = next.agenda().step_at {
                    api.nudge.due(due);
                }
                return Ok(Changed::Saved(Tracked { operation: next, ..tracked }));
            }
            Amended::Overtaken => {}
            Amended::CredentialGone => return Ok(Changed::CredentialGone),
        }
    }
    Err(Problem::with_detail(Kind::Conflict, "The operation keeps changing; try again."))
}

/// Says that an operation is at rest, so that nothing can be done to it.
fn at_rest(operation: &Operation) -> Problem {
    let state = operation.state.as_str();
    Problem::with_detail(Kind::Conflict, format!("The operation is {state} already."))
}

/// Reads `accessToken` with `expiresIn`, both or neither; complains into `errors`.
fn token(
    secret: Option<SecretString>,
    expires_in: Option<u64>,
    now: Timestamp,
    errors: &mut Vec<FieldError>,
) -> Option<AccessToken> {
    let (secret, expires_in) = match (secret, expires_in) {
        (None, None) => return None,
        (Some(_), None) => {
            let detail = "comes with `accessToken`: its life in seconds";
            errors.push(FieldError::new("expiresIn", "missing", detail));
            return None;
        }
        (None, Some(_)) => {
            let detail = "goes with `accessToken` only";
            errors.push(FieldError::new("expiresIn", "unexpected", detail));
            return None;
        }
        (Some(secret), Some(expires_in)) => (secret, expires_in),
    };
    let before = errors.len();
    let text = secret.expose_secret();
    if text.is_empty() || text.len() > LONGEST_TOKEN || !text.bytes().all(|b| b.is_ascii_graphic())
    {
        let detail = format!("1 to {LONGEST_TOKEN} visible ASCII characters without spaces");
        errors.push(FieldError::new("accessToken", "invalid", detail));
    }
    if !(1..=LONGEST_TOKEN_LIFE).contains(&expires_in) {
        let detail = format!("1 to {LONGEST_TOKEN_LIFE} seconds");
        errors.push(FieldError::new("expiresIn", "outOfRange", detail));
    }
    if before < errors.len() {
        return None;
    }
    let expires_at = after(now, std::time::Duration::from_secs(expires_in));
    Some(AccessToken { secret, expires_at })
}
