//! The limit that `waymark bench` measures against: the same rows in the same grouped transactions, and nothing else.

use async_trait::async_trait;
use waymark_core::port::{Accept, StoreError};

/// Commits rows that were prepared before the clock starts: sealed, hashed and drafted, without dedupe or answers.
#[async_trait]
pub trait BareStore: Send + Sync {
    /// Prepares accepts for [`BareStore::commit_next`].
    async fn prepare(&self, accepts: Vec<Accept>) -> Result<(), StoreError>;
    /// Commits the next prepared one, sharing its transaction with others that wait; `false` when none is left.
    async fn commit_next(&self) -> Result<bool, StoreError>;
}
