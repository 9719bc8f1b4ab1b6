//! Databases that are not what was written: each is refused, or all is there.

use std::fs;
use std::path::PathBuf;

use engagement_bridge::lane;
use engagement_bridge::store::sqlite::{OpenError, SqliteStore};
use engagement_bridge::store::{
    Connections as _, Directory as _, OperationFilter, Page, Registered, Store as _, StoreError,
};
use engagement_bridge::vault::{MasterKey, Vault};

use crate::support::{self, NOON, caller, registration};

const PAGE: usize = 4_096;
const LOG_HEADER: usize = 32;
const FRAME_HEADER: usize = 24;

/// A database as a clean stop leaves it.
struct Made {
    directory: tempfile::TempDir,
    vault: Vault,
}

impl Made {
    /// Of so many operations, each in a commit of its own.
    async fn with(operations: u32) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let made = Self { directory, vault: Vault::new(&MasterKey::generate().unwrap()) };
        let store = made.open().unwrap();
        let secret = support::SECRET.parse().unwrap();
        store.add_caller(&caller("contoso"), support::api_key("a"), &secret, NOON).await.unwrap();
        let connection = support::connection("contoso");
        store.add_connection(&caller("contoso"), &connection, NOON).await.unwrap();
        for n in 1..=operations {
            made.register(&store, n).await.unwrap();
        }
        drop(store);
        made
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("bridge.db")
    }

    fn log(&self) -> PathBuf {
        self.directory.path().join("bridge.db-wal")
    }

    fn open(&self) -> Result<SqliteStore, OpenError> {
        SqliteStore::open(&self.path(), self.vault.clone(), lane::Policy::default())
    }

    async fn register(&self, store: &SqliteStore, n: u32) -> Result<(), StoreError> {
        let registered = store.register(vec![registration(n)]).await?;
        assert!(matches!(registered[..], [Registered::New]), "{registered:?}");
        Ok(())
    }

    /// What is wrong with these bytes as a database; nothing, where all is there that was.
    async fn refusal_of(&self, bytes: &[u8], all: &[String]) -> Option<OpenError> {
        fs::write(self.path(), bytes).unwrap();
        let store = match self.open() {
            Ok(store) => store,
            Err(error) => {
                assert_eq!(fs::read(self.path()).unwrap(), bytes, "not left as it was: {error}");
                return Some(error);
            }
        };
        assert_eq!(operations(&store).await.unwrap(), all);
        None
    }
}

async fn operations(store: &SqliteStore) -> Result<Vec<String>, StoreError> {
    let (filter, page) = (OperationFilter::default(), Page { after: None, limit: 1_000 });
    let operations = store.operations(&caller("contoso"), filter, page).await?;
    Ok(operations.iter().rev().map(|it| format!("{it:?}")).collect())
}

fn is_damage(error: &OpenError) -> bool {
    matches!(error, OpenError::Damaged { .. })
}

fn flipped(bytes: &[u8], at: usize, bits: u8) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at] ^= bits;
    bytes
}

#[tokio::test]
async fn a_file_that_is_cut_off_is_refused_wherever_it_is() {
    let made = Made::with(60).await;
    let all = operations(&made.open().unwrap()).await.unwrap();
    let whole = fs::read(made.path()).unwrap();
    let half = whole.len() / 2;
    for length in [0, 1, 15, 16, 60, 99, 100, 511, 512, PAGE - 1, PAGE, half, half + 1] {
        let refusal = made.refusal_of(&whole[..length], &all).await;
        let expected = refusal.as_ref().is_some_and(|refusal| match length {
            0 | 1 => matches!(refusal, OpenError::Emptied { .. }),
            _ => is_damage(refusal),
        });
        assert!(expected, "{length}: {refusal:?}");
    }
    for cut in [1, PAGE - 1, PAGE, 2 * PAGE] {
        let refusal = made.refusal_of(&whole[..whole.len() - cut], &all).await;
        assert!(refusal.as_ref().is_some_and(is_damage), "-{cut}: {refusal:?}");
    }
    assert!(made.refusal_of(&whole, &all).await.is_none());
}

#[tokio::test]
async fn whatever_is_changed_in_the_header_either_nothing_is_lost_or_it_is_refused() {
    let made = Made::with(10).await;
    let all = operations(&made.open().unwrap()).await.unwrap();
    let whole = fs::read(made.path()).unwrap();
    let mut refused = 0;
    for at in 0..100 {
        for bits in [0x01, 0xff] {
            let refusal = made.refusal_of(&flipped(&whole, at, bits), &all).await;
            refused += u32::from(refusal.is_some());
            let expected = refusal.as_ref().is_none_or(|refusal| match at {
                // Which programs may write.
                18 => matches!(refusal, OpenError::ReadOnly { .. }),
                // The format of the schema.
                44..48 => is_damage(refusal) || matches!(refusal, OpenError::Database(_)),
                // The version of our schema, and the mark that the file is ours.
                60..64 => is_damage(refusal) || matches!(refusal, OpenError::NewerVersion { .. }),
                68..72 => matches!(refusal, OpenError::NotOurs),
                _ => is_damage(refusal),
            });
            assert!(expected, "byte {at}: {refusal:?}");
        }
    }
    assert!(60 < refused, "only {refused} of 200 were noticed");
}

