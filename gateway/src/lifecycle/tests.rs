use std::convert::Infallible;
use std::sync::atomic::AtomicUsize;

use futures::stream;

use super::*;

const DRAIN: Duration = Duration::from_secs(10);

fn silent() -> impl Stream<Item = ()> {
    stream::pending()
}

#[tokio::test(start_paused = true)]
async fn a_task_that_dies_unasked_ends_the_process() {
    let lifecycle = Lifecycle::new(DRAIN);
    lifecycle.spawn("log sequencer", FailureEffect::EndProcess, async {
        Err("disk is full")
    });
    let ending = lifecycle.run_with(silent()).await;
    assert_eq!(
        ending,
        Ending::TaskDied {
            task: "log sequencer".into()
        }
    );
    assert_eq!(
        format!("{:?}", ending.exit_code()),
        format!("{:?}", ExitCode::FAILURE)
    );
}

#[tokio::test(start_paused = true)]
async fn a_task_that_returns_or_panics_unasked_ends_the_process_too() {
    let lifecycle = Lifecycle::new(DRAIN);
    lifecycle.spawn("listener", FailureEffect::EndProcess, async {
        Ok::<_, Infallible>(())
    });
    assert_eq!(
        lifecycle.run_with(silent()).await,
        Ending::TaskDied {
            task: "listener".into()
        }
    );
    let lifecycle = Lifecycle::new(DRAIN);
    lifecycle.spawn("worker", FailureEffect::EndProcess, async {
        assert!(lifecycle_is_fine(), "a defect");
        Ok::<_, Infallible>(())
    });
    assert_eq!(
        lifecycle.run_with(silent()).await,
        Ending::TaskDied {
            task: "worker".into()
        }
    );
}

fn lifecycle_is_fine() -> bool {
    false
}

#[tokio::test(start_paused = true)]
async fn one_signal_lets_open_work_finish() {
    let lifecycle = Lifecycle::new(DRAIN);
    let finished = Arc::new(AtomicUsize::new(0));
    let (done, stopping) = (Arc::clone(&finished), lifecycle.stopping());
    lifecycle.spawn("worker", FailureEffect::EndProcess, async move {
        stopping.cancelled().await;
        tokio::time::sleep(DRAIN / 2).await;
        done.fetch_add(1, Ordering::SeqCst);
        Ok::<_, Infallible>(())
    });
    let ending = lifecycle
        .run_with(stream::iter([()]).chain(stream::pending()))
        .await;
    assert_eq!(ending, Ending::Drained);
    assert_eq!(finished.load(Ordering::SeqCst), 1);
    assert!(lifecycle.running().is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_drain_deadline_names_who_is_stuck() {
    let lifecycle = Lifecycle::new(DRAIN);
    for _ in 0..2 {
        lifecycle.spawn(
            "attempt",
            FailureEffect::Log,
            std::future::pending::<Result<(), Infallible>>(),
        );
    }
    lifecycle.spawn(
        "mllp listener",
        FailureEffect::Log,
        std::future::pending::<Result<(), Infallible>>(),
    );
    lifecycle.stop();
    let begun = tokio::time::Instant::now();
    let ending = lifecycle.run_with(silent()).await;
    assert_eq!(begun.elapsed(), DRAIN);
    assert_eq!(
        ending,
        Ending::DrainTimedOut {
            stuck: vec!["attempt x2".into(), "mllp listener".into()]
        }
    );
    assert!(lifecycle.running().is_empty(), "aborted tasks are dropped");
}

#[tokio::test(start_paused = true)]
async fn the_second_signal_aborts_at_once() {
    let lifecycle = Lifecycle::new(DRAIN);
    lifecycle.spawn(
        "attempt",
        FailureEffect::Log,
        std::future::pending::<Result<(), Infallible>>(),
    );
    let begun = tokio::time::Instant::now();
    let ending = lifecycle
        .run_with(stream::iter([(), ()]).chain(stream::pending()))
        .await;
    assert_eq!(
        ending,
        Ending::Aborted {
            stuck: vec!["attempt".into()]
        }
    );
    assert!(begun.elapsed() < DRAIN);
}

#[tokio::test(start_paused = true)]
async fn a_restarting_task_runs_again_with_a_growing_pause() {
    let lifecycle = Lifecycle::new(DRAIN);
    let starts = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&starts);
    let begun = tokio::time::Instant::now();
    let stop = lifecycle.clone();
    lifecycle.spawn_restarting("poller", move || {
        let at = begun.elapsed();
        let mut seen = seen.lock().unwrap();
        seen.push(at);
        if seen.len() == 3 {
            stop.stop();
        }
        async { Err("not yet") }
    });
    assert_eq!(lifecycle.run_with(silent()).await, Ending::Drained);
    let starts = starts.lock().unwrap().clone();
    assert_eq!(starts, [Duration::ZERO, RESTART_PAUSE, RESTART_PAUSE * 3]);
}

#[tokio::test(start_paused = true)]
async fn failed_work_does_not_end_the_process() {
    let lifecycle = Lifecycle::new(DRAIN);
    lifecycle.spawn("connection", FailureEffect::Log, async {
        Err("reset by peer")
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!lifecycle.stopping().is_cancelled());
    assert!(lifecycle.running().is_empty());
}

#[tokio::test]
async fn a_reload_is_seen_by_who_watches() {
    let lifecycle = Lifecycle::new(DRAIN);
    let mut reloads = lifecycle.reloads();
    lifecycle.reload();
    assert!(reloads.has_changed().unwrap());
    assert_eq!(*reloads.borrow_and_update(), 1);
}
