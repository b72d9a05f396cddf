//! Steps of attempts that come together: each stands or falls alone, whoever waits for it.

use futures::FutureExt as _;
use futures::future::join_all;
use waymark_core::delivery::{DeliveryState, Evidence};
use waymark_core::port::{DeliveryStore as _, Leased, StoreError, WorkClass};

use super::fixture::{Bench, bench, next};

/// Children with a delivery each, all leased.
async fn leased(bench: &Bench, children: usize) -> Vec<Leased> {
    for child in 0..children {
        bench.send(&format!("child-{child}"), &["mllp"]).await;
    }
    let leased = bench.lease(WorkClass::Fresh, "mllp", 0).await;
    assert_eq!(leased.len(), children);
    leased
}

#[tokio::test]
async fn a_step_that_fails_among_others_fails_alone() {
    let Some(bench) = bench().await else { return };
    let mut heads = leased(&bench, 20).await;
    // One lease that was lost, and one attempt that is not the next.
    heads[3].token.fence += 1;
    heads[11].attempts = 7;
    let opened = join_all(heads.iter().map(|head| bench.open(head, 1))).await;
    for (n, opened) in opened.iter().enumerate() {
        let as_it_should_be = match n {
            3 => matches!(opened, Err(StoreError::LeaseLost)),
            11 => matches!(opened, Err(StoreError::Stale)),
            _ => opened.is_ok(),
        };
        assert!(as_it_should_be, "{n}: {opened:?}");
    }
    let attempting = "SELECT COUNT(*) FROM delivery WHERE state = 'attempting' AND attempts = 1";
    assert_eq!(bench.number(attempting).await, 18);
    assert_eq!(
        bench.number("SELECT COUNT(*) FROM log_outbox").await,
        20 + 18,
        "what failed left no entry"
    );
    assert_eq!(bench.faults().await, [], "nor a count");
    let done = next(DeliveryState::Done, Evidence::ApplicationAck);
    let good = heads
        .iter()
        .enumerate()
        .filter(|(n, _)| ![3, 11].contains(n));
    let closing = good.map(|(_, head)| {
        let close = bench.closing(head, 1, done.clone(), 2);
        bench.store.close_attempt(close)
    });
    for closed in join_all(closing).await {
        closed.unwrap();
    }
    assert_eq!(bench.number("SELECT COUNT(*) FROM lane").await, 2);
    assert_eq!(bench.faults().await, []);
}

#[tokio::test]
async fn a_caller_who_goes_away_leaves_nothing_half_done() {
    let Some(bench) = bench().await else { return };
    let heads = leased(&bench, 8).await;
    for head in &heads {
        // Polled once and dropped: asked for, and not waited for.
        drop(bench.open(head, 1).now_or_never());
    }
    for head in &heads {
        let again = bench.open(head, 2).await;
        // Either it was done for whoever went away, or it is done now.
        assert!(
            matches!(again, Ok(()) | Err(StoreError::Stale)),
            "{again:?}"
        );
    }
    let opened = "SELECT COUNT(*) FROM delivery WHERE state = 'attempting' AND attempts = 1";
    assert_eq!(bench.number(opened).await, 8);
    assert_eq!(bench.number("SELECT COUNT(*) FROM attempt").await, 8);
    assert_eq!(bench.faults().await, []);
}
