//! Takes in a whole installation from another database, whose place this one takes.

use std::sync::Arc;

use bytes::BytesMut;
use deadpool_postgres::{ClientWrapper, Transaction};
use rustls::ClientConfig;
use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, accepts, to_sql_checked};

use super::address::Address;
use super::connect::{Database, Lent};
use super::copy::CopyIn;
use super::error::Context as _;
use super::{OpenError, check, schema};
use crate::names::Names;
use crate::store::StoreError;
use crate::store::handover::{Begin, Check, CopyId, Mark, Origin, Refused, Table, Value};

/// "eBrc": whoever holds this advisory lock copies.
const LOCK: i64 = 0x6542_7263;

/// A database that nobody can serve before the copy into it is finished, and that nobody else copies
/// into.
pub struct Target {
    /// Holds the advisory lock, which ends with it.
    connection: Lent,
    mark: Mark,
}

/// Why nothing can be copied to a database.
#[derive(Debug, thiserror::Error)]
pub enum CannotCopy {
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error("somebody else copies to this database right now: wait for that to end")]
    Busy(#[source] StoreError),
    #[error("somebody else has changed what the copy had marked: copy again, to an empty database")]
    Overtaken,
    #[error("the operating system has no random numbers")]
    NoRandomness(#[source] getrandom::Error),
    #[error(transparent)]
    Open(#[from] OpenError),
}

impl Target {
    /// Connects to the database at `address`, which must be empty or hold an unfinished copy of the
    /// same source. Anything else is refused, and left as it is. `None` where the copy is finished.
    pub async fn open(
        address: &Address,
        tls: ClientConfig,
        names: Arc<dyn Names>,
        source: &Origin,
        tables: &[Table],
    ) -> Result<Option<Self>, CannotCopy> {
        let mut connection = Database::new(address, tls, names)?.lend().await?;
        let client = connection.client()?;
        let locked = client.execute("SELECT pg_advisory_lock($1)", &[&LOCK]).await;
        let locked = locked.context("waiting for other copies");
        if let Err(error @ StoreError::Locked(_)) = locked {
            return Err(CannotCopy::Busy(error));
        }
        locked?;
        let patient = "SET statement_timeout = 0; SET lock_timeout = 0";
        client.batch_execute(patient).await.context("setting up the copy")?;

        let found = schema::version(client).await?;
        if found > schema::VERSION {
            return Err(OpenError::NewerVersion { found, ours: schema::VERSION }.into());
        }
        let is_anew = match source.begin(check(client).await?.as_ref())? {
            Begin::Never => return Ok(None),
            Begin::GoOn(mark) => {
                schema::migrate(client).await?;
                return Ok(Some(Self { connection, mark }));
            }
            Begin::Fresh if is_empty(client, tables).await? => false,
            Begin::Fresh => return Err(Refused::Occupied.into()),
            Begin::Anew => true,
        };
        schema::migrate(client).await?;
        let mark = source.mark(CopyId::draw().map_err(CannotCopy::NoRandomness)?);
        start(client, mark, is_anew, tables).await?;
        Ok(Some(Self { connection, mark }))
    }

    /// Tells this copy from all others.
    pub fn copy(&self) -> CopyId {
        self.mark.copy
    }

    /// How many rows a table has, and the key of the last one. They came in the order of their keys,
    /// so those that are missing are behind it.
    pub async fn reached(
        &mut self,
        table: &Table,
    ) -> Result<(u64, Option<Vec<Value>>), StoreError> {
        let doing = "looking how far the copy has come";
        let (name, key) = (&table.name, table.key_columns());
        let client = self.connection.client()?;
        let sql = format!("SELECT count(*) FROM {name}");
        let count: i64 = client.query_one(&sql, &[]).await.context(doing)?.get(0);
        let sql = format!(
            "SELECT {} FROM {name} ORDER BY {} DESC LIMIT 1",
            key.join(", "),
            key.join(" DESC, ")
        );
        let last = client.query_opt(&sql, &[]).await.context(doing)?;
        let last = last.as_ref().map(values).transpose().context(doing)?;
        Ok((count.unsigned_abs(), last))
    }

    /// Adds rows, all or none.
    pub async fn append(&mut self, table: &Table, rows: &[Vec<Value>]) -> Result<(), StoreError> {
        let doing = "writing rows of the copy";
        // Identity columns take the values that come, and other values are checked as ever.
        let sql = format!(
            "COPY {} ({}) FROM STDIN (FORMAT binary)",
            table.name,
            table.columns.join(", ")
        );
        let sink = self.connection.client()?.copy_in(&sql).await.context(doing)?;
        // A value brings its type along.
        let types = vec![Type::UNKNOWN; table.columns.len()];
        let mut copy = CopyIn::new(doing, sink, types);
        for row in rows {
            let row: Vec<_> = row.iter().map(|it| it as &(dyn ToSql + Sync)).collect();
            copy.write(&row).await?;
        }
        copy.finish().await
    }

    /// The next rows in the order of their keys, the first ones or those behind a key.
    pub async fn page(
        &mut self,
        table: &Table,
        behind: Option<&[Value]>,
        limit: usize,
    ) -> Result<Vec<Vec<Value>>, StoreError> {
        let doing = "reading rows of the copy";
        let sql = table.page(behind.is_some(), limit);
        let behind: Vec<_> =
            behind.into_iter().flatten().map(|it| it as &(dyn ToSql + Sync)).collect();
        // Planned each time: with a plan for any number of rows, all of them would be sorted.
        let found = self.connection.client()?.query(&sql, &behind).await.context(doing)?;
        found.iter().map(values).collect::<Result<_, _>>().context(doing)
    }

    /// Lets the database be served: by the same master key as the source.
    pub async fn finish(mut self, source: &Origin, tables: &[Table]) -> Result<(), CannotCopy> {
        let doing = "finishing the copy";
        let client = self.connection.client()?;
        let transaction = client.transaction().await.context(doing)?;
        set_sequences(&transaction).await.context(doing)?;
        // Or the first claims would be planned for tables that are empty.
        let sql = format!("ANALYZE {}", list(tables));
        transaction.batch_execute(&sql).await.context(doing)?;
        let sql = "UPDATE installation SET sealed_check = $1 WHERE sealed_check = $2";
        let (sealed, mark) = (&source.sealed_check, Check::Unfinished(self.mark).write());
        if transaction.execute(sql, &[sealed, &mark]).await.context(doing)? == 0 {
            return Err(CannotCopy::Overtaken);
        }
        Ok(transaction.commit().await.context(doing)?)
    }
}

/// Whether none of the tables has a row, as far as they are there.
async fn is_empty(client: &ClientWrapper, tables: &[Table]) -> Result<bool, StoreError> {
    for Table { name, .. } in tables {
        let sql = format!("SELECT 1 FROM {name} LIMIT 1");
        if schema::is_there(client, name).await?
            && client.query_opt(&sql, &[]).await.context("looking for rows")?.is_some()
        {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Keeps bridges from the database from now on. One that has come first is left alone.
async fn start(
    client: &mut ClientWrapper,
    mark: Mark,
    is_anew: bool,
    tables: &[Table],
) -> Result<(), CannotCopy> {
    let doing = "beginning the copy";
    let transaction = client.transaction().await.context(doing)?;
    let sql = if is_anew {
        let truncate = format!("TRUNCATE {}", list(tables));
        transaction.batch_execute(&truncate).await.context(doing)?;
        "UPDATE installation SET sealed_check = $1"
    } else {
        "INSERT INTO installation (only_one, sealed_check) VALUES (true, $1) \
            ON CONFLICT (only_one) DO NOTHING"
    };
    let mark = Check::Unfinished(mark).write();
    if transaction.execute(sql, &[&mark]).await.context(doing)? == 0 {
        return Err(Refused::Occupied.into());
    }
    // A role that may not do this learns of it now, not when all is copied.
    set_sequences(&transaction).await.context(doing)?;
    Ok(transaction.commit().await.context(doing)?)
}

/// Lets the next numbers be those behind the highest ones.
async fn set_sequences(transaction: &Transaction<'_>) -> Result<(), tokio_postgres::Error> {
    let sql = "SELECT table_name::text, column_name::text FROM information_schema.columns \
        WHERE table_schema = current_schema() AND is_identity = 'YES'";
    for row in transaction.query(sql, &[]).await? {
        let (table, column): (String, String) = (row.get(0), row.get(1));
        let sequence = format!("pg_get_serial_sequence('{table}', '{column}')");
        let next = format!("coalesce(max({column}), 0) + 1");
        let sql = format!("SELECT setval({sequence}, {next}, false) FROM {table}");
        transaction.execute(&sql, &[]).await?;
    }
    Ok(())
}

fn values(row: &Row) -> Result<Vec<Value>, tokio_postgres::Error> {
    (0..row.len()).map(|column| row.try_get(column)).collect()
}

fn list(tables: &[Table]) -> String {
    tables.iter().map(|table| &*table.name).collect::<Vec<_>>().join(", ")
}

impl From<StoreError> for CannotCopy {
    fn from(error: StoreError) -> Self {
        Self::Open(error.into())
    }
}

impl<'a> FromSql<'a> for Value {
    fn from_sql(
        kind: &Type,
        raw: &'a [u8],
    ) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        match *kind {
            Type::INT8 => i64::from_sql(kind, raw).map(Self::Number),
            Type::TEXT => String::from_sql(kind, raw).map(Self::Text),
            _ => Vec::from_sql(kind, raw).map(Self::Bytes),
        }
    }

    fn from_sql_null(_: &Type) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self::Null)
    }

    accepts!(INT8, TEXT, BYTEA);
}

impl ToSql for Value {
    fn to_sql(
        &self,
        _: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match self {
            Self::Null => Ok(IsNull::Yes),
            Self::Number(it) => it.to_sql(&Type::INT8, out),
            Self::Text(it) => it.to_sql(&Type::TEXT, out),
            Self::Bytes(it) => it.to_sql(&Type::BYTEA, out),
        }
    }

    // The server refuses what does not fit into a column.
    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}
