//! Hands an installation over from one database to another: what goes over, as plain rows, and what
//! keeps two bridges from polling the same operations meanwhile and ever after.
//!
//! Both kinds of database have the same tables, so a row goes over value by value, and what is sealed
//! goes as it is. Nobody needs the master key for that.
//!
//! A bridge, of whatever version, serves a database only if its master key opens
//! `installation.sealed_check`. So that is the place that says otherwise:
//!
//! * the *target* holds `Check::Unfinished` from before its first row until all is compared,
//! * the *source* holds `Check::Moved` from a moment before the target holds the check itself.
//!
//! So at no moment, and wherever a copy is broken off, can both be served. An earlier version, which
//! knows none of these, says that the master key is wrong, and refuses as well. How far a copy has
//! come is not written down anywhere: rows go over in the order of their keys, so it is read off the
//! last row of each table.

use sha2::{Digest as _, Sha256};

/// A table that both kinds of database have.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Table {
    pub name: String,
    pub columns: Vec<String>,
    /// The positions in `columns` of those that its primary key consists of.
    pub key: Vec<usize>,
}

/// A value in a row.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Value {
    Null,
    Number(i64),
    Text(String),
    Bytes(Vec<u8>),
}

/// Tells one copy from all others.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct CopyId([u8; 16]);

/// What is copied.
#[derive(Clone, Debug)]
pub struct Origin {
    /// What the master key opens; no two installations have the same.
    pub(super) sealed_check: Vec<u8>,
    /// Digest of what would be another if somebody used the database.
    pub(super) state: [u8; 32],
    /// The copy that has taken its place, if one has, and where that is.
    pub(super) moved: Option<(CopyId, String)>,
}

/// What `installation.sealed_check` holds.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Check {
    /// What the master key opens.
    Sealed(Vec<u8>),
    /// Not all rows of a copy may be here.
    Unfinished(Mark),
    /// Another database has taken the place of this one, whose check is kept.
    Moved { copy: CopyId, to: String, sealed_check: Vec<u8> },
}

/// What is known of a copy where it is unfinished.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Mark {
    pub(super) copy: CopyId,
    /// Digest of the source's sealed check.
    installation: [u8; 32],
    /// That of the source when the copy was begun.
    state: [u8; 32],
}

/// How a copy is to go on, given what the target holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Begin {
    /// In a database that must be empty.
    Fresh,
    /// Behind the last rows that are there.
    GoOn(Mark),
    /// Without what is there: the source has been used since.
    Anew,
    /// It is finished.
    Never,
}

/// Why a copy cannot be made.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Refused {
    #[error(
        "the database that is to be copied to is in use, or has been: give one that is empty. \
         It was left as it is"
    )]
    Occupied,
    #[error(
        "the database that is to be copied to holds an unfinished copy of another installation: \
         finish that one, or give an empty database. It was left as it is"
    )]
    AnotherCopy,
    #[error(
        "the installation was moved to {to} already, which has taken its place. If nothing has \
         served that one, `engagement-bridge copy --from … --undo` lets this one be used again"
    )]
    Moved { to: String },
}

const UNFINISHED: &[u8] = b"a copy into this database is unfinished\0";
const MOVED: &[u8] = b"moved to another database\0";

impl Table {
    /// A statement for the next rows in the order of the key, up to `limit`: the first ones, or those
    /// behind the key whose values are its parameters.
    pub(super) fn page(&self, is_behind: bool, limit: usize) -> String {
        let (columns, table, key) = (self.columns.join(", "), &self.name, self.key_columns());
        let parameters: Vec<_> = (1..=self.key.len()).map(|number| format!("${number}")).collect();
        let behind = format!("WHERE ({}) > ({})", key.join(", "), parameters.join(", "));
        let behind = if is_behind { &*behind } else { "" };
        format!("SELECT {columns} FROM {table} {behind} ORDER BY {} LIMIT {limit}", key.join(", "))
    }

