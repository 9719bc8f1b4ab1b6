//! Folds the write-ahead log into the database, beside the writer.
//!
//! Left to itself, SQLite does so within a commit, once a thousand pages are in the log: they go to as
//! many places of the file, to be synced there, and all that has queued waits for tens of
//! milliseconds. Here another thread does it while the writer goes on.

use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use rusqlite::hooks::Wal;
use rusqlite::{Connection, OpenFlags};

use super::OpenError;

/// How many pages (of 4 KiB) are folded at a time, about: SQLite's own measure.
const PAGES_AT_A_TIME: i32 = 1_000;

/// The log cannot be begun anew unless all of it is folded, which never comes to pass while a writer
/// that is always busy is a little ahead. From here on it waits, for what little is left: 64 MiB.
const LONGEST_LOG: i32 = 16_384;

/// Lets a thread fold what `writer` commits to the database at `path`; it ends with the connection.
pub(super) fn beside(path: &Path, writer: &mut Connection) -> Result<JoinHandle<()>, OpenError> {
    // Not read-only: a checkpoint writes. It changes nothing that anybody could read.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.execute_batch("PRAGMA synchronous = FULL; PRAGMA busy_timeout = 5000;")?;
    // One signal may wait, which stands for all that has come since.
    let (wake, woken) = sync_channel(1);
    let turn = Arc::new(Mutex::new(()));
    writer.wal_hook(Some(signals(wake, Arc::clone(&turn))))?;
    let thread = std::thread::Builder::new()
        .name("sqlite-checkpoint".to_owned())
        .spawn(move || run(&connection, &woken, &turn));
    thread.map_err(|source| OpenError::Inaccessible { path: path.to_owned(), source })
}

/// What happens after each commit, given how many pages are in the log.
fn signals(
    wake: SyncSender<()>,
    turn: Arc<Mutex<()>>,
) -> impl FnMut(&mut Wal, i32) -> rusqlite::Result<()> + Send + 'static {
    let mut signalled_at = 0;
    move |log, pages| {
        if pages < signalled_at {
            // It has been begun anew.
            signalled_at = 0;
        }
        if pages >= LONGEST_LOG {
            // SQLite would give up at once where the other thread is at it.
            let _mine = turn.lock().unwrap_or_else(PoisonError::into_inner);
            // An error here would be taken for one of the commit, which has succeeded. A reader that
            // stands in the way is gone by the next commit, or the one after.
            drop(log.checkpoint());
        } else if pages - signalled_at >= PAGES_AT_A_TIME {
            signalled_at = pages;
            // Where a signal waits already, that one will do.
            let _full_or_sent = wake.try_send(());
        }
        Ok(())
    }
}

fn run(connection: &Connection, woken: &Receiver<()>, turn: &Mutex<()>) {
    while woken.recv().is_ok() {
        let _mine = turn.lock().unwrap_or_else(PoisonError::into_inner);
        // Passive: it waits for nobody, and leaves what somebody still reads for the next time.
        if let Err(error) = connection.execute_batch("PRAGMA wal_checkpoint(PASSIVE)") {
            tracing::warn!(error = %error, "could not fold the write-ahead log into the database");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::lock::log_path;
    use super::*;

    const PAGE: i32 = 4_096;

    /// A writer to a fresh database, and the thread beside it.
    fn writer(path: &Path) -> (Connection, JoinHandle<()>) {
        let mut writer = Connection::open(path).unwrap();
        let set_up = "PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF; CREATE TABLE t (b BLOB)";
        writer.execute_batch(set_up).unwrap();
        let thread = beside(path, &mut writer).unwrap();
        (writer, thread)
    }

    fn commit(writer: &Connection, pages: i32) {
        writer.execute("INSERT INTO t VALUES (zeroblob(?1))", [PAGE * pages]).unwrap();
    }

    fn length(path: &Path) -> u64 {
        std::fs::metadata(path).map_or(0, |file| file.len())
    }

    fn bytes(pages: i32) -> u64 {
        u64::try_from(pages * PAGE).unwrap()
    }

    #[test]
    fn what_is_in_the_log_is_folded_without_a_commit_that_waits_for_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bridge.db");
        let (writer, _thread) = writer(&path);
        commit(&writer, PAGES_AT_A_TIME / 2);
        assert!(length(&path) < bytes(PAGES_AT_A_TIME / 2), "not before it is worth the while");
        commit(&writer, PAGES_AT_A_TIME);
        let is_folded = || length(&path) >= bytes(PAGES_AT_A_TIME);
        for _ in 0..1_000 {
            if is_folded() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("{} bytes after ten seconds", length(&path));
    }

    #[test]
    fn the_log_of_a_writer_that_never_rests_stays_short_and_its_thread_ends_with_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bridge.db");
        let (writer, thread) = writer(&path);
        let (log, pages_a_commit) = (log_path(&path), 500);
        let mut longest = 0;
        for _ in 0..120 {
            commit(&writer, pages_a_commit);
            longest = longest.max(length(&log));
        }
        // A frame of the log is a page and a little more.
        assert!(longest <= bytes(LONGEST_LOG + 2 * pages_a_commit), "{longest} bytes of log");
        drop(writer);
        thread.join().unwrap();
        assert!(!log.exists(), "the last one to close folds what is left");
    }
}
