//! What the vault seals, and the place that it binds each of them to.
//!
//! The same in every backend, so that rows can be moved from one to another as they are. Whatever is
//! sealed stands in a column named `sealed_…`, and each of these is in [`COLUMNS`]: so a change of
//! master keys comes by all of them.

use std::fmt::Display;
use std::str::FromStr;

use secrecy::{ExposeSecret, SecretString};

use super::CallerName;
use super::handover::Value;
use crate::courier::ExtraHeader;
use crate::operation::OperationId;
use crate::vault::{Vault, VaultError};

/// Sealed once, to tell at every later start whether a master key is the same.
pub(super) const CHECK: &[u8] = b"this master key opens this database";
pub(super) const CHECK_PLACE: &str = "installation/check";

/// A column of sealed values, and how the place of each is spelled: the table, what names the row, and
/// what tells it from another one in the same row.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SealedColumn {
    pub table: &'static str,
    pub column: &'static str,
    /// Columns that name a row, and make up a key that is unique and not null.
    row: &'static [&'static str],
    suffix: &'static str,
}

const TOKENS: SealedColumn =
    SealedColumn { table: "operations", column: "sealed_token", row: &["id"], suffix: "/token" };
const CALLBACK_SECRETS: SealedColumn = SealedColumn {
    table: "operations",
    column: "sealed_callback_secret",
    row: &["id"],
    suffix: "/callback_secret",
};
const SIGNING_SECRETS: SealedColumn = SealedColumn {
    table: "signing_secrets",
    column: "sealed_secret",
    row: &["caller", "id"],
    suffix: "",
};
const SIGNING_KEYS: SealedColumn = SealedColumn {
    table: "signing_keys",
    column: "sealed_key",
    row: &["caller", "id"],
    suffix: "",
};
const EXTRA_HEADERS: SealedColumn = SealedColumn {
    table: "extra_headers",
    column: "sealed_value",
    row: &["caller", "name"],
    suffix: "",
};
const CONNECTIONS: SealedColumn = SealedColumn {
    table: "connections",
    column: "sealed_proof",
    row: &["caller", "name"],
    suffix: "",
};
/// Comes last, so that a change of master keys that was broken off shows in it.
const INSTALLATION: SealedColumn =
    SealedColumn { table: "installation", column: "sealed_check", row: &[], suffix: "/check" };

/// All that is sealed.
pub const COLUMNS: [SealedColumn; 7] = [
    TOKENS,
    CALLBACK_SECRETS,
    SIGNING_SECRETS,
    SIGNING_KEYS,
    EXTRA_HEADERS,
    CONNECTIONS,
    INSTALLATION,
];

/// Under which key a value is sealed, as SQL; see [`KeyId::of`](crate::vault::KeyId::of). Indexed where a
/// table is large.
const KEY_BYTES: usize = 8;

impl SealedColumn {
    /// The place of the value in the row that `names` name.
    fn place(&self, names: &[&dyn Display]) -> String {
        let mut place = self.table.to_owned();
        for name in names {
            place.push('/');
            place.push_str(&name.to_string());
        }
        place + self.suffix
    }

    /// The same, of a row as it was read.
    pub(super) fn place_of(&self, row: &[Value]) -> String {
        let names: Vec<&dyn Display> = row.iter().map(|it| it as &dyn Display).collect();
        self.place(&names)
    }

    /// How many columns name a row.
    pub(super) fn names(&self) -> usize {
        self.row.len()
    }

    fn key(&self) -> String {
        format!("substr({}, 1, {KEY_BYTES})", self.column)
    }

    /// How many values there are under each key: `key`, `values`.
    pub(super) fn census(&self) -> String {
        let (table, column, key) = (self.table, self.column, self.key());
        format!(
            "SELECT {key} AS key, count(*) AS number FROM {table} \
             WHERE {column} IS NOT NULL GROUP BY {key} ORDER BY {key}"
        )
    }

