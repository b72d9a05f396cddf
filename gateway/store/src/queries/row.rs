//! Reading columns: what does not decode is `Corrupt`, never a default.

use sqlx::{ColumnIndex, Decode, Row as _, Type, ValueRef as _};
use waymark_core::port::StoreError;
use waymark_core::time::Timestamp;

use super::Db;
use crate::error::internal;

/// A row of this engine.
pub(super) type Row = <Db as sqlx::Database>::Row;

/// Typed access to a row's columns.
#[derive(Clone, Copy)]
pub(super) struct Fields<'r> {
    row: &'r Row,
    table: &'static str,
    key: &'static str,
}

impl<'r> Fields<'r> {
    /// Reads a row of `table`; `key` is the column that names the row in errors.
    pub(super) const fn new(row: &'r Row, table: &'static str, key: &'static str) -> Self {
        Self { row, table, key }
    }

    /// What to say of a column that does not decode.
    pub(super) fn corrupt(&self, column: &'static str) -> StoreError {
        let row = match self.row.try_get::<Vec<u8>, _>(self.key) {
            Ok(id) => hex::encode(id),
            Err(_) => self.row.try_get::<String, _>(self.key).unwrap_or_default(),
        };
        StoreError::Corrupt {
            table: self.table,
            column,
            row,
        }
    }

    fn get<T>(&self, column: &'static str) -> Result<T, StoreError>
    where
        T: Decode<'r, Db> + Type<Db>,
        &'static str: ColumnIndex<Row>,
    {
        self.row.try_get(column).map_err(|e| match e {
            sqlx::Error::ColumnDecode { .. } => self.corrupt(column),
            other => internal(other),
        })
    }

    /// Whether a column is null.
    pub(super) fn is_null(&self, column: &'static str) -> Result<bool, StoreError> {
        self.row
            .try_get_raw(column)
            .map(|v| v.is_null())
            .map_err(internal)
    }

    fn optional<T>(
        &self,
        column: &'static str,
        read: impl FnOnce(&Self) -> Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        if self.is_null(column)? {
            Ok(None)
        } else {
            read(self).map(Some)
        }
    }

    /// Bytes.
    pub(super) fn bytes(&self, column: &'static str) -> Result<Vec<u8>, StoreError> {
        self.get(column)
    }

    /// Bytes of a fixed length.
    pub(super) fn fixed<const N: usize>(
        &self,
        column: &'static str,
    ) -> Result<[u8; N], StoreError> {
        self.bytes(column)?
            .try_into()
            .map_err(|_| self.corrupt(column))
    }

    /// A fixed number of bytes, or none.
    pub(super) fn opt_fixed<const N: usize>(
        &self,
        column: &'static str,
    ) -> Result<Option<[u8; N]>, StoreError> {
        self.optional(column, |f| f.fixed(column))
    }

    /// An id of 16 bytes: `id("leg_id", LegId::from_bytes)`.
    pub(super) fn id<T>(
        &self,
        column: &'static str,
        make: fn([u8; 16]) -> T,
    ) -> Result<T, StoreError> {
        self.fixed(column).map(make)
    }

    /// An id, or none.
    pub(super) fn opt_id<T>(
        &self,
        column: &'static str,
        make: fn([u8; 16]) -> T,
    ) -> Result<Option<T>, StoreError> {
        self.optional(column, |f| f.id(column, make))
    }

    /// Text.
    pub(super) fn text(&self, column: &'static str) -> Result<String, StoreError> {
        self.get(column)
    }

    /// Text, or none.
    pub(super) fn opt_text(&self, column: &'static str) -> Result<Option<String>, StoreError> {
        self.optional(column, |f| f.text(column))
    }

    /// A code that its type checks.
    pub(super) fn code<T: TryFrom<String>>(&self, column: &'static str) -> Result<T, StoreError> {
        T::try_from(self.text(column)?).map_err(|_| self.corrupt(column))
    }

    /// A code, or none.
    pub(super) fn opt_code<T: TryFrom<String>>(
        &self,
        column: &'static str,
    ) -> Result<Option<T>, StoreError> {
        self.optional(column, |f| f.code(column))
    }

    /// A word of a closed list: `word("state", LegState::parse)`.
    pub(super) fn word<T>(
        &self,
        column: &'static str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, StoreError> {
        parse(&self.text(column)?).ok_or_else(|| self.corrupt(column))
    }

    /// A word, or none.
    pub(super) fn opt_word<T>(
        &self,
        column: &'static str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, StoreError> {
        self.optional(column, |f| f.word(column, parse))
    }

    /// A whole number of any type that it fits.
    pub(super) fn int<T: TryFrom<i64>>(&self, column: &'static str) -> Result<T, StoreError> {
        T::try_from(self.get::<i64>(column)?).map_err(|_| self.corrupt(column))
    }

    /// A whole number, or none.
    pub(super) fn opt_int<T: TryFrom<i64>>(
        &self,
        column: &'static str,
    ) -> Result<Option<T>, StoreError> {
        self.optional(column, |f| f.int(column))
    }

    /// An instant.
    pub(super) fn at(&self, column: &'static str) -> Result<Timestamp, StoreError> {
        self.get(column).map(Timestamp::from_ms)
    }

    /// An instant, or none.
    pub(super) fn opt_at(&self, column: &'static str) -> Result<Option<Timestamp>, StoreError> {
        self.optional(column, |f| f.at(column))
    }

    /// A truth value, stored as 0 or 1.
    pub(super) fn flag(&self, column: &'static str) -> Result<bool, StoreError> {
        match self.get::<i64>(column)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(self.corrupt(column)),
        }
    }
}
