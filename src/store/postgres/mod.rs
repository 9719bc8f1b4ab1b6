//! One database for several replicas of the bridge: PostgreSQL, or an engine with its protocol.
//!
//! What the one writer is for SQLite, row locks are here. Every transaction takes them in the same
//! order: keys, operations and steps, then lanes by number, and so hardly ever meets another in a
//! circle; where two do, one of them is tried again. Two rules keep a step from being forgotten:
//!
//! * Whoever plans a step locks its lane first, and so does whoever works out when a lane is ready
//!   again. Otherwise each could miss what the other has not committed yet.
//! * A claim waits for the lane that has been ready for longest, and passes over those that others
//!   hold. So it never waits while it holds one, and no busy lane is passed over for ever.
//!
//! No transaction is held while anything outside is asked.

mod connect;
mod error;
mod row;
mod schema;

use std::path::PathBuf;

use crate::store::StoreError;
use crate::tls::TlsError;
use crate::vault::VaultError;

pub use connect::{Address, InvalidAddress};

/// Why a database could not be opened, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(
        "the database has schema version {found}, this program knows {ours}: \
         use the newer program that wrote it"
    )]
    NewerVersion { found: usize, ours: usize },
    #[error("the master key does not open this database: give the one it was made with")]
    WrongKey(#[source] VaultError),
    #[error("the vault cannot seal")]
    Vault(#[source] VaultError),
    #[error("cannot read the root certificates in {path}")]
    Roots {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("cannot keep connections")]
    Pool(#[source] anyhow::Error),
    #[error("the database cannot be reached or used")]
    Database(#[from] StoreError),
}