    /// The next key in the order of their bytes behind that one.
    pub(super) fn next_key(&self) -> String {
        let (table, column, key) = (self.table, self.column, self.key());
        format!(
            "SELECT {key} AS key FROM {table} WHERE {column} IS NOT NULL AND {key} > $1 \
             ORDER BY {key} LIMIT 1"
        )
    }

    /// How many values there are under one key.
    pub(super) fn count(&self) -> String {
        let (table, column, key) = (self.table, self.column, self.key());
        format!("SELECT count(*) AS number FROM {table} WHERE {column} IS NOT NULL AND {key} = $1")
    }

    /// Values under one key, in the order of the names of their rows: these names, and the value.
    pub(super) fn page(&self, is_behind: bool, limit: u32) -> String {
        let (table, column, key) = (self.table, self.column, self.key());
        let names = self.row.join(", ");
        let (listed, order) = if self.row.is_empty() {
            (String::new(), String::new())
        } else {
            (format!("{names}, "), format!("ORDER BY {names}"))
        };
        let parameters: Vec<_> = (2..self.row.len() + 2).map(|it| format!("${it}")).collect();
        let behind = match (is_behind, self.row.is_empty()) {
            (false, _) => String::new(),
            // There is one row.
            (true, true) => "AND 1 = 0".to_owned(),
            (true, false) => format!("AND ({names}) > ({})", parameters.join(", ")),
        };
        format!(
            "SELECT {listed}{column} FROM {table} WHERE {column} IS NOT NULL AND {key} = $1 \
             {behind} {order} LIMIT {limit}"
        )
    }

    /// Puts `$1` in the place of `$2`, provided that this is what is there, in the row that the rest
    /// name.
    pub(super) fn replace(&self) -> String {
        let Self { table, column, .. } = self;
        let mut conditions = vec![format!("{column} = $2")];
        conditions.extend(self.row.iter().zip(3..).map(|(name, it)| format!("{name} = ${it}")));
        format!("UPDATE {table} SET {column} = $1 WHERE {}", conditions.join(" AND "))
    }
}

/// As somebody would look for it.
impl Display for SealedColumn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.table, self.column)
    }
}

pub(super) fn token_place(id: OperationId) -> String {
    TOKENS.place(&[&id])
}

pub(super) fn callback_secret_place(id: OperationId) -> String {
    CALLBACK_SECRETS.place(&[&id])
}

pub(super) fn secret_place(caller: &CallerName, id: u32) -> String {
    SIGNING_SECRETS.place(&[caller, &id])
}

pub(super) fn signing_key_place(caller: &CallerName, id: u32) -> String {
    SIGNING_KEYS.place(&[caller, &id])
}

pub(super) fn extra_header_place(caller: &CallerName, name: &str) -> String {
    EXTRA_HEADERS.place(&[caller, &name])
}

pub(super) fn connection_place(caller: &CallerName, name: &str) -> String {
    CONNECTIONS.place(&[caller, &name])
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Pinned: sealed values open in the place that they were sealed for, and nowhere else.
    #[test]
    fn places_are_spelled_as_ever() {
        let caller: CallerName = "shop".parse().unwrap();
        let id = OperationId(7);
        assert_eq!(token_place(id), format!("operations/{id}/token"));
        assert_eq!(callback_secret_place(id), format!("operations/{id}/callback_secret"));
        assert_eq!(secret_place(&caller, 3), "signing_secrets/shop/3");
        assert_eq!(signing_key_place(&caller, 3), "signing_keys/shop/3");
        assert_eq!(extra_header_place(&caller, "x-gate"), "extra_headers/shop/x-gate");
        assert_eq!(connection_place(&caller, "contoso"), "connections/shop/contoso");
        assert_eq!(INSTALLATION.place_of(&[]), CHECK_PLACE);
        let row = [Value::Text("shop".to_owned()), Value::Number(3)];
        assert_eq!(SIGNING_KEYS.place_of(&row), signing_key_place(&caller, 3), "as it is read");
    }
}
