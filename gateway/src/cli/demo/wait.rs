//! Waiting for something to become so: looked at often, and never without an end.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

/// How often it is looked.
const LOOK: Duration = Duration::from_millis(100);

/// Looks until there is an answer, at most so long; `None` when there was none in time.
///
/// # Errors
/// The first error of a look.
pub(super) async fn until<T>(
    within: Duration,
    mut look: impl AsyncFnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<Option<T>> {
    let end = Instant::now() + within;
    let mut ticks = interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let found = look().await?;
        if found.is_some() || Instant::now() >= end {
            return Ok(found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_wait_ends_with_the_answer_or_with_its_time() {
        let mut looks = 0;
        let found = until(Duration::from_secs(10), async || {
            looks += 1;
            Ok((looks == 5).then_some("found"))
        });
        assert_eq!(found.await.unwrap(), Some("found"));
        let begun = Instant::now();
        let never = until(Duration::from_secs(10), async || Ok(None::<()>)).await;
        assert_eq!(never.unwrap(), None);
        assert!(begun.elapsed() < Duration::from_secs(11));
    }
}
