//! Rows by COPY in its binary format, in large pieces.
//!
//! The client library has a writer for it, which hands over every 4 KiB and waits for each to be taken:
//! the connection's task and the server's process wake up for two registrations at a time.

use std::mem;
use std::pin::Pin;

use bytes::{BufMut as _, Bytes, BytesMut};
use deadpool_postgres::Transaction;
use futures_util::SinkExt as _;
use tokio_postgres::CopyInSink;
use tokio_postgres::types::{IsNull, ToSql, Type};

use super::error::Context as _;
use crate::store::StoreError;

/// The signature, no flags, and no extension: what rows come behind
/// (<https://www.postgresql.org/docs/15/sql-copy.html>, "Binary Format").
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

/// In place of the number of a row's columns: there are no more rows.
const TRAILER: i16 = -1;

/// In place of a value's length.
const NULL: i32 = -1;

/// Rows are sent once there is so much of them, in bytes, which some hundred registrations are.
const PIECE: usize = 256 * 1024;

/// Room for a piece, with the row that makes it one.
const ROOM: usize = PIECE + PIECE / 4;

/// A copy into a table that is under way. Nothing of it is kept unless it is finished.
pub(super) struct CopyIn {
    doing: &'static str,
    sink: Pin<Box<CopyInSink<Bytes>>>,
    types: Vec<Type>,
    /// What is to be sent next.
    piece: BytesMut,
}

impl CopyIn {
    /// Begins to copy into these columns of a table.
    pub(super) async fn begin(
        transaction: &Transaction<'_>,
        doing: &'static str,
        table: &str,
        columns: &str,
    ) -> Result<Self, StoreError> {
        // Asked for the types of the columns, which a copy is not told.
        let select = format!("SELECT {columns} FROM {table}");
        let select = transaction.prepare_cached(&select).await.context(doing)?;
        let types = select.columns().iter().map(|it| it.type_().clone()).collect();
        let copy = format!("COPY {table} ({columns}) FROM STDIN (FORMAT binary)");
        let copy = transaction.prepare_cached(&copy).await.context(doing)?;
        Ok(Self::new(doing, transaction.copy_in(&copy).await.context(doing)?, types))
    }

    /// Goes on with a copy that has begun, into columns of these types.
    pub(super) fn new(doing: &'static str, sink: CopyInSink<Bytes>, types: Vec<Type>) -> Self {
        Self { doing, sink: Box::pin(sink), types, piece: BytesMut::from(HEADER) }
    }

    /// Writes the values of a row, in the order of the columns. After an error the copy is of no use.
    pub(super) async fn write(&mut self, row: &[&(dyn ToSql + Sync)]) -> Result<(), StoreError> {
        self.encode(row).map_err(|error| StoreError::Unavailable(error.context(self.doing)))?;
        if PIECE <= self.piece.len() {
            // Or the next one would be moved each time that it has doubled.
            self.send(BytesMut::with_capacity(ROOM)).await?;
        }
        Ok(())
    }

    /// As many values as come: the server tells of it where they are not as many as the columns.
    fn encode(&mut self, row: &[&(dyn ToSql + Sync)]) -> Result<(), anyhow::Error> {
        self.piece.put_i16(row.len().try_into()?);
        for (index, (value, of_column)) in row.iter().zip(&self.types).enumerate() {
            let before = self.piece.len();
            self.piece.put_i32(NULL);
            let written = value.to_sql_checked(of_column, &mut self.piece);
            let which = |error| anyhow::Error::from_boxed(error).context(format!("value {index}"));
            if let IsNull::No = written.map_err(which)? {
                let from = before + mem::size_of_val(&NULL);
                let length = i32::try_from(self.piece.len() - from)?;
                self.piece[before..from].copy_from_slice(&length.to_be_bytes());
            }
        }
        Ok(())
    }

    async fn send(&mut self, next: BytesMut) -> Result<(), StoreError> {
        let piece = mem::replace(&mut self.piece, next);
        self.sink.send(piece.freeze()).await.context(self.doing)
    }

    /// Ends the copy, and with it whatever is wrong with its rows comes to light.
    pub(super) async fn finish(mut self) -> Result<(), StoreError> {
        self.piece.put_i16(TRAILER);
        self.send(BytesMut::new()).await?;
        self.sink.as_mut().finish().await.context(self.doing).map(drop)
    }
}
