//! `verify`: what is wrong with a callback's signature, for whoever sets up a receiver.

use std::io::Read as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use jiff::Timestamp;
use rpassword::prompt_password;
use zeroize::Zeroizing;

use super::Done;
use super::output::{BAD, GOOD, line};
use crate::clock::{Clock as _, SystemClock};
use crate::config;
use crate::courier::signing::{SignedHeaders, VerifyError, verify, verify_by_key};
use crate::courier::{PublicKey, SigningSecret};

/// More than any callback has.
const LONGEST_BODY: u64 = 16 * 1_024 * 1_024;

/// Check the signature of a callback that was received, and say what is wrong with it.
///
/// Takes the body as it came, byte for byte, and its three headers. Exits with 0 if the signature
/// is good, and with 1 if not.
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  engagement-bridge verify --secret-file secret --headers headers.txt body.json

headers.txt, with any other headers that came:
  webhook-id: msg_019a2b3c4d5e6f708192a3b4c5d6e7f8_1
  webhook-timestamp: 1800000000
  webhook-signature: v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4=")]
pub(super) struct Arguments {
    /// The body as it came; standard input unless given.
    body: Option<PathBuf>,
    /// A file with the headers, one to a line.
    #[arg(long, value_name = "PATH", required_unless_present = "header")]
    headers: Option<PathBuf>,
    /// One header, such as 'webhook-id: msg_…'; repeat it.
    #[arg(long, value_name = "NAME: VALUE")]
    header: Vec<String>,
    /// A file with the signing secret, or with a public key (`whpk_…`) for the signature by Ed25519. Or
    /// give either itself in `ENGAGEMENT_BRIDGE_SIGNING_SECRET`. [default: asked for]
    #[arg(long, env = "ENGAGEMENT_BRIDGE_SIGNING_SECRET_FILE", value_name = "PATH")]
    secret_file: Option<PathBuf>,
    /// Check one that is older than the five minutes that a receiver should allow.
    #[arg(long)]
    ignore_age: bool,
}

pub(super) fn run(arguments: Arguments) -> Done {
    let secret = secret(arguments.secret_file)?;
    let headers = match &arguments.headers {
        None => String::new(),
        Some(path) => std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?,
    };
    let lines = headers.lines().chain(arguments.header.iter().map(String::as_str));
    let headers: Vec<_> = lines.filter_map(header).collect();
    let body = body(arguments.body)?;
    let value = |wanted: &str| {
        let found = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted));
        found.map(|(_, value)| *value)
    };
    let signed = SignedHeaders {
        id: value("webhook-id"),
        timestamp: value("webhook-timestamp"),
        signature: value("webhook-signature"),
    };
    let now = if arguments.ignore_age { signed_at(signed) } else { None };
    match judge(&secret, signed, &body, now.unwrap_or_else(|| SystemClock.now())) {
        Ok(()) => {
            let id = signed.id.unwrap_or_default();
            let by = secret.word();
            line(format_args!("{GOOD}verified{GOOD:#}: {id} is signed with this {by}"))?;
            Ok(ExitCode::SUCCESS)
        }
        Err(reason) => {
            line(format_args!("{BAD}not verified{BAD:#}: {reason}"))?;
            Ok(ExitCode::FAILURE)
        }
    }
}

/// What somebody verifies with.
enum Verifier {
    Secret(SigningSecret),
    Key(PublicKey),
}

impl Verifier {
    fn read(text: &str) -> anyhow::Result<Self> {
        if text.starts_with("whpk_") {
            return Ok(Self::Key(text.parse().context("this is not a public key")?));
        }
        Ok(Self::Secret(text.parse().context("this is not a signing secret")?))
    }