    pub(super) fn key_columns(&self) -> Vec<&str> {
        self.key.iter().map(|&column| &*self.columns[column]).collect()
    }

    pub fn key_of(&self, row: &[Value]) -> Vec<Value> {
        self.key.iter().map(|&column| row[column].clone()).collect()
    }
}

impl Value {
    /// Adds the value to a digest, so that no two lists of values have the same.
    pub fn digest(&self, digest: &mut Sha256) {
        let number;
        let (kind, bytes): (u8, &[u8]) = match self {
            Self::Null => (0, &[]),
            Self::Number(it) => {
                number = it.to_be_bytes();
                (1, &number)
            }
            Self::Text(it) => (2, it.as_bytes()),
            Self::Bytes(it) => (3, it),
        };
        digest.update([kind]);
        digest.update((bytes.len() as u64).to_be_bytes());
        digest.update(bytes);
    }

    /// How many bytes it takes in memory, about.
    pub(super) fn size(&self) -> usize {
        size_of::<Self>()
            + match self {
                Self::Null | Self::Number(_) => 0,
                Self::Text(it) => it.len(),
                Self::Bytes(it) => it.len(),
            }
    }
}

/// As somebody would look for it.
impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Number(it) => it.fmt(f),
            Self::Text(it) => it.fmt(f),
            Self::Bytes(it) => it.iter().try_for_each(|byte| write!(f, "{byte:02x}")),
        }
    }
}

impl CopyId {
    /// Another one each time.
    pub(super) fn draw() -> Result<Self, getrandom::Error> {
        let mut drawn = [0; 16];
        getrandom::fill(&mut drawn)?;
        Ok(Self(drawn))
    }
}

impl Origin {
    /// The mark of a copy of it.
    pub(super) fn mark(&self, copy: CopyId) -> Mark {
        Mark { copy, installation: Sha256::digest(&self.sealed_check).into(), state: self.state }
    }

    /// What is to be done about a target that holds `found`.
    pub(super) fn begin(&self, found: Option<&Check>) -> Result<Begin, Refused> {
        match (&self.moved, found) {
            (Some((copy, _)), Some(Check::Unfinished(mark))) if mark.copy == *copy => {
                Ok(Begin::GoOn(*mark))
            }
            (Some(_), Some(Check::Sealed(check))) if *check == self.sealed_check => {
                Ok(Begin::Never)
            }
            (Some((_, to)), _) => Err(Refused::Moved { to: to.clone() }),
            (None, None) => Ok(Begin::Fresh),
            (None, Some(Check::Unfinished(mark))) => {
                let ours = self.mark(mark.copy);
                if *mark == ours {
                    Ok(Begin::GoOn(*mark))
                } else if mark.installation == ours.installation {
                    Ok(Begin::Anew)
                } else {
                    Err(Refused::AnotherCopy)
                }
            }
            (None, Some(Check::Sealed(_) | Check::Moved { .. })) => Err(Refused::Occupied),
        }
    }
}

impl Check {
    pub(super) fn read(bytes: &[u8]) -> Self {
        let unfinished = bytes.strip_prefix(UNFINISHED).and_then(Mark::read).map(Self::Unfinished);
        let moved = || bytes.strip_prefix(MOVED).and_then(Self::read_moved);
        unfinished.or_else(moved).unwrap_or_else(|| Self::Sealed(bytes.to_owned()))
    }

    fn read_moved(bytes: &[u8]) -> Option<Self> {
        let (copy, rest) = bytes.split_first_chunk()?;
        let end = rest.iter().position(|byte| *byte == 0)?;
        let (to, sealed_check) = (String::from_utf8_lossy(&rest[..end]), &rest[end + 1..]);
        Some(Self::Moved {
            copy: CopyId(*copy),
            to: to.into_owned(),
            sealed_check: sealed_check.to_owned(),
        })
    }

