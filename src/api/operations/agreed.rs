//! Keeps a registration, once its receiver has agreed to callbacks.

use tokio::time::Instant;

use super::register::unkept;
use crate::api::problem::{Kind, Problem};
use crate::api::{Api, FieldError};
use crate::handshake::Unagreed;
use crate::store::{Registered, Registration};

/// Keeps the registration. Has its receiver asked before, where receivers are to be asked and this one
/// has not agreed; but not for what is there already, or would be refused anyway.
pub(super) async fn keep(
    api: &Api,
    mut registration: Registration,
) -> Result<Option<Registered>, Problem> {
    let Some(handshakes) = &api.handshakes else { return keep_one(api, registration).await };
    let caller = registration.caller.clone();
    let url = api.egress.check_url(&registration.callback_url).map_err(|refused| {
        Problem::field("callbackUrl", refused.code().as_str(), refused.to_string())
    })?;
    registration.is_agreed = handshakes.has_agreed(&caller, &url).await?;
    let kept = keep_one(api, registration.clone()).await?;
    let Some(Registered::NotAgreed) = kept else { return Ok(kept) };
    handshakes.ask(&caller, &url).await.map_err(unagreed)?;
    keep_one(api, Registration { is_agreed: true, ..registration }).await
}

async fn keep_one(api: &Api, registration: Registration) -> Result<Option<Registered>, Problem> {
    let began = Instant::now();
    let registered = api.store.register(vec![registration]).await;
    let size = registered.as_ref().ok().map(Vec::len);
    api.metrics.store.called("register", size, began.elapsed());
    let registered = registered.map_err(unkept)?;
    Ok(registered.into_iter().next())
}

fn unagreed(unagreed: Unagreed) -> Problem {
    match unagreed {
        Unagreed::Declined(declined) => {
            let code = declined.code();
            Problem::invalid(vec![FieldError::new("callbackUrl", code, declined.detail)])
        }
        Unagreed::Later(wait) => {
            let detail = "Too many of your receivers are being asked whether they want callbacks.";
            let seconds = u32::try_from(wait.as_secs()).unwrap_or(u32::MAX).saturating_add(1);
            let problem = Problem::with_detail(Kind::TooManyRequests, detail);
            Problem { retry_after: Some(seconds), ..problem }
        }
        Unagreed::Store(error) => error.into(),
    }
}
