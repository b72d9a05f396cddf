//! Grouped commits of prepared rows: the committer's transaction without its decisions.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use tokio::sync::{mpsc, oneshot};

use super::accept::Item;
use super::claim::claim_messages;
use super::committer::{BATCH_MAX, QUEUE_MAX};
use super::keep::keep;
use super::{Accept, Arc, Backend, Shared, StoreError, async_trait};
use crate::bare::BareStore;
use crate::error::{Fault, unavailable};

struct Job {
    item: Item,
    answer: oneshot::Sender<Result<(), StoreError>>,
}

pub(super) struct Bare {
    backend: Backend,
    prepared: Mutex<VecDeque<Item>>,
    queue: mpsc::Sender<Job>,
}

impl Bare {
    pub(super) fn new(backend: Backend) -> Self {
        let (queue, jobs) = mpsc::channel(QUEUE_MAX);
        #[expect(
            clippy::disallowed_methods,
            reason = "ends when the bare store is dropped, as the committer does"
        )]
        drop(tokio::spawn(run(Arc::clone(&backend.shared), jobs)));
        Self {
            backend,
            prepared: Mutex::default(),
            queue,
        }
    }
}

#[async_trait]
impl BareStore for Bare {
    async fn prepare(&self, accepts: Vec<Accept>) -> Result<(), StoreError> {
        for accept in accepts {
            let item = Item::prepare(self.backend.seal(), accept).await?;
            self.prepared
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push_back(item);
        }
        Ok(())
    }

    async fn commit_next(&self) -> Result<bool, StoreError> {
        let item = self
            .prepared
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop_front();
        let Some(item) = item else { return Ok(false) };
        let (answer, answered) = oneshot::channel();
        let job = Job { item, answer };
        self.queue
            .send(job)
            .await
            .map_err(|_| unavailable(Fault::Closing))?;
        answered.await.map_err(|_| unavailable(Fault::Closing))??;
        Ok(true)
    }
}

async fn run(shared: Arc<Shared>, mut jobs: mpsc::Receiver<Job>) {
    let mut batch = Vec::with_capacity(BATCH_MAX);
    while jobs.recv_many(&mut batch, BATCH_MAX).await > 0 {
        let (items, answers): (Vec<Item>, Vec<_>) =
            batch.drain(..).map(|job| (job.item, job.answer)).unzip();
        let kept = commit(&shared, &items).await;
        for answer in answers {
            let result = match &kept {
                Ok(()) => Ok(()),
                Err(error) => Err(unavailable(Fault::Batch(error.to_string()))),
            };
            answer.send(result).ok();
        }
    }
}

async fn commit(shared: &Shared, items: &[Item]) -> Result<(), StoreError> {
    let mut w = shared.begin_on(&shared.pools.committer).await?;
    let fresh = claim_messages(&mut w, items.iter().enumerate().collect(), &mut Vec::new()).await?;
    let items: Vec<&Item> = fresh.into_iter().map(|(_, item)| item).collect();
    keep(&mut w, &shared.seal, &items).await?;
    w.commit().await
}
