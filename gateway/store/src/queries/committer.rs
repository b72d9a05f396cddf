//! Group commit (ruling 14): whoever waits for an accept shares one transaction and one flush.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures::FutureExt as _;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use waymark_core::port::{Accept, Accepted, StoreError};

use super::super::{fold_wal_beside, truncate_wal, wal};
use super::accept::{Done, Item, accept_all};
use super::{Backend, Shared, read};
use crate::error::{Fault, internal, unavailable};
use crate::open::Wal;

/// Accepts that wait for the committer; more are refused.
pub(super) const QUEUE_MAX: usize = 4096;
/// Accepts in one transaction.
pub(super) const BATCH_MAX: usize = 256;

/// An accept that waits.
pub(super) struct Job {
    item: Item,
    answer: oneshot::Sender<Result<Done, StoreError>>,
    counted: Counted,
}

/// One of [`Shared::accepts_waiting`], as long as this lives.
struct Counted(Arc<Shared>);

impl Counted {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.accepts.fetch_add(1, Ordering::Relaxed);
        shared.accepts_came.store(true, Ordering::Relaxed);
        Self(Arc::clone(shared))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.accepts.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Accepts a referral through the committer.
pub(super) async fn accept(backend: &Backend, accept: Accept) -> Result<Accepted, StoreError> {
    backend.has_room()?;
    let item = Item::prepare(backend.seal(), accept).await?;
    let (answer, answered) = oneshot::channel();
    let counted = Counted::new(&backend.shared);
    backend
        .queue
        .try_send(Job {
            item,
            answer,
            counted,
        })
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
    let (fold, folds) = mpsc::channel(1);
    let folding = fold_beside(Arc::clone(&shared), folds);
    #[expect(
        clippy::disallowed_methods,
        reason = "the committer belongs to the store and must outlive each request; it ends when the store is dropped"
    )]
    for task in [run(shared, jobs, fold).boxed(), folding.boxed()] {
        drop(tokio::spawn(task));
    }
}

async fn run(shared: Arc<Shared>, mut jobs: mpsc::Receiver<Job>, fold: mpsc::Sender<()>) {
    let mut batch = Vec::with_capacity(BATCH_MAX);
    while jobs.recv_many(&mut batch, BATCH_MAX).await > 0 {
        let (items, answers): (Vec<Item>, Vec<_>) = batch
            .drain(..)
            .map(|job| (job.item, (job.answer, job.counted)))
            .unzip();
        // A panic must not end the only task that can accept.
        let done = AssertUnwindSafe(accept_all(&shared, items))
            .catch_unwind()
            .await;
        let mut done = done.unwrap_or_default().into_iter();
        for (answer, counted) in answers {
            drop(counted);
            let result = done
                .next()
                .unwrap_or_else(|| Err(internal(Fault::Panicked)));
            // Whoever asked may be gone; what was committed stays, and a repeat finds it.
            answer.send(result).ok();
        }
        match wal(&shared.engine) {
            Wal::Short => {}
            // One that is asked for already is enough.
            Wal::Grown => drop(fold.try_send(())),
            Wal::Long => warn_of(truncate_wal(&shared.pools, &shared.engine).await),
        }
    }
}

/// Folds the write-ahead log when the committer asks for it; ends with the committer.
async fn fold_beside(shared: Arc<Shared>, mut folds: mpsc::Receiver<()>) {
    while folds.recv().await.is_some() {
        warn_of(fold_wal_beside(&shared.pools, &shared.engine).await);
    }
}

fn warn_of(result: Result<(), StoreError>) {
    if let Err(error) = result {
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        tracing::warn!(error = %error, cause, "the write-ahead log could not be folded");
    }
}
