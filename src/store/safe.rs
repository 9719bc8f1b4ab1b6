//! What is sealed in a database, under which master keys, and how it is sealed anew under another.
//!
//! A value is sealed anew where it stands, provided that it is still what was read: whoever puts another
//! one there meanwhile has sealed that under a key of its own. So how far a change of keys has come is
//! read off the values themselves, and wherever it is broken off, it goes on.

use async_trait::async_trait;
use jiff::Timestamp;

use super::StoreError;
use super::handover::Value;
use super::sealed::SealedColumn;
use crate::vault::{KeyId, Vault, VaultError};

/// Knows what is sealed, and seals it anew.
#[async_trait]
pub trait Safe: Send + Sync {
    /// The master keys that are given, that which seals first. None where nothing is sealed.
    fn keys(&self) -> Vec<KeyId>;

    /// How many values there are under each key. It looks at all of them.
    async fn sealed(&self) -> Result<Vec<SealedUnder>, StoreError>;

    /// Asks for everything to be sealed under our first key, unless that is under way. `None` where
    /// nothing is sealed.
    async fn ask_rekeying(&self, now: Timestamp) -> Result<Option<Rekeying>, StoreError>;

    /// The latest `limit` changes of keys that were asked for, newest first.
    async fn rekeyings(&self, limit: u32) -> Result<Vec<Rekeying>, StoreError>;

    /// Seals up to `limit` values under our first key that are under `key`, in the order of their rows:
    /// the first ones, or those behind a row. What others hold at the moment is passed over.
    async fn reseal(
        &self,
        column: SealedColumn,
        key: KeyId,
        behind: Option<RowName>,
        limit: u32,
    ) -> Result<Resealed, StoreError>;

    /// Writes down that all is sealed under our first key, but for so many values that no key of ours
    /// opens. Nothing, if that is written down already.
    async fn finish_rekeying(&self, unreadable: u64, now: Timestamp) -> Result<(), StoreError>;
}

/// How many values of a column are sealed under a key.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SealedUnder {
    pub column: SealedColumn,
    /// `None` for what is too short to be a sealed value.
    pub key: Option<KeyId>,
    pub values: u64,
}

/// A change of master keys that was asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rekeying {
    /// What everything is to be sealed under.
    pub key: KeyId,
    pub asked_at: Timestamp,
    pub done_at: Option<Timestamp>,
    /// How many values were sealed anew so far.
    pub rewritten: u64,
    /// How many were left as they are, for no key that was given opens them. Known once it is done.
    pub unreadable: u64,
}

/// Names a row of some table.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RowName(pub(super) Vec<Value>);

/// What came of a batch of values.
#[derive(Clone, Debug, Default)]
pub struct Resealed {
    pub rewritten: u64,
    /// Places of those that cannot be opened.
    pub unreadable: Vec<String>,
    /// The last row that was looked at, where there may be more behind it.
    pub last: Option<RowName>,
}

/// What names a row, and the value in it.
pub(super) type Sealed = (Vec<Value>, Vec<u8>);

/// A value that is to take the place of another.
pub(super) struct Replacement {
    pub(super) row: Vec<Value>,
    pub(super) before: Vec<u8>,
    pub(super) after: Vec<u8>,
}

/// What is to become of a page of values.
pub(super) fn replacements(
    vault: &Vault,
    column: SealedColumn,
    page: Vec<Sealed>,
    limit: u32,
) -> Result<(Vec<Replacement>, Resealed), VaultError> {
    let is_full = page.len() == limit as usize;
    let last = page.last().filter(|_| is_full).map(|(row, _)| RowName(row.clone()));
    let mut resealed = Resealed { last, ..Resealed::default() };
    let mut replacements = Vec::with_capacity(page.len());
    for (row, before) in page {
        let place = column.place_of(&row);
        match vault.reseal(&place, &before) {
            Ok(after) => replacements.push(Replacement { row, before, after }),
            Err(error @ VaultError::NoRandomness(_)) => return Err(error),
            Err(_) => resealed.unreadable.push(place),
        }
    }
    Ok((replacements, resealed))
}

/// Values that no master key that is given opens.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Unopened {
    pub(super) sealed: SealedUnder,
    /// Some of their places.
    pub(super) examples: Vec<String>,
}

/// Examples of what cannot be opened that are given for each column and key.
pub(super) const EXAMPLES: u32 = 3;

/// Says at start what cannot be opened, for the operator to find the keys that are missing.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CannotOpen(Vec<Unopened>);

impl CannotOpen {
    /// Fails where there are such values.
    pub(super) fn check(unopened: Vec<Unopened>) -> Result<(), Self> {
        if unopened.is_empty() { Ok(()) } else { Err(Self(unopened)) }
    }
}

impl std::error::Error for CannotOpen {}

impl std::fmt::Display for CannotOpen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, Unopened { sealed, examples }) in self.0.iter().enumerate() {
            let between = if index == 0 { "" } else { "; " };
            let SealedUnder { column, key, values } = sealed;
            write!(f, "{between}{values} in {column} ")?;
            match key {
                Some(key) => write!(f, "under master key {key}")?,
                None => f.write_str("that are no sealed values")?,
            }
            let more = if (examples.len() as u64) < *values { ", …" } else { "" };
            write!(f, " ({}{more})", examples.join(", "))?;
        }
        Ok(())
    }
}
