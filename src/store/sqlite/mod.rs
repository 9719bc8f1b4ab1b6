//! One file beside the process, and no server.
//!
//! WAL with `synchronous=FULL`, so that what is committed survives the machine; one writer that
//! commits whatever has queued as one transaction; readers beside it. A lock file keeps a second
//! process from the same database, whose writer would not know of ours.

mod audit;
mod backup;
mod callback_options;
mod checkpoint;
mod connections;
mod destinations;
mod directory;
mod error;
mod export;
mod figures;
mod handshakes;
mod lives;
mod lock;
mod log;
mod reader;
mod resends;
mod retention;
mod row;
mod safe;
mod schedule;
mod schema;
mod sign_ins;
mod sound;
mod steps;
mod user_grants;
mod wakings;
mod writer;

use std::collections::HashMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OptionalExtension as _, params, params_from_iter};

use self::directory::KnownDirectory;
use self::error::Context;
use self::lock::Lock;
use self::reader::Readers;
use self::writer::Writer;
use super::handover::Check;
use super::sealed::{CHECK, CHECK_PLACE};
use super::{
    Advance, Advanced, Amended, Amendment, Asked, Attempt, Batch, CallbackFilter, CallerName,
    CannotOpen, Claimed, Commit, Committed, Forgotten, GoneDestination, Handshake, Migrated,
    OperationFilter, Page, Purged, Registered, Registration, Resend, ResendId, Store, StoreError,
    StoredCallback, Tracked, Waking,
};
use crate::callback::CallbackId;
use crate::lane::{self, LaneName};
use crate::metrics::Metrics;
use crate::operation::OperationId;
use crate::vault::{Vault, VaultError};

pub use self::backup::{Backup, BackupError, backup};
pub use self::export::{Source, unmark};
pub use self::lock::holder;

/// An open database.
#[derive(Debug)]
pub struct SqliteStore {
    // Declared, and so dropped, before the lock: no second process may come while we still write,
    // and it is the lock that says how we left the database.
    writer: Writer,
    readers: Readers,
    known: Arc<KnownDirectory>,
    vault: Vault,
    policy: lane::Policy,
    /// The lane after which the next batch of forgetting goes on, so that a round of them comes by
    /// each.
    lanes_forgotten_to: AtomicI64,
    lock: Lock,
}

/// Why a database could not be opened, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{path} is in use by another process: stop that one first, or use its API")]
    InUse { path: PathBuf },
    #[error("{path} cannot be opened: its directory must exist and be writable for this user")]
    Inaccessible {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(
        "the database has schema version {found}, this program knows {ours}: \
         use the newer program that wrote it, or restore a backup from before"
    )]
    NewerVersion { found: usize, ours: usize },
    #[error(
        "the database has schema version {found}, this program needs {ours}: \
         bring it up to date with `engagement-bridge migrate` first"
    )]
    OlderVersion { found: usize, ours: usize },
    #[error("there is no database in {path}: `engagement-bridge serve` makes one")]
    NotThere { path: PathBuf },
    #[error(
        "{path} was moved to {to}, which has taken its place: start the bridge on that one. If \
         nothing has served that, `engagement-bridge copy --from {path} --undo` lets this one be \
         used again"
    )]
    Moved { path: PathBuf, to: String },
    #[error("{path} was not moved elsewhere, so there is nothing to undo")]
    NotMoved { path: PathBuf },
    #[error(
        "the file is a database of some other program: choose another path, \
         or restore a backup if it was ours"
    )]
    NotOurs,
    #[error("{path} cannot be written to: check its permissions and mount options")]
    ReadOnly { path: PathBuf },
    #[error("{path} is not a file: name one, and the database is made there")]
    NotAFile { path: PathBuf },
    #[error(
        "{path} is empty, and was not before: restore a backup, \
         or remove {path}, {path}-wal and {path}.lock to begin anew"
    )]
    Emptied { path: PathBuf },
    #[error(
        "the database is damaged ({found}) and was left as it is: restore a backup, \
         or choose another path if the file is none of ours"
    )]
    Damaged { found: String },
    #[error(
        "the master key does not open this database: give the one it was made with, or add that behind \
         the first. Nothing was changed"
    )]
    OtherKeys(#[source] CannotOpen),
    #[error("the master key does not open this database: give the one it was made with")]
    WrongKey(#[source] VaultError),
    #[error("the database cannot be read or written: restore a backup if that does not pass")]
    Database(#[source] rusqlite::Error),
    #[error("the database cannot be read")]
    Unreadable(#[from] StoreError),
    #[error("the vault cannot seal")]
    Vault(#[source] VaultError),
}

impl SqliteStore {
    /// Opens the database at `path`, made new if there is none, and brings it up to date.
    ///
    /// Blocks while it works.
    pub fn open(path: &Path, vault: Vault, policy: lane::Policy) -> Result<Self, OpenError> {
        let is_there = path.exists();
        let mut lock = lock(path)?;
        let (connection, _) = connect(path, &lock, is_there)?;
        check_key(path, &connection, &vault)?;
        let damage = lock.opened().map_err(inaccessible(path))?;
        let writer = Writer::start(path, connection, damage.clone())?;
        let (readers, known) = (Readers::new(path, damage), Arc::default());
        let lanes_forgotten_to = AtomicI64::default();
        Ok(Self { writer, readers, known, vault, policy, lanes_forgotten_to, lock })
    }

    /// Has transactions counted from now on.
    pub fn count_by(&self, metrics: &Arc<Metrics>) {
        self.writer.count_by(metrics);
    }

    /// Leaves word, for other commands on the same machine, of where this process can be asked.
    pub fn announce(&self, word: &str) -> std::io::Result<()> {
        self.lock.announce(word)
    }
}

impl From<rusqlite::Error> for OpenError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                Self::Damaged { found: error.to_string() }
            }
            _ => Self::Database(error),
        }
    }
}

