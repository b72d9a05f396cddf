//! Owns the process's signals and every task: who runs, what its failure means, and how everything stops.
//!
//! The first SIGINT or SIGTERM stops accepting and drains; the second, or the drain's deadline, aborts. SIGHUP asks
//! for a reload of whatever is read from files.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::{FutureExt as _, Stream, StreamExt as _};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument as _, error, info, warn};

/// How long an aborted task has to let go of what it holds before the process ends without it.
pub const ABORT_GRACE: Duration = Duration::from_secs(2);
/// The pause before a failed task is started again, doubled by each failure in a row up to [`RESTART_PAUSE_MAX`].
pub const RESTART_PAUSE: Duration = Duration::from_millis(500);
/// The longest pause before a failed task is started again; a task that ran this long begins at [`RESTART_PAUSE`] again.
pub const RESTART_PAUSE_MAX: Duration = Duration::from_secs(30);
/// The exit code of a process that aborted open work.
const ABORTED: u8 = 3;
/// Signals that may wait to be handled.
const SIGNALS_MAX: usize = 4;

/// What the end of a task means for the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureEffect {
    /// The process cannot do its work without the task: its end, unasked, ends the process.
    EndProcess,
    /// The task is one piece of work that ends by itself; a failure is logged.
    Log,
}

/// How the process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Asked to stop, and everything finished in time.
    Drained,
    /// A task that the process cannot do without ended unasked.
    TaskDied {
        /// The task.
        task: String,
    },
    /// The drain's deadline passed with these tasks still at work.
    DrainTimedOut {
        /// The tasks that were aborted.
        stuck: Vec<String>,
    },
    /// A second signal asked for an end without a drain.
    Aborted {
        /// The tasks that were aborted.
        stuck: Vec<String>,
    },
}

impl Ending {
    /// The process's exit code: 0 only after a full drain, 1 when a task died, 3 when open work was aborted.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Drained => ExitCode::SUCCESS,
            Self::TaskDied { .. } => ExitCode::FAILURE,
            Self::DrainTimedOut { .. } | Self::Aborted { .. } => ExitCode::from(ABORTED),
        }
    }
}

/// The process's signals and tasks; cheap to clone.
#[derive(Clone)]
pub struct Lifecycle(Arc<Inner>);

struct Inner {
    soft: CancellationToken,
    hard: CancellationToken,
    tracker: TaskTracker,
    running: Mutex<BTreeMap<u64, Arc<str>>>,
    next_task: AtomicU64,
    died: Mutex<Option<String>>,
    reload: watch::Sender<u64>,
    drain: Duration,
}

impl Lifecycle {
    /// Makes a lifecycle that gives its tasks `drain` to finish once asked to stop.
    pub fn new(drain: Duration) -> Self {
        let (reload, _) = watch::channel(0);
        Self(Arc::new(Inner {
            soft: CancellationToken::new(),
            hard: CancellationToken::new(),
            tracker: TaskTracker::new(),
            running: Mutex::new(BTreeMap::new()),
            next_task: AtomicU64::new(0),
            died: Mutex::new(None),
            reload,
            drain,
        }))
    }

    /// Cancelled when the process stops taking new work: finish what is open and return.
    pub fn stopping(&self) -> CancellationToken {
        self.0.soft.clone()
    }

    /// Cancelled when what is still open is dropped.
    pub fn aborting(&self) -> CancellationToken {
        self.0.hard.clone()
    }

    /// Changes with each request to read files again.
    pub fn reloads(&self) -> watch::Receiver<u64> {
        self.0.reload.subscribe()
    }

    /// Asks for files to be read again, as SIGHUP does.
    pub fn reload(&self) {
        self.0.reload.send_modify(|count| *count += 1);
    }

    /// Stops taking new work and begins the drain, as the first signal does.
    pub fn stop(&self) {
        self.0.soft.cancel();
    }

    /// The names of the tasks at work, with how many of each.
    pub fn running(&self) -> BTreeMap<String, usize> {
        let running = self
            .0
            .running
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut names = BTreeMap::new();
        for name in running.values() {
            *names.entry(name.to_string()).or_insert(0) += 1;
        }
        names
    }

