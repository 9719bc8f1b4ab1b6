//! What is purged, forgotten, and given back to the file system.
//!
//! All of it little by little, for whatever the writer is at, everybody else waits for.

use jiff::Timestamp;
use rusqlite::{Connection, params};

use super::error::Context;
use super::resends;
use super::steps::execute;
use crate::store::{Forgotten, Purged, StoreError};

/// How many pages (of 4 KiB) are given back at a time.
const PAGES_AT_A_TIME: i64 = 256;

/// Free pages are kept for what comes next, an eighth of those in use and so many more: 4 MiB.
const SPARE_PAGES: i64 = 1_024;

/// Purges what delivered callbacks consist of.
pub(super) fn purge(
    database: &Connection,
    before: Timestamp,
    limit: u32,
) -> Result<Purged, StoreError> {
    let doing = "purging callbacks";
    let sql = "UPDATE callbacks SET body = NULL WHERE rowid IN (SELECT rowid FROM callbacks \
        WHERE state = 'delivered' AND body IS NOT NULL AND rested_at < ?1 \
        ORDER BY rested_at LIMIT ?2) RETURNING operation_id, number";
    let mut statement = database.prepare_cached(sql).context(doing)?;
    let row = params![before.as_millisecond(), limit];
    let purged = statement.query_map(row, |row| Ok((row.get(0)?, row.get(1)?))).context(doing)?;
    let purged: Vec<(String, u32)> = purged.collect::<Result<_, _>>().context(doing)?;
    for id in &purged {
        let sql = "DELETE FROM attempts WHERE operation_id = ?1 AND callback_number = ?2";
        execute(database, sql, params![id.0, id.1], doing)?;
        // Where it was the last callback that the operation owed, which is the one that tells its end.
        let sql = "UPDATE operations SET last_body = NULL \
            WHERE id = ?1 AND callbacks = ?2 AND rested_at IS NOT NULL";
        execute(database, sql, params![id.0, id.1], doing)?;
    }
    let callbacks = u32::try_from(purged.len()).unwrap_or(u32::MAX);
    Ok(Purged { callbacks, more: callbacks == limit })
}

pub(super) fn forget(
    database: &Connection,
    before: Timestamp,
    keys_before: Timestamp,
    limit: u32,
) -> Result<Forgotten, StoreError> {
    // Callbacks and attempts go with their operation.
    let sql = "DELETE FROM operations WHERE id IN (SELECT id FROM operations \
        WHERE rested_at < ?1 AND NOT EXISTS (SELECT 1 FROM callbacks \
        WHERE operation_id = operations.id AND (rested_at IS NULL OR rested_at >= ?1)) LIMIT ?2)";
    let row = params![before.as_millisecond(), limit];
    let operations = execute(database, sql, row, "forgetting operations")?;
    let sql = "DELETE FROM idempotency_keys WHERE (caller, key) IN (SELECT caller, key \
        FROM idempotency_keys WHERE first_used_at < ?1 LIMIT ?2)";
    let row = params![keys_before.as_millisecond(), limit];
    let keys = execute(database, sql, row, "forgetting idempotency keys")?;
    let resends = resends::forget(database, before, limit)?;
    Ok(Forgotten {
        operations: u32::try_from(operations).unwrap_or(u32::MAX),
        more: [operations, keys, resends].contains(&(limit as usize)),
    })
}

/// Gives some of the pages that nothing is on back to the file system, where those are many. Whether
/// there are still.
pub(super) fn shrink(database: &Connection) -> Result<bool, StoreError> {
    let doing = "giving back free pages";
    let count = |sql: &str| -> Result<i64, StoreError> {
        let mut statement = database.prepare_cached(sql).context(doing)?;
        statement.query_row([], |row| row.get(0)).context(doing)
    };
    let (free, pages) = (count("PRAGMA freelist_count")?, count("PRAGMA page_count")?);
    let too_many = free - SPARE_PAGES - (pages - free) / 8;
    if too_many <= 0 {
        return Ok(false);
    }
    let sql = format!("PRAGMA incremental_vacuum({})", too_many.min(PAGES_AT_A_TIME));
    let mut statement = database.prepare(&sql).context(doing)?;
    // One page is given back for each row that is asked for.
    let mut given_back = statement.query([]).context(doing)?;
    while given_back.next().context(doing)?.is_some() {}
    Ok(PAGES_AT_A_TIME < too_many)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A database of ours, and how many pages it has, and how many of them are free.
    fn pages(database: &Connection) -> (i64, i64) {
        let count = |name: &str| {
            database.query_row(&format!("PRAGMA {name}"), [], |row| row.get(0)).unwrap()
        };
        (count("page_count"), count("freelist_count"))
    }

    #[test]
    fn a_file_of_which_much_is_free_is_cut_back_by_small_steps_and_left_with_some_to_spare() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bridge.db");
        let mut database = Connection::open(&path).unwrap();
        let set_up = "PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL; \
            PRAGMA synchronous = OFF; CREATE TABLE t (b BLOB)";
        database.execute_batch(set_up).unwrap();
        for _ in 0..3_000 {
            database.execute("INSERT INTO t VALUES (zeroblob(4000))", []).unwrap();
        }
        let (full, _) = pages(&database);
        assert!(!shrink(&database).unwrap(), "nothing is free");
        database.execute("DELETE FROM t WHERE rowid % 20 <> 0", []).unwrap();
        let mut more = true;
        let mut steps = 0;
        while more {
            let (before, _) = pages(&database);
            // As the writer does, together with whatever else has queued.
            let transaction = database.transaction().unwrap();
            more = shrink(&transaction).unwrap();
            transaction.commit().unwrap();
            let (after, _) = pages(&database);
            let given_back = before - after;
            // With them goes a page that told where they belonged to.
            assert!((1..=PAGES_AT_A_TIME + 1).contains(&given_back), "{given_back} in one step");
            steps += 1;
        }
        let (left, free) = pages(&database);
        assert!(steps > 3 && left < full * 2 / 3, "{left} of {full} pages after {steps} steps");
        assert!((SPARE_PAGES..SPARE_PAGES + full / 8 + 2).contains(&free), "{free} to spare");
        assert!(!shrink(&database).unwrap());
        let spared = left - pages(&database).0;
        assert!(spared <= 1, "what is to spare stays, but for {spared}");
        let (left, _) = pages(&database);
        database.execute_batch("PRAGMA wal_checkpoint(PASSIVE)").unwrap();
        let length = std::fs::metadata(&path).unwrap().len();
        assert_eq!(length, u64::try_from(left * 4_096).unwrap(), "the file itself is as short");
    }
}
