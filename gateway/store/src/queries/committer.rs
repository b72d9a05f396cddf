//! Group commit (ruling 14): whoever waits for an accept shares one transaction and one flush.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt as _;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use waymark_core::port::{Accept, Accepted, StoreError};

use super::super::wal_is_long;
use super::accept::{Done, Item, accept_all};
use super::{Backend, Shared, fold_wal, read};
use crate::error::{Fault, internal, unavailable};

/// Accepts that wait for the committer; more are refused.
pub(super) const QUEUE_MAX: usize = 4096;
/// Accepts in one transaction.
pub(super) const BATCH_MAX: usize = 256;

/// An accept that waits.
pub(super) struct Job {
    item: Item,
    answer: oneshot::Sender<Result<Done, StoreError>>,
}

/// Accepts a referral through the committer.
pub(super) async fn accept(backend: &Backend, accept: Accept) -> Result<Accepted, StoreError> {
    let item = Item::prepare(backend.seal(), accept).await?;
    let (answer, answered) = oneshot::channel();
    backend
        .queue
        .try_send(Job { item, answer })
        .map_err(|refused| match refused {
            TrySendError::Full(_) => StoreError::Exhausted {
                limit: "accept_queue",
            },
            TrySendError::Closed(_) => unavailable(Fault::Closing),
        })?;
    match answered.await.map_err(|_| unavailable(Fault::Closing))?? {
        Done::Accepted(accepted) => Ok(*accepted),
        Done::Repeated(referral) => read::accepted(backend, referral).await,
    }
}

/// Starts the committer. It ends once every sender of its queue is gone.
pub(super) fn start(shared: Arc<Shared>, jobs: mpsc::Receiver<Job>) {
    #[expect(
        clippy::disallowed_methods,
        reason = "the committer belongs to the store and must outlive each request; it ends when the store is dropped"
    )]
    drop(tokio::spawn(run(shared, jobs)));
}

async fn run(shared: Arc<Shared>, mut jobs: mpsc::Receiver<Job>) {
    let mut batch = Vec::with_capacity(BATCH_MAX);
    while jobs.recv_many(&mut batch, BATCH_MAX).await > 0 {
        let (items, answers): (Vec<Item>, Vec<_>) =
            batch.drain(..).map(|job| (job.item, job.answer)).unzip();
        // A panic must not end the only task that can accept.
        let done = AssertUnwindSafe(accept_all(&shared, items))
            .catch_unwind()
            .await;
        let mut done = done.unwrap_or_default().into_iter();
        for answer in answers {
            let result = done
                .next()
                .unwrap_or_else(|| Err(internal(Fault::Panicked)));
            // Whoever asked may be gone; what was committed stays, and a repeat finds it.
            answer.send(result).ok();
        }
        if wal_is_long(&shared.engine)
            && let Err(error) = fold_wal(&shared.pools, &shared.engine).await
        {
            tracing::warn!(error = %error, "the write-ahead log could not be truncated");
        }
    }
}