/// Brings the database at `path` up to date, and does nothing else with it. Blocks while it works.
pub fn migrate(path: &Path) -> Result<Migrated, OpenError> {
    let mut lock = lock_existing(path)?;
    let (_connection, had) = connect(path, &lock, true)?;
    lock.opened().map_err(inaccessible(path))?;
    Ok(Migrated { had, has: schema::VERSION })
}

/// Keeps other processes from the database at `path`, which may not be there yet.
fn lock(path: &Path) -> Result<Lock, OpenError> {
    if std::fs::metadata(path).is_ok_and(|there| !there.is_file()) {
        return Err(OpenError::NotAFile { path: path.to_owned() });
    }
    let lock = Lock::take(path)?;
    if lock.is_log_alone() {
        return Err(OpenError::Emptied { path: path.to_owned() });
    }
    Ok(lock)
}

/// The same, where it has to be there.
fn lock_existing(path: &Path) -> Result<Lock, OpenError> {
    let not_there = || OpenError::NotThere { path: path.to_owned() };
    // Before the lock, or a file of that would be left where no database is.
    let there = match std::fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Err(not_there()),
        there => there.map_err(inaccessible(path))?,
    };
    let lock = lock(path)?;
    match there.len() {
        0 if lock.was_made_before() => Err(OpenError::Emptied { path: path.to_owned() }),
        0 => Err(not_there()),
        _ => Ok(lock),
    }
}

fn inaccessible(path: &Path) -> impl Fn(std::io::Error) -> OpenError {
    move |source| OpenError::Inaccessible { path: path.to_owned(), source }
}

/// A connection to a database that is ours, sound, and up to date, and the version that it had.
fn connect(path: &Path, lock: &Lock, is_there: bool) -> Result<(Connection, usize), OpenError> {
    let mut connection = Connection::open(path)?;
    // What is refused is left as it is, its log too.
    let keep_log = DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE;
    connection.set_db_config(keep_log, true)?;
    let version = schema::check_version(&connection)?;
    if connection.is_readonly("main")? {
        return Err(OpenError::ReadOnly { path: path.to_owned() });
    }
    if version == 0 && is_there && lock.was_made_before() {
        return Err(OpenError::Emptied { path: path.to_owned() });
    }
    if 0 < version {
        look_for_damage(path, &connection, lock)?;
    }
    connection.execute_batch(
        "PRAGMA busy_timeout = 5000;
         PRAGMA auto_vacuum = INCREMENTAL;
         PRAGMA journal_mode = WAL;
         PRAGMA synchronous = FULL;
         PRAGMA foreign_keys = ON;
         PRAGMA temp_store = MEMORY;
         PRAGMA cache_size = -65536;
         PRAGMA journal_size_limit = 67108864;",
    )?;
    connection.set_prepared_statement_cache_capacity(128);
    // Or SQLite would plan a statement anew for the values that it is given.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    schema::migrate(&mut connection, version)?;
    sound::check_schema(&connection)?;
    connection.set_db_config(keep_log, false)?;
    Ok((connection, version))
}

