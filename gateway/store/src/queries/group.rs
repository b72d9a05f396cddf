//! Steps of attempts that share a commit, on an engine with one writer: else each delivery would cost it a flush for its
//! opening and one for its end, and accepts would wait behind them.
//!
//! One task owns the transaction, so that a caller who goes away leaves nothing half done. Every step has a savepoint:
//! one that fails undoes itself alone. Each is answered after the commit; where that failed, nothing is known to be
//! kept, and all are told so.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt as _;
use tokio::sync::{mpsc, oneshot};
use waymark_core::port::StoreError;

use super::attempt::Step;
use super::{Backend, Shared};
use crate::error::{Fault, internal, unavailable};

/// Steps that wait; whoever comes then waits for a place.
pub(super) const QUEUE_MAX: usize = 1_024;
/// Steps in one transaction.
const STEPS_MAX: usize = 64;
/// Steps in one transaction however many accepts wait for it to end.
const STEPS_MIN: usize = 4;
/// While accepts wait, one step is taken for so many of them: they go first, and steps go on.
const ACCEPTS_A_STEP: usize = 4;

/// A step that waits.
pub(super) struct Job {
    step: Step,
    answer: oneshot::Sender<Result<(), StoreError>>,
}

/// A step of the group, and what became of it.
type Taken = (
    oneshot::Sender<Result<(), StoreError>>,
    Result<(), StoreError>,
);

/// Writes a step: in a transaction of its own where writers go side by side.
pub(super) async fn write(store: &Backend, step: Step) -> Result<(), StoreError> {
    let Some(queue) = &store.steps else {
        let mut w = store.begin().await?;
        let result = step.take(&mut w, store.seal()).await;
        return w.end(result).await;
    };
    let (answer, answered) = oneshot::channel();
    let job = Job { step, answer };
    let sent = queue.send(job).await;
    sent.map_err(|_| unavailable(Fault::Closing))?;
    answered.await.map_err(|_| unavailable(Fault::Closing))?
}

/// Starts the task that writes steps together. It ends once every sender of its queue is gone.
pub(super) fn start(shared: Arc<Shared>) -> mpsc::Sender<Job> {
    let (queue, mut jobs) = mpsc::channel(QUEUE_MAX);
    let run = async move {
        while let Some(first) = jobs.recv().await {
            together(&shared, first, &mut jobs).await;
        }
    };
    #[expect(
        clippy::disallowed_methods,
        reason = "it belongs to the store, as the committer does, and must outlive each attempt"
    )]
    drop(tokio::spawn(run));
    queue
}

/// Writes one group and answers it.
async fn together(shared: &Shared, first: Job, jobs: &mut mpsc::Receiver<Job>) {
    let mut taken = Vec::new();
    // A panic must not end the only task that can record an attempt.
    let done = AssertUnwindSafe(commit(shared, first, jobs, &mut taken))
        .catch_unwind()
        .await
        .unwrap_or_else(|_| Err(internal(Fault::Panicked)));
    for (answer, result) in taken {
        let result = match (result, &done) {
            (Ok(()), Err(error)) => Err(not_kept(error)),
            (result, _) => result,
        };
        // Whoever asked may be gone; what was committed stays.
        answer.send(result).ok();
    }
}

/// What a step that was written is told when its group was not committed.
fn not_kept(error: &StoreError) -> StoreError {
    match error {
        StoreError::Exhausted { limit } => StoreError::Exhausted { limit },
        other => unavailable(Fault::Batch(other.to_string())),
    }
}

/// Takes what waits into one transaction. `Err` means that nothing of it is known to be kept.
async fn commit(
    shared: &Shared,
    first: Job,
    jobs: &mut mpsc::Receiver<Job>,
    taken: &mut Vec<Taken>,
) -> Result<(), StoreError> {
    // Nothing is against a step until it fails.
    taken.push((first.answer, Ok(())));
    let mut w = shared.begin_in_turn().await?;
    let mut step = first.step;
    loop {
        w.begin_step().await?;
        match step.take(&mut w, &shared.seal).await {
            Ok(()) => w.keep_step().await?,
            Err(error) => {
                if let Some((_, result)) = taken.last_mut() {
                    *result = Err(error);
                }
                w.undo_step().await?;
            }
        }
        if taken.len() >= most(shared.accepts_waiting()) {
            break;
        }
        let Ok(next) = jobs.try_recv() else { break };
        taken.push((next.answer, Ok(())));
        step = next.step;
    }
    w.commit().await
}

/// Steps that one transaction may take.
fn most(accepts_waiting: usize) -> usize {
    if accepts_waiting == 0 {
        STEPS_MAX
    } else {
        (accepts_waiting / ACCEPTS_A_STEP).clamp(STEPS_MIN, STEPS_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_that_wait_shorten_a_group_and_never_stop_it() {
        assert_eq!(most(0), STEPS_MAX);
        assert_eq!(most(1), STEPS_MIN);
        assert_eq!(most(100), 25);
        assert_eq!(most(4_096), STEPS_MAX);
    }
}
