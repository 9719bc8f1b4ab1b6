//! New operations as rows: a few by a statement, and many copied in.

use std::collections::HashMap;

use deadpool_postgres::Transaction;
use tokio_postgres::types::ToSql;

use super::copy::CopyIn;
use super::error::{Context as _, both, is_there_already};
use super::lives::with_columns;
use super::register::Prepared;
use super::row::Columns;
use super::rows;
use crate::courier::Trace;
use crate::operation::{Operation, OperationId};
use crate::store::columns::{Fields as _, StateColumns};
use crate::store::{Registration, StoreError};

/// Writes one row of a copy.
macro_rules! write_row {
    ($copy:expr, $number:expr, $row:expr, |$pattern:pat_param| $($column:ident: $value:expr),+ $(,)?) => {{
        let $pattern = $row;
        $copy.write(&[$number, $(&$value),+]).await
    }};
}

/// Hands each column of new operations to one of the macros that write rows, so that both ways of keeping
/// them write the same. In the order of [`NEW_COLUMNS`].
macro_rules! new_operations {
    ($with:ident($($arguments:expr),+ $(,)?)) => {
        $with!($($arguments),+, |(prepared, it, operation, lane, state)|
            ids: operation.id.to_string(),
            callers: it.caller.as_str(),
            graph_versions: it.reference.version.as_str(),
            graph_ids: it.reference.id.as_str(),
            connections: prepared.credential.connection.as_deref(),
            sealed_tokens: prepared.credential.sealed_token.as_deref(),
            token_expiries: prepared.credential.token_expires_at,
            lanes: *lane,
            callback_urls: it.callback_url.as_str(),
            callback_origins: it.callback_origin.as_str(),
            client_states: it.client_state.as_deref(),
            likenesses: prepared.likeness.as_slice(),
            registered: operation.registered_at.as_millisecond(),
            deadlines: operation.deadline.as_millisecond(),
            polls: i64::from(operation.polls),
            callbacks: i64::from(operation.callbacks),
            states: operation.state.as_str(),
            next_polls: state.next_poll_at,
            troubles: state.troubles.map(i64::from),
            rejections: state.rejections.map(i64::from),
            refusals: state.refusals.map(i64::from),
            callback_secrets: prepared.sealed_callback_secret.as_deref(),
            formats: it.format.as_str(),
            traceparents: it.trace.as_ref().map(Trace::parent),
            tracestates: it.trace.as_ref().and_then(Trace::state),
            running_notices: operation.running.as_str(),
        )
    };
}

/// From so many on it pays to copy rows in, which takes more round trips.
pub(super) const FOR_A_COPY: usize = 32;

/// The columns of a new operation, all but its number, in the order of [`new_operations`].
const NEW_COLUMNS: &str = "id, caller, graph_version, graph_id, connection, sealed_token, \
    token_expires_at, lane, callback_url, callback_origin, client_state, likeness, registered_at, \
    deadline, polls, callbacks, state, next_poll_at, troubles, rejections, refusals, \
    sealed_callback_secret, format, traceparent, tracestate, running_notice";

/// A new operation with what its row is written of.
type Fresh<'a> = (&'a Prepared, &'a Registration, &'a Operation, i64, StateColumns);

/// Keeps new operations, each on its lane, and tells the numbers of those that are not there already.
pub(super) async fn insert_operations(
    transaction: &Transaction<'_>,
    registrations: &[(&Prepared, i64)],
) -> Result<HashMap<OperationId, i64>, StoreError> {
    if registrations.is_empty() {
        return Ok(HashMap::new());
    }
    let mut fresh: Vec<Fresh<'_>> = registrations
        .iter()
        .map(|(prepared, lane)| {
            let it = &prepared.registration;
            (*prepared, it, &it.operation, *lane, StateColumns::from(&it.operation.state))
        })
        .collect();
    // In one order, as everybody keeps them, so that two of the same do not wait for each other.
    fresh.sort_unstable_by_key(|(prepared, it, ..)| (&it.caller, &prepared.likeness));
    if FOR_A_COPY <= fresh.len()
        && let Some(kept) = copy_operations(transaction, &fresh).await?
    {
        return Ok(kept);
    }
    let sql = format!(
        "INSERT INTO operations ({NEW_COLUMNS}) \
        SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], \
        $6::bytea[], $7::bigint[], $8::bigint[], $9::text[], $10::text[], $11::text[], \
        $12::bytea[], $13::bigint[], $14::bigint[], $15::bigint[], $16::bigint[], $17::text[], \
        $18::bigint[], $19::bigint[], $20::bigint[], $21::bigint[], $22::bytea[], $23::text[], \
        $24::text[], $25::text[], $26::text[]) \
        ON CONFLICT (caller, likeness) WHERE rested_at IS NULL DO NOTHING RETURNING id, number"
    );
    let kept = new_operations!(with_columns(transaction, "keeping operations", &sql, fresh))?;
    let read = |row| {
        let columns = Columns { table: "operations", row };
        Ok((columns.word("id", |text| text.parse().ok())?, columns.get("number")?))
    };
    kept.iter().map(read).collect()
}

/// Keeps new operations by COPY, which the server is done with sooner than with a statement. It has no
/// word for what is there already, which is rare: `None` then, and nothing was kept.
async fn copy_operations(
    transaction: &Transaction<'_>,
    fresh: &[Fresh<'_>],
) -> Result<Option<HashMap<OperationId, i64>>, StoreError> {
    let doing = "copying operations";
    // The sequence is looked for once: without the inner parentheses it would be for each number, which
    // takes longer than to draw it.
    let sql = "SELECT nextval((SELECT pg_get_serial_sequence('operations', 'number')::regclass)) \
        AS number FROM generate_series(1, $1::bigint)";
    let count = i64::try_from(fresh.len()).unwrap_or(i64::MAX);
    let params: [&(dyn ToSql + Sync); 1] = [&count];
    let (numbers, ()) = both(rows(transaction, doing, sql, &params), async {
        transaction.batch_execute("SAVEPOINT copying").await.context(doing)
    })
    .await?;
    let number = |row| Columns { table: "operations", row }.get("number");
    let numbers: Vec<i64> = numbers.iter().map(number).collect::<Result<_, _>>()?;
    let copied = copy(transaction, doing, fresh, &numbers).await;
    match copied {
        Ok(()) => Ok(Some(fresh.iter().map(|it| it.2.id).zip(numbers).collect())),
        Err(error) if is_there_already(&error) => {
            transaction.batch_execute("ROLLBACK TO copying").await.context(doing)?;
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

async fn copy(
    transaction: &Transaction<'_>,
    doing: &'static str,
    fresh: &[Fresh<'_>],
    numbers: &[i64],
) -> Result<(), StoreError> {
    let columns = format!("number, {NEW_COLUMNS}");
    let mut copy = CopyIn::begin(transaction, doing, "operations", &columns).await?;
    for (it, number) in fresh.iter().zip(numbers) {
        new_operations!(write_row(copy, number, it))?;
    }
    copy.finish().await
}
