//! What a client says in place of a secret (RFC 7523 §2.2): a statement that it signs itself, or one
//! of an issuer that Entra was told to trust.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use secrecy::SecretString;
use serde_json::json;
use tokio::time::{Instant, timeout_at};
use url::Url;
use zeroize::Zeroizing;

use super::certificate::{CannotSign, ClientCertificate};

/// How long a statement of our own is good for. Microsoft recommends 5 to 10 minutes, which is room
/// for clocks that differ.
const GOOD_FOR: Duration = Duration::from_mins(10);

/// Bytes of a federated token at the most; those of Kubernetes are about 1 KiB.
const LONGEST_TOKEN: u64 = 16 * 1_024;

/// Why a client cannot say who it is.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoAssertion {
    #[error(transparent)]
    CannotSign(#[from] CannotSign),
    #[error("the operating system has no random numbers")]
    NoRandomness(#[source] getrandom::Error),
    #[error("cannot read the federated token in {}", file.display())]
    Unreadable {
        file: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("what is in {} is no token: {why}", file.display())]
    NotAToken { file: PathBuf, why: &'static str },
    #[error("reading {} took too long", file.display())]
    TimedOut { file: PathBuf },
    #[error("it has nothing to prove itself by to the token endpoint")]
    NotAnApp,
}

/// Says that the app `client_id` is asking `endpoint`, once and for the next ten minutes, signed by
/// the key of `certificate` ("Certificate credentials" in the documentation of Microsoft Entra).
pub(super) fn signed(
    certificate: &ClientCertificate,
    client_id: &str,
    endpoint: &Url,
    now: Timestamp,
) -> Result<SecretString, NoAssertion> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(NoAssertion::NoRandomness)?;
    let header = json!({
        "alg": "PS256",
        "typ": "JWT",
        "x5t#S256": URL_SAFE_NO_PAD.encode(certificate.thumbprint().0),
    });
    let since_epoch = now.as_second();
    let claims = json!({
        "aud": endpoint.as_str(),
        "iss": client_id,
        "sub": client_id,
        "jti": uuid::Builder::from_random_bytes(random).into_uuid().to_string(),
        "iat": since_epoch,
        "nbf": since_epoch,
        "exp": since_epoch.saturating_add_unsigned(GOOD_FOR.as_secs()),
    });
    let part = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let message = format!("{}.{}", part(&header), part(&claims));
    let signature = certificate.sign(message.as_bytes())?;
    Ok(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature)).into())
}

/// The token in `file` as it is now. Gives up at `until`.
pub(super) async fn of_file(file: &Path, until: Instant) -> Result<SecretString, NoAssertion> {
    let path = file.to_owned();
    let reading = tokio::task::spawn_blocking(move || read(&path));
    let timed_out = |_| NoAssertion::TimedOut { file: file.to_owned() };
    let unreadable = |source| NoAssertion::Unreadable { file: file.to_owned(), source };
    timeout_at(until, reading)
        .await
        .map_err(timed_out)?
        .map_err(|stopped| unreadable(io::Error::other(stopped)))?
}

fn read(file: &Path) -> Result<SecretString, NoAssertion> {
    let unreadable = |source| NoAssertion::Unreadable { file: file.to_owned(), source };
    let not_a_token = |why| NoAssertion::NotAToken { file: file.to_owned(), why };
    // Opening a pipe would wait for its other end.
    if !std::fs::metadata(file).map_err(unreadable)?.is_file() {
        return Err(not_a_token("it is not a file"));
    }
    let mut text = Zeroizing::new(String::new());
    let open = File::open(file).map_err(unreadable)?;
    let mut bounded = open.take(LONGEST_TOKEN + 1);
    bounded.read_to_string(&mut text).map_err(unreadable)?;
    let token = text.trim();
    if token.is_empty() {
        return Err(not_a_token("it is empty"));
    }
    if u64::try_from(text.len()).is_ok_and(|length| LONGEST_TOKEN < length) {
        return Err(not_a_token("it is longer than 16 KiB"));
    }
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(not_a_token("it holds other characters than those of a token"));
    }
    Ok(SecretString::from(token))
}
