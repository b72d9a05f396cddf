//! Set statements of fixed sizes, so that few texts are prepared and each stays bounded.

use sqlx::QueryBuilder;
use sqlx::query_builder::Separated;
use waymark_core::port::StoreError;

use super::Db;
use super::row::Row;
use crate::error::sql;

/// A connection of this engine.
pub(super) type Connection = <Db as sqlx::Database>::Connection;

/// Rows in one statement, largest first: any number up to 511 takes at most nine statements, each of which is prepared
/// once.
const SIZES: [usize; 9] = [256, 128, 64, 32, 16, 8, 4, 2, 1];

/// Cuts rows into pieces of the fixed sizes.
pub(super) fn pieces<T>(mut rows: &[T]) -> impl Iterator<Item = &[T]> {
    std::iter::from_fn(move || {
        let size = SIZES.into_iter().find(|size| *size <= rows.len())?;
        let (piece, rest) = rows.split_at_checked(size)?;
        rows = rest;
        Some(piece)
    })
}

/// Inserts rows: `head` is `INSERT INTO t (columns)`, `tail` an `ON CONFLICT` or `RETURNING` clause. Answers what
/// was returned.
pub(super) async fn insert<T: Sync>(
    conn: &mut Connection,
    (head, tail): (&'static str, &'static str),
    rows: &[T],
    bind: impl Fn(&mut Separated<'_, Db, &'static str>, &T),
) -> Result<Vec<Row>, StoreError> {
    let mut returned = Vec::new();
    for piece in pieces(rows) {
        let mut query = statement(head, tail, piece, &bind);
        returned.extend(query.build().fetch_all(&mut *conn).await.map_err(sql)?);
    }
    Ok(returned)
}

fn statement<T>(
    head: &'static str,
    tail: &'static str,
    rows: &[T],
    bind: &impl Fn(&mut Separated<'_, Db, &'static str>, &T),
) -> QueryBuilder<Db> {
    let mut query = QueryBuilder::new(head);
    query.push(" ");
    query.push_values(rows, |mut values, row| bind(&mut values, row));
    query.push(" ").push(tail);
    query
}

/// Selects rows whose key is in a list: `head` ends with `IN`, `tail` follows. The list is filled up with its last
/// key to a fixed size.
pub(super) async fn select_in<K: AsRef<[u8]> + Sync>(
    conn: &mut Connection,
    (head, tail): (&'static str, &'static str),
    keys: &[K],
) -> Result<Vec<Row>, StoreError> {
    let mut found = Vec::new();
    for piece in keys.chunks(SIZES[0]) {
        let size = SIZES
            .into_iter()
            .rev()
            .find(|size| *size >= piece.len())
            .unwrap_or(SIZES[0]);
        let filled = piece.iter().chain(
            std::iter::repeat_n(piece.last().into_iter(), size.saturating_sub(piece.len()))
                .flatten(),
        );
        let mut query = QueryBuilder::<Db>::new(head);
        query.push(" (");
        let mut list = query.separated(", ");
        for key in filled {
            list.push_bind(key.as_ref());
        }
        query.push(") ").push(tail);
        found.extend(query.build().fetch_all(&mut *conn).await.map_err(sql)?);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_cut_into_few_fixed_sizes() {
        let rows = [0u8; 256 + 64 + 2 + 1];
        let sizes: Vec<usize> = pieces(&rows).map(<[u8]>::len).collect();
        assert_eq!(sizes, [256, 64, 2, 1]);
        assert_eq!(pieces::<u8>(&[]).count(), 0);
    }
}