    /// Runs a task under a name, with what its end means.
    pub fn spawn<F, E>(&self, name: impl Into<Arc<str>>, effect: FailureEffect, future: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: fmt::Display + Send + 'static,
    {
        let this = self.clone();
        let entry = self.enter(name.into());
        self.start(async move {
            let name = Arc::clone(&entry.name);
            let ended = this.guarded(future).await;
            if this.0.soft.is_cancelled() {
                if let Ended::Failed(why) | Ended::Panicked(why) = ended {
                    warn!(task.name = %name, error = %why, "task {name} failed while stopping");
                }
                return;
            }
            match (effect, ended) {
                (_, Ended::Aborted) | (FailureEffect::Log, Ended::Finished) => {}
                (FailureEffect::Log, Ended::Failed(why)) => {
                    warn!(task.name = %name, error = %why, "task {name} failed");
                }
                (FailureEffect::Log, Ended::Panicked(why)) => {
                    error!(task.name = %name, error = %why, "task {name} panicked");
                }
                (FailureEffect::EndProcess, ended) => {
                    error!(task.name = %name, error = %ended, "task {name} ended unasked, the process stops");
                    this.died(&name);
                }
            }
        });
    }

    /// Runs a task that is made anew, after a growing pause, whenever it ends before the process does.
    pub fn spawn_restarting<M, F, E>(&self, name: impl Into<Arc<str>>, mut make: M)
    where
        M: FnMut() -> F + Send + 'static,
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: fmt::Display + Send + 'static,
    {
        let this = self.clone();
        let entry = self.enter(name.into());
        self.start(async move {
            let name = Arc::clone(&entry.name);
            let mut pause = RESTART_PAUSE;
            loop {
                let begun = tokio::time::Instant::now();
                let ended = this.guarded(make()).await;
                if this.0.soft.is_cancelled() {
                    return;
                }
                if begun.elapsed() >= RESTART_PAUSE_MAX {
                    pause = RESTART_PAUSE;
                }
                error!(task.name = %name, error = %ended, "task {name} ended, it starts again in {pause:?}");
                tokio::select! {
                    () = this.0.soft.cancelled() => return,
                    () = tokio::time::sleep(pause) => {}
                }
                pause = pause.saturating_mul(2).min(RESTART_PAUSE_MAX);
            }
        });
    }

    /// Waits for a signal, a stop or a task's death, then drains or aborts; answers how it ended.
    ///
    /// # Errors
    /// When the process may not listen for signals.
    pub async fn run(&self) -> std::io::Result<Ending> {
        let signals = self.listen()?;
        Ok(self.run_with(signals).await)
    }

    async fn run_with(&self, signals: impl Stream<Item = ()>) -> Ending {
        let mut signals = std::pin::pin!(signals.fuse());
        tokio::select! {
            () = self.0.soft.cancelled() => {}
            Some(()) = signals.next() => info!("asked to stop, draining"),
        }
        self.0.soft.cancel();
        self.0.tracker.close();
        let ending = tokio::select! {
            () = self.0.tracker.wait() => Ending::Drained,
            Some(()) = signals.next() => Ending::Aborted { stuck: self.stuck() },
            () = tokio::time::sleep(self.0.drain) => Ending::DrainTimedOut { stuck: self.stuck() },
        };
        if let Ending::Aborted { stuck } | Ending::DrainTimedOut { stuck } = &ending {
            warn!(task.names = ?stuck, "aborting what did not finish: {}", stuck.join(", "));
            self.0.hard.cancel();
            if tokio::time::timeout(ABORT_GRACE, self.0.tracker.wait())
                .await
                .is_err()
            {
                error!(task.names = ?self.stuck(), "tasks did not let go and are left behind");
            }
        }
        match self
            .0
            .died
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
        {
            Some(task) => Ending::TaskDied { task },
            None => ending,
        }
    }

    /// Turns SIGINT and SIGTERM into a stream, and SIGHUP into reloads.
    fn listen(&self) -> std::io::Result<impl Stream<Item = ()> + use<>> {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let (sender, receiver) = tokio::sync::mpsc::channel(SIGNALS_MAX);
        let this = self.clone();
        // Not tracked: it must outlive the drain to hear the second signal, and ends with the stream's receiver.
        spawn_untracked(async move {
            loop {
                tokio::select! {
                    Some(()) = interrupt.recv() => {}
                    Some(()) = terminate.recv() => {}
                    Some(()) = hangup.recv() => { this.reload(); continue }
                    () = sender.closed() => return,
                }
                if sender.try_send(()).is_err() {
                    warn!("a signal more than anything reacts to was dropped");
                }
            }
        });
        Ok(ReceiverStream::new(receiver))
    }

    async fn guarded<F, E>(&self, future: F) -> Ended
    where
        F: Future<Output = Result<(), E>>,
        E: fmt::Display,
    {
        tokio::select! {
            biased;
            () = self.0.hard.cancelled() => Ended::Aborted,
            ended = AssertUnwindSafe(future).catch_unwind() => match ended {
                Ok(Ok(())) => Ended::Finished,
                Ok(Err(why)) => Ended::Failed(format!("{why:#}")),
                Err(panic) => Ended::Panicked(panic_text(panic.as_ref())),
            },
        }
    }

    fn start(&self, future: impl Future<Output = ()> + Send + 'static) {
        spawn_untracked(self.0.tracker.track_future(future.in_current_span()));
    }

    fn enter(&self, name: Arc<str>) -> Entry {
        let id = self.0.next_task.fetch_add(1, Ordering::Relaxed);
        let mut running = self
            .0
            .running
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        running.insert(id, Arc::clone(&name));
        Entry {
            inner: Arc::clone(&self.0),
            id,
            name,
        }
    }

    fn died(&self, name: &str) {
        let mut died = self.0.died.lock().unwrap_or_else(PoisonError::into_inner);
        died.get_or_insert_with(|| name.to_owned());
        self.0.soft.cancel();
    }

    fn stuck(&self) -> Vec<String> {
        self.running()
            .into_iter()
            .map(|(name, count)| {
                if count > 1 {
                    format!("{name} x{count}")
                } else {
                    name
                }
            })
            .collect()
    }
}

/// Stands in the list of running tasks until dropped.
struct Entry {
    inner: Arc<Inner>,
    id: u64,
    name: Arc<str>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.inner
            .running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.id);
    }
}

enum Ended {
    Finished,
    Failed(String),
    Panicked(String),
    Aborted,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Finished => f.write_str("it returned"),
            Self::Failed(why) => f.write_str(why),
            Self::Panicked(why) => write!(f, "it panicked: {why}"),
            Self::Aborted => f.write_str("it was aborted"),
        }
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one place that spawns; everything else goes through Lifecycle"
)]
fn spawn_untracked(future: impl Future<Output = ()> + Send + 'static) {
    drop(tokio::spawn(future));
}

#[cfg(test)]
mod tests;