/// Unless the last process has left it well.
fn look_for_damage(path: &Path, connection: &Connection, lock: &Lock) -> Result<(), OpenError> {
    if lock.is_as_left() {
        return Ok(());
    }
    tracing::info!("the database was not closed by a clean stop: looking for damage");
    if let Some(length) = lock.length_of_all() {
        sound::check_length(connection, length)?;
    }
    log::check(&lock::log_path(path))?;
    sound::check_pages(connection)
}

/// What `installation` holds, if a bridge has been here.
fn check(connection: &Connection) -> rusqlite::Result<Option<Check>> {
    let sql = "SELECT sealed_check FROM installation";
    let found: Option<Vec<u8>> = connection.query_row(sql, [], |row| row.get(0)).optional()?;
    Ok(found.map(|bytes| Check::read(&bytes)))
}

fn check_key(path: &Path, connection: &Connection, vault: &Vault) -> Result<(), OpenError> {
    match check(connection)? {
        None => {
            let sealed = vault.seal(CHECK_PLACE, CHECK).map_err(OpenError::Vault)?;
            let sql = "INSERT INTO installation (only_one, sealed_check) VALUES (1, ?1)";
            connection.execute(sql, [sealed])?;
            Ok(())
        }
        Some(Check::Moved { to, .. }) => Err(OpenError::Moved { path: path.to_owned(), to }),
        Some(check @ (Check::Sealed(_) | Check::Unfinished(_))) => {
            safe::look_for_other_keys(connection, vault)?.map_err(OpenError::OtherKeys)?;
            vault.open(CHECK_PLACE, &check.write()).map(drop).map_err(OpenError::WrongKey)
        }
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn register(
        &self,
        registrations: Vec<Registration>,
    ) -> Result<Vec<Registered>, StoreError> {
        let (vault, policy) = (self.vault.clone(), self.policy.clone());
        let register = move |database: &Connection| {
            let register = |it: &Registration| steps::register(database, &vault, &policy, it);
            registrations.iter().map(register).collect()
        };
        self.writer.run(register).await
    }

    async fn claim(
        &self,
        now: Timestamp,
        lease: Duration,
        hands: usize,
    ) -> Result<Vec<Claimed>, StoreError> {
        let (vault, policy) = (self.vault.clone(), self.policy.clone());
        let claim =
            move |database: &Connection| steps::claim(database, &vault, &policy, now, lease, hands);
        self.writer.run(claim).await
    }

    async fn commit(&self, commits: Arc<Vec<Commit>>) -> Result<Vec<Committed>, StoreError> {
        let policy = self.policy.clone();
        let commit = move |database: &Connection| steps::commit(database, &policy, &commits);
        self.writer.run(commit).await
    }

    async fn next_due(&self) -> Result<Option<Timestamp>, StoreError> {
        self.readers.run(schedule::next_due).await
    }

    async fn rest_graph_lanes(&self, until: Timestamp) -> Result<(), StoreError> {
        self.writer.run(move |database| schedule::rest_graph_lanes(database, until)).await
    }

    async fn amend(&self, amendment: Amendment) -> Result<Amended, StoreError> {
        let (vault, policy) = (self.vault.clone(), self.policy.clone());
        let amend =
            move |database: &Connection| steps::amend(database, &vault, &policy, &amendment);
        self.writer.run(amend).await
    }

    async fn operation(&self, id: OperationId) -> Result<Option<Tracked>, StoreError> {
        self.readers.run(move |database| lives::operation(database, id)).await
    }

    async fn operations(
        &self,
        caller: &CallerName,
        filter: OperationFilter,
        page: Page<OperationId>,
    ) -> Result<Vec<Tracked>, StoreError> {
        let caller = caller.clone();
        let list = move |database: &Connection| {
            let after = page.after.map(|id| id.to_string());
            let by_state = if filter.state.is_some() { "AND state = ?4" } else { "AND ?4 IS NULL" };
            let by_connection =
                if filter.connection.is_some() { "AND connection = ?5" } else { "AND ?5 IS NULL" };
            let behind = if after.is_some() { "AND id < ?2" } else { "AND ?2 IS NULL" };
            let sql = format!(
                "SELECT * FROM operations WHERE caller = ?1 {behind} {by_state} {by_connection} \
                 ORDER BY id DESC LIMIT ?3"
            );
            let params =
                params![caller.as_str(), after, page.limit, filter.state, filter.connection];
            list(database, &sql, params, lives::tracked)
        };
        self.readers.run(list).await
    }

    async fn callback(&self, id: CallbackId) -> Result<Option<StoredCallback>, StoreError> {
        self.readers.run(move |database| lives::callback(database, id)).await
    }

    async fn callbacks(
        &self,
        caller: &CallerName,
        filter: CallbackFilter,
        page: Page<CallbackId>,
    ) -> Result<Vec<StoredCallback>, StoreError> {
        let conditions = filter.conditions(caller, &page);
        let list = move |database: &Connection| {
            let sql = format!(
                "SELECT * FROM callbacks WHERE {} ORDER BY operation_id DESC, number DESC LIMIT {}",
                conditions.sql(),
                page.limit
            );
            let params = params_from_iter(conditions.values());
            list(database, &sql, params, lives::stored_callback)
        };
        self.readers.run(list).await
    }

    async fn attempts(&self, id: CallbackId, limit: u32) -> Result<Vec<Attempt>, StoreError> {
        self.readers.run(move |database| steps::attempts(database, id, limit)).await
    }

    async fn latest_attempts(
        &self,
        ids: Vec<CallbackId>,
    ) -> Result<HashMap<CallbackId, Attempt>, StoreError> {
        let latest = move |database: &Connection| {
            let mut found = HashMap::new();
            for id in ids {
                found.extend(steps::attempts(database, id, 1)?.pop().map(|it| (id, it)));
            }
            Ok(found)
        };
        self.readers.run(latest).await
    }

    async fn ask_resend(&self, resend: Resend, live_limit: u32) -> Result<Asked, StoreError> {
        let counted = resend.clone();
        let matched = self.readers.run(move |database| resends::count(database, &counted)).await?;
        let resend = Resend { matched, ..resend };
        self.writer.run(move |database| resends::ask(database, &resend, live_limit)).await
    }

    async fn resend(&self, id: ResendId) -> Result<Option<Resend>, StoreError> {
        self.readers.run(move |database| resends::one(database, id)).await
    }

    async fn resends(
        &self,
        asked_by: Option<&CallerName>,
        page: Page<ResendId>,
    ) -> Result<Vec<Resend>, StoreError> {
        let asked_by = asked_by.cloned();
        let list = move |database: &Connection| resends::page(database, asked_by.as_ref(), &page);
        self.readers.run(list).await
    }

    async fn resends_under_way(&self, limit: u32) -> Result<Vec<Resend>, StoreError> {
        self.readers.run(move |database| resends::under_way(database, limit)).await
    }

    async fn resend_batch(
        &self,
        resend: &Resend,
        limit: u32,
        now: Timestamp,
        crowd: u32,
    ) -> Result<Batch, StoreError> {
        let resend = resend.clone();
        let batch = move |database: &Connection| {
            let mut batch = resends::batch(database, &resend, limit)?;
            for (lane, waiting) in &mut batch.waiting {
                *waiting = schedule::waiting(database, lane, now, crowd)?;
            }
            Ok(batch)
        };
        self.readers.run(batch).await
    }

    async fn advance_resend(&self, advance: Arc<Advance>) -> Result<Advanced, StoreError> {
        let policy = self.policy.clone();
        self.writer.run(move |database| resends::advance(database, &policy, &advance)).await
    }

    async fn ask_waking(&self, waking: Waking) -> Result<(), StoreError> {
        self.writer.run(move |database| wakings::ask(database, &waking)).await
    }

    async fn wakings(&self, limit: u32) -> Result<Vec<Waking>, StoreError> {
        self.readers.run(move |database| wakings::oldest(database, limit)).await
    }

    async fn finish_waking(&self, waking: &Waking) -> Result<(), StoreError> {
        let waking = waking.clone();
        self.writer.run(move |database| wakings::finish(database, &waking)).await
    }

    async fn gone_destinations(
        &self,
        caller: &CallerName,
        page: Page<String>,
    ) -> Result<Vec<GoneDestination>, StoreError> {
        let caller = caller.clone();
        self.readers.run(move |database| destinations::page(database, &caller, &page)).await
    }

    async fn bring_back(&self, caller: &CallerName, url: &str) -> Result<bool, StoreError> {
        let (caller, url) = (caller.clone(), url.to_owned());
        let back =
            move |database: &Connection| destinations::bring_back(database, caller.as_str(), &url);
        self.writer.run(back).await
    }

    async fn purge(&self, before: Timestamp, limit: u32) -> Result<Purged, StoreError> {
        let purge = move |database: &Connection| retention::purge(database, before, limit);
        let purged = self.writer.run(purge).await?;
        let more = self.writer.run(retention::shrink).await?;
        Ok(Purged { more: purged.more || more, ..purged })
    }

    async fn handshake(&self, lane: &LaneName) -> Result<Option<Handshake>, StoreError> {
        let lane = lane.clone();
        self.readers.run(move |database| handshakes::find(database, &lane)).await
    }

    async fn keep_handshake(
        &self,
        lane: &LaneName,
        handshake: Handshake,
    ) -> Result<(), StoreError> {
        let lane = lane.clone();
        self.writer.run(move |database| handshakes::keep(database, &lane, &handshake)).await
    }

    async fn forget_handshakes(&self, before: Timestamp, limit: u32) -> Result<u32, StoreError> {
        self.writer.run(move |database| handshakes::forget(database, before, limit)).await
    }

    async fn forget(
        &self,
        before: Timestamp,
        keys_before: Timestamp,
        now: Timestamp,
        limit: u32,
    ) -> Result<Forgotten, StoreError> {
        let last = self.lanes_forgotten_to.load(Ordering::Relaxed);
        let find = move |database: &Connection| schedule::unused_lanes(database, last, limit);
        let unused = self.readers.run(find).await?;
        let go_on_after = unused.last().copied().filter(|_| unused.len() == limit as usize);
        let forget = move |database: &Connection| {
            let forgotten = retention::forget(database, before, keys_before, limit)?;
            schedule::forget_lanes(database, &unused, now)?;
            Ok(forgotten)
        };
        let forgotten = self.writer.run(forget).await?;
        let is_large = self.writer.run(retention::shrink).await?;
        self.lanes_forgotten_to.store(go_on_after.unwrap_or_default(), Ordering::Relaxed);
        let more = forgotten.more || go_on_after.is_some() || is_large;
        Ok(Forgotten { more, ..forgotten })
    }
}

fn list<T>(
    database: &Connection,
    sql: &str,
    params: impl rusqlite::Params,
    mut read: impl FnMut(&rusqlite::Row<'_>) -> Result<T, StoreError>,
) -> Result<Vec<T>, StoreError> {
    let mut statement = database.prepare_cached(sql).context("listing")?;
    let rows = statement.query_map(params, |row| Ok(read(row))).context("listing")?;
    rows.map(|row| row.context("listing")?).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_committed_survives_a_power_cut_and_the_file_does_not_grow_for_good() {
        let directory = tempfile::tempdir().unwrap();
        let vault = Vault::new(&crate::vault::MasterKey::generate().unwrap());
        let path = directory.path().join("bridge.db");
        let store = SqliteStore::open(&path, vault, lane::Policy::default()).unwrap();
        let pragma = async |name: &'static str| {
            let read = move |connection: &Connection| {
                let sql = format!("PRAGMA {name}");
                let value =
                    connection.query_row(&sql, [], |row| row.get::<_, rusqlite::types::Value>(0));
                Ok(format!("{:?}", value.context("testing")?))
            };
            store.writer.run(read).await.unwrap()
        };
        assert_eq!(pragma("journal_mode").await, "Text(\"wal\")");
        assert_eq!(pragma("synchronous").await, "Integer(2)", "FULL");
        assert_eq!(pragma("foreign_keys").await, "Integer(1)");
        assert_eq!(pragma("auto_vacuum").await, "Integer(2)", "INCREMENTAL");
    }
}