    pub(super) fn write(&self) -> Vec<u8> {
        match self {
            Self::Sealed(bytes) => bytes.clone(),
            Self::Unfinished(Mark { copy, installation, state }) => {
                [UNFINISHED, &copy.0, installation, state].concat()
            }
            Self::Moved { copy, to, sealed_check } => {
                [MOVED, &copy.0, to.as_bytes(), &[0], sealed_check].concat()
            }
        }
    }
}

impl Mark {
    fn read(bytes: &[u8]) -> Option<Self> {
        let (copy, rest) = bytes.split_first_chunk()?;
        let (installation, rest) = rest.split_first_chunk()?;
        let state = rest.try_into().ok()?;
        Some(Self { copy: CopyId(*copy), installation: *installation, state })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: CopyId = CopyId([7; 16]);
    const SECOND: CopyId = CopyId([0; 16]);

    fn origin(moved: Option<CopyId>) -> Origin {
        let moved = moved.map(|copy| (copy, "postgres://db/bridge".to_owned()));
        Origin { sealed_check: b"sealed".to_vec(), state: [1; 32], moved }
    }

    #[test]
    fn what_is_written_in_the_place_of_the_check_is_read_again() {
        let mark = origin(None).mark(FIRST);
        let moved = Check::Moved {
            copy: SECOND,
            to: "postgres://db/bridge".to_owned(),
            sealed_check: vec![0, 1, 0],
        };
        for check in [Check::Sealed(vec![1, 2, 3]), Check::Unfinished(mark), moved] {
            assert_eq!(Check::read(&check.write()), check);
        }
        let cut_off = &Check::Unfinished(mark).write()[..90];
        assert_eq!(Check::read(cut_off), Check::Sealed(cut_off.to_owned()), "opened by no key");
    }

    #[test]
    fn a_copy_goes_on_only_where_all_that_is_there_is_its_own() {
        let (fresh, copied) = (origin(None), origin(Some(FIRST)));
        let used = Origin { state: [2; 32], ..origin(None) };
        let other = Origin { sealed_check: b"other".to_vec(), ..origin(None) };
        let (mark, another_mark) = (fresh.mark(FIRST), fresh.mark(SECOND));
        let (ours, theirs) = (Check::Sealed(b"sealed".to_vec()), Check::Sealed(b"other".to_vec()));
        let moved = Err(Refused::Moved { to: "postgres://db/bridge".to_owned() });
        let [mark_found, another_mark_found] = [mark, another_mark].map(Check::Unfinished);
        for (source, found, expected) in [
            (&fresh, None, Ok(Begin::Fresh)),
            (&fresh, Some(&mark_found), Ok(Begin::GoOn(mark))),
            (&used, Some(&mark_found), Ok(Begin::Anew)),
            (&other, Some(&mark_found), Err(Refused::AnotherCopy)),
            (&fresh, Some(&ours), Err(Refused::Occupied)),
            (&fresh, Some(&theirs), Err(Refused::Occupied)),
            (&copied, Some(&mark_found), Ok(Begin::GoOn(mark))),
            (&copied, Some(&another_mark_found), moved.clone()),
            (&copied, Some(&ours), Ok(Begin::Never)),
            (&copied, Some(&theirs), moved.clone()),
            (&copied, None, moved),
        ] {
            assert_eq!(source.begin(found), expected, "{source:?} and {found:?}");
        }
    }

    #[test]
    fn rows_of_other_values_have_another_digest() {
        let digest = |values: &[Value]| {
            let mut digest = Sha256::new();
            for value in values {
                value.digest(&mut digest);
            }
            digest.finalize()
        };
        let text = |text: &str| Value::Text(text.to_owned());
        let rows = [
            vec![text("ab"), text("c")],
            vec![text("a"), text("bc")],
            vec![Value::Bytes(b"ab".to_vec()), text("c")],
            vec![text("abc")],
            vec![Value::Null],
            vec![text("")],
            vec![Value::Number(0)],
        ];
        let digests: std::collections::BTreeSet<_> = rows.iter().map(|it| digest(it)).collect();
        assert_eq!(digests.len(), rows.len());
    }
}