#[tokio::test]
async fn no_page_of_a_table_or_an_index_can_lose_its_shape_unnoticed() {
    let made = Made::with(60).await;
    let all = operations(&made.open().unwrap()).await.unwrap();
    let whole = fs::read(made.path()).unwrap();
    let pages = whole.len() / PAGE;
    assert!(30 < pages, "there are few pages to speak of");
    for page in 0..pages {
        // Past the file's own header, its first page is like any other.
        let begins_at = if page == 0 { 100 } else { page * PAGE };
        // The kind of the page, the number of its cells, and where they are.
        for at in [begins_at, begins_at + 4, begins_at + 5] {
            let refusal = made.refusal_of(&flipped(&whole, at, 0xff), &all).await;
            assert!(refusal.as_ref().is_some_and(is_damage), "page {page}, byte {at}: {refusal:?}");
        }
    }
}

#[tokio::test]
async fn a_letter_that_changed_in_the_definition_of_a_table_is_noticed() {
    let made = Made::with(1).await;
    let all = operations(&made.open().unwrap()).await.unwrap();
    let whole = fs::read(made.path()).unwrap();
    for (column, owner) in [("last_body BLOB", "operations"), ("failures INTEGER", "lanes")] {
        let mut damaged = whole.clone();
        // More than once: pages hold remains of what has moved elsewhere.
        for at in 0..=whole.len() - column.len() {
            if whole[at..].starts_with(column.as_bytes()) {
                damaged[at] ^= 0x02;
            }
        }
        let refusal = made.refusal_of(&damaged, &all).await.unwrap();
        assert!(is_damage(&refusal), "{refusal:?}");
        assert!(refusal.to_string().contains(&format!("table {owner}")), "{refusal}");
    }
}

#[tokio::test]
async fn damage_met_while_running_is_said_to_be_damage_and_is_looked_for_at_the_next_start() {
    let made = Made::with(20).await;
    let store = made.open().unwrap();
    let whole = fs::read(made.path()).unwrap();
    let mut damaged = whole.clone();
    damaged[PAGE..].fill(0xa5);
    fs::write(made.path(), &damaged).unwrap();
    let read = operations(&store).await.unwrap_err();
    assert!(matches!(read, StoreError::Damaged(_)), "{read:?}");
    let written = made.register(&store, 21).await.unwrap_err();
    assert!(matches!(written, StoreError::Damaged(_)), "{written:?}");
    drop(store);
    let refusal = made.open().unwrap_err();
    assert!(is_damage(&refusal), "{refusal:?}");

    fs::write(made.path(), &whole).unwrap();
    let store = made.open().unwrap();
    assert_eq!(operations(&store).await.unwrap().len(), 20);
    made.register(&store, 21).await.unwrap();
}

/// What a process leaves that is killed after twelve commits of an operation each.
struct Killed {
    made: Made,
    all: Vec<String>,
    database: Vec<u8>,
    log: Vec<u8>,
    /// How long the log was after each.
    lengths: Vec<usize>,
}

impl Killed {
    async fn begin() -> Self {
        let made = Made::with(0).await;
        let store = made.open().unwrap();
        let mut lengths = Vec::new();
        for n in 1..=12 {
            made.register(&store, n).await.unwrap();
            lengths.push(fs::read(made.log()).unwrap().len());
        }
        let all = operations(&store).await.unwrap();
        let (database, log) = (fs::read(made.path()).unwrap(), fs::read(made.log()).unwrap());
        assert!(12 * (FRAME_HEADER + PAGE) <= log.len(), "the commits are not in the log");
        Self { made, all, database, log, lengths }
    }

    fn open_with(&self, log: &[u8]) -> Result<SqliteStore, OpenError> {
        fs::write(self.made.path(), &self.database).unwrap();
        fs::write(self.made.log(), log).unwrap();
        self.made.open()
    }
}

#[tokio::test]
async fn a_log_that_is_cut_off_costs_what_was_behind_the_cut_and_nothing_else() {
    let killed = Killed::begin().await;
    let (log, lengths) = (&killed.log, &killed.lengths);
    let odd = (0..log.len()).step_by(5_000);
    for length in odd.chain(lengths.iter().flat_map(|it| [it - 1, *it])) {
        let store = killed.open_with(&log[..length]).unwrap();
        let kept = lengths.iter().filter(|whole| **whole <= length).count();
        assert_eq!(operations(&store).await.unwrap(), killed.all[..kept], "{length} bytes");
    }
}

#[tokio::test]
async fn a_log_that_is_wrong_before_its_last_commit_is_refused_with_the_log_kept() {
    let killed = Killed::begin().await;
    let (log, lengths) = (&killed.log, &killed.lengths);
    let before_last = lengths[lengths.len() - 2];
    let headers = (LOG_HEADER..log.len()).step_by(FRAME_HEADER + PAGE);
    // The number of the page, the sum, and the page itself, in turns.
    let parts = [3, 17, FRAME_HEADER + 90].into_iter().cycle();
    let of_frames = headers.zip(parts).map(|(frame, part)| frame + part);
    for at in [1, 9, 18, 25].into_iter().chain(of_frames) {
        let changed = flipped(log, at, 0x10);
        match killed.open_with(&changed) {
            Ok(store) => {
                assert!(before_last <= at, "byte {at}");
                assert_eq!(operations(&store).await.unwrap(), killed.all[..11], "byte {at}");
            }
            Err(error) => {
                assert!(is_damage(&error) && at < before_last, "byte {at}: {error:?}");
                assert!(error.to_string().contains("log"), "byte {at}: {error}");
                assert_eq!(fs::read(killed.made.log()).unwrap(), changed);
            }
        }
    }
    assert_eq!(operations(&killed.open_with(log).unwrap()).await.unwrap(), killed.all);
}
