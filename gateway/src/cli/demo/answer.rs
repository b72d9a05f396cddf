//! What an agency says of its own accord: said again until the gateway has taken it.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::ledger::Ledger;
use crate::lifecycle::{FailureEffect, Lifecycle};

/// How often it is said before it counts as refused.
const TRIES_MAX: u32 = 8;
/// How long one try may take.
const WITHIN: Duration = Duration::from_secs(10);
/// The pause before the next, longer each time.
const PAUSE: Duration = Duration::from_millis(100);

/// Says it in a task of its own; where it is never taken, that is a fault of the agency's ledger.
pub(super) fn later<F>(
    lifecycle: &Lifecycle,
    ledger: &Arc<Ledger>,
    what: String,
    say: impl Fn() -> F + Send + 'static,
) where
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let ledger = Arc::clone(ledger);
    let name = format!("demo answer of {}", ledger.agency());
    lifecycle.spawn(name, FailureEffect::Log, async move {
        let mut last = String::new();
        for attempt in 1..=TRIES_MAX {
            match timeout(WITHIN, say()).await {
                Ok(Ok(())) => return Ok::<(), Infallible>(()),
                Ok(Err(why)) => last = format!("{why:#}"),
                Err(_) => "no answer in time".clone_into(&mut last),
            }
            tokio::time::sleep(PAUSE.saturating_mul(attempt)).await;
        }
        ledger.fault(format!("{what} was not taken: {last}"));
        Ok(())
    });
}
