//! What the vault seals, and the place that it binds each of them to.
//!
//! The same in every backend, so that rows can be moved from one to another as they are.

use std::str::FromStr;

use secrecy::{ExposeSecret as _, SecretString};

use super::CallerName;
use crate::courier::ExtraHeader;
use crate::operation::OperationId;
use crate::vault::{Vault, VaultError};

/// Sealed once, to tell at every later start whether the master key is the same.
pub(super) const CHECK: &[u8] = b"this master key opens this database";
pub(super) const CHECK_PLACE: &str = "installation/check";

pub(super) fn token_place(id: OperationId) -> String {
    format!("operations/{id}/token")
}

pub(super) fn callback_secret_place(id: OperationId) -> String {
    format!("operations/{id}/callback_secret")
}

pub(super) fn secret_place(caller: &CallerName, id: u32) -> String {
    format!("signing_secrets/{caller}/{id}")
}

pub(super) fn signing_key_place(caller: &CallerName, id: u32) -> String {
    format!("signing_keys/{caller}/{id}")
}

pub(super) fn extra_header_place(caller: &CallerName, name: &str) -> String {
    format!("extra_headers/{caller}/{name}")
}

pub(super) fn connection_place(caller: &CallerName, name: &str) -> String {
    format!("connections/{caller}/{name}")
}

/// A secret that was sealed as its text.
pub(super) fn read<T>(vault: &Vault, place: &str, sealed: &[u8]) -> Result<T, anyhow::Error>
where
    T: FromStr<Err: std::error::Error + Send + Sync + 'static>,
{
    Ok(open(vault, place, sealed)?.expose_secret().parse()?)
}

/// A header of a caller's, of which the value is sealed.
pub(super) fn extra_header(
    vault: &Vault,
    caller: &CallerName,
    name: &str,
    sealed: &[u8],
) -> Result<ExtraHeader, anyhow::Error> {
    let value = open(vault, &extra_header_place(caller, name), sealed)?;
    Ok(ExtraHeader::new(name, value)?)
}

/// Why a stored secret cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreadable {
    #[error(transparent)]
    Vault(#[from] VaultError),
    #[error(transparent)]
    NotText(#[from] std::str::Utf8Error),
}

/// A secret that is a text, as all of ours are.
pub(super) fn open(vault: &Vault, place: &str, sealed: &[u8]) -> Result<SecretString, Unreadable> {
    let opened = vault.open(place, sealed)?;
    Ok(SecretString::from(std::str::from_utf8(&opened)?))
}