    fn word(&self) -> &'static str {
        match self {
            Self::Secret(_) => "secret",
            Self::Key(_) => "key",
        }
    }

    fn verify(
        &self,
        headers: SignedHeaders<'_>,
        body: &[u8],
        now: Timestamp,
    ) -> Result<(), VerifyError> {
        match self {
            Self::Secret(secret) => verify(secret, headers, body, now),
            Self::Key(key) => verify_by_key(key, headers, body, now),
        }
    }
}

/// What a receiver would say, and a guess at the usual slip behind it.
fn judge(
    verifier: &Verifier,
    headers: SignedHeaders<'_>,
    body: &[u8],
    now: Timestamp,
) -> Result<(), String> {
    let Err(error) = verifier.verify(headers, body, now) else { return Ok(()) };
    let without_newline = body.strip_suffix(b"\r\n").or_else(|| body.strip_suffix(b"\n"));
    if error == VerifyError::Mismatch
        && without_newline.is_some_and(|body| verifier.verify(headers, body, now).is_ok())
    {
        return Err("the body has a line break at its end that it was not signed with; \
                    whatever saved it has added that"
            .to_owned());
    }
    Err(error.to_string())
}

fn signed_at(headers: SignedHeaders<'_>) -> Option<Timestamp> {
    let second = headers.timestamp?.parse().ok()?;
    Timestamp::from_second(second).ok()
}

fn header(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.split_once(':')?;
    Some((name.trim(), value.trim()))
}

/// From the file, from the environment, or from whoever sits at the terminal.
fn secret(file: Option<PathBuf>) -> anyhow::Result<Verifier> {
    let text = match (file, config::signing_secret()) {
        (Some(path), _) => {
            let text = config::read_secret(&path)?;
            text.with_context(|| format!("there is no file {}", path.display()))?
        }
        (None, Some(text)) => text,
        (None, None) => Zeroizing::new(
            prompt_password("Signing secret: ")
                .context("give it by --secret-file or ENGAGEMENT_BRIDGE_SIGNING_SECRET")?,
        ),
    };
    Verifier::read(text.trim())
}

fn body(path: Option<PathBuf>) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    match path {
        Some(path) => {
            let unreadable = || format!("cannot read {}", path.display());
            let file = std::fs::File::open(&path).with_context(unreadable)?;
            file.take(LONGEST_BODY).read_to_end(&mut bytes).with_context(unreadable)?
        }
        None => std::io::stdin().lock().take(LONGEST_BODY).read_to_end(&mut bytes)?,
    };
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::courier::SigningKey;
    use crate::courier::signing::Signers;

    const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

    #[test]
    fn the_usual_slips_are_told_apart() {
        let key = SigningKey::generate().unwrap();
        let signers = Signers { keys: vec![key.clone()], ..Signers::only(SECRET.parse().unwrap()) };
        let signature = signers.sign("msg_1", 1_800_000_000, b"{}");
        let headers = SignedHeaders {
            id: Some("msg_1"),
            timestamp: Some("1800000000"),
            signature: Some(&signature),
        };
        let then = signed_at(headers).unwrap();
        for text in [SECRET, &key.public().to_string()] {
            let verifier = Verifier::read(text).unwrap();
            let reason = |body: &[u8], now| judge(&verifier, headers, body, now);
            assert_eq!(reason(b"{}", then), Ok(()));
            assert!(reason(b"{}\n", then).unwrap_err().contains("line break"));
            assert!(reason(b"{ }", then).unwrap_err().contains("exact bytes"));
            let late = then + std::time::Duration::from_secs(301);
            assert!(reason(b"{}", late).unwrap_err().contains("301 s old"));
        }
        for text in ["whpk_", &SECRET[6..], &key.expose()] {
            assert!(Verifier::read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn headers_are_read_as_they_are_usually_saved() {
        assert_eq!(header("Webhook-Id: msg_1\r"), Some(("Webhook-Id", "msg_1")));
        assert_eq!(header("webhook-timestamp:1"), Some(("webhook-timestamp", "1")));
        assert_eq!(header("HTTP/1.1 200 OK"), None);
    }
}
