//! Connections kept between messages: one message in flight on each, and nothing of a message kept with it.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use tokio::time::Instant;
use tokio_util::codec::Framed;
use waymark_core::directory::Endpoint;
use waymark_core::id::EndpointId;

use super::super::mllp::MllpCodec;
use super::super::peer::Stream;
use crate::limits::{CONNECTION_AGE_MAX, POOL_ENTRIES_MAX};

/// How long a connection is kept without a message.
pub const CONNECTION_IDLE_MAX: Duration = Duration::from_mins(1);

/// A connection to a peer that proved who it is when it was made.
pub(super) struct Line {
    /// The frames on it.
    pub(super) frames: Framed<Box<dyn Stream>, MllpCodec>,
    /// When it was made.
    pub(super) made_at: Instant,
    /// Whether a message was answered on it.
    pub(super) has_served: bool,
}

impl Line {
    pub(super) fn new(stream: Box<dyn Stream>, made_at: Instant) -> Self {
        Self {
            frames: Framed::new(stream, MllpCodec::default()),
            made_at,
            has_served: false,
        }
    }

    /// Whether nothing waits on it: an end or a frame that nobody asked for makes it useless to the next message.
    fn is_quiet(&mut self) -> bool {
        self.frames.next().now_or_never().is_none() && !self.frames.codec().is_inside_frame()
    }
}

struct Kept {
    made_from: Endpoint,
    idle_since: Instant,
    line: Line,
}

impl Kept {
    fn is_fresh(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.idle_since) < CONNECTION_IDLE_MAX
            && now.saturating_duration_since(self.line.made_at) < CONNECTION_AGE_MAX
    }
}

/// The connections that wait for a message, by endpoint.
#[derive(Default)]
pub(super) struct Lines(Mutex<BTreeMap<EndpointId, Vec<Kept>>>);

impl Lines {
    /// Takes a connection out that was made from the same settings for the same agency and is still open.
    pub(super) fn take(&self, endpoint: &Endpoint, now: Instant) -> Option<Line> {
        self.close_idle(now);
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = all.get_mut(&endpoint.id)?;
        while let Some(mut each) = kept.pop() {
            let same = each.made_from.settings == endpoint.settings
                && each.made_from.agency == endpoint.agency;
            if same && each.line.is_quiet() {
                return Some(each.line);
            }
        }
        None
    }

    /// Keeps a connection for the next message: of one endpoint no more than it may have attempts at the same time.
    pub(super) fn keep(&self, endpoint: &Endpoint, mut line: Line, now: Instant) {
        line.has_served = true;
        let most = usize::try_from(endpoint.concurrency).unwrap_or(usize::MAX);
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= POOL_ENTRIES_MAX && !all.contains_key(&endpoint.id) {
            return;
        }
        let kept = all.entry(endpoint.id.clone()).or_default();
        if kept.len() < most {
            kept.push(Kept {
                made_from: endpoint.clone(),
                idle_since: now,
                line,
            });
        }
    }

    /// Whether no connection waits.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_empty()
    }

    /// Closes what has been idle too long or has grown old, of every endpoint.
    pub(super) fn close_idle(&self, now: Instant) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for kept in all.values_mut() {
            kept.retain(|each| each.is_fresh(now));
        }
        all.retain(|_, kept| !kept.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncWriteExt, DuplexStream, duplex};

    use super::*;
    use crate::hl7v2::config::tests::{PLAIN, endpoint};

    fn line(now: Instant) -> (Line, DuplexStream) {
        let (own, other) = duplex(64);
        (Line::new(Box::new(own), now), other)
    }

    #[tokio::test]
    async fn a_connection_serves_its_own_settings_and_agency_alone() {
        let (lines, now) = (Lines::default(), Instant::now());
        let endpoint = endpoint(PLAIN);
        for change in [
            |e: &mut Endpoint| drop(e.settings.insert("port".into(), 1.into())),
            |e: &mut Endpoint| e.agency = "RDE".parse().unwrap(),
            |e: &mut Endpoint| e.id = "other".parse().unwrap(),
        ] {
            let (kept, _other) = line(now);
            lines.keep(&endpoint, kept, now);
            let mut changed = endpoint.clone();
            change(&mut changed);
            assert!(lines.take(&changed, now).is_none());
        }
        let (kept, _other) = line(now);
        lines.keep(&endpoint, kept, now);
        assert!(lines.take(&endpoint, now).is_some());
        while lines.take(&endpoint, now).is_some() {}
        assert!(lines.take(&endpoint, now).is_none(), "taken is gone");
    }

    #[tokio::test]
    async fn idle_old_closed_and_noisy_connections_are_not_used() {
        let (lines, now) = (Lines::default(), Instant::now());
        let endpoint = endpoint(PLAIN);
        let (kept, _other) = line(now);
        lines.keep(&endpoint, kept, now);
        let within = now + CONNECTION_IDLE_MAX - Duration::from_millis(1);
        let kept = lines.take(&endpoint, within).unwrap();
        lines.keep(&endpoint, kept, now);
        assert!(lines.take(&endpoint, now + CONNECTION_IDLE_MAX).is_none());

        let (kept, _other) = line(now);
        let old = now + CONNECTION_AGE_MAX;
        lines.keep(&endpoint, kept, old);
        assert!(lines.take(&endpoint, old).is_none());

        let (kept, other) = line(now);
        drop(other);
        lines.keep(&endpoint, kept, now);
        assert!(lines.take(&endpoint, now).is_none(), "the peer closed it");

        let (kept, mut other) = line(now);
        other.write_all(b"\x0blate\x1c\r").await.unwrap();
        lines.keep(&endpoint, kept, now);
        assert!(
            lines.take(&endpoint, now).is_none(),
            "a late answer waits on it"
        );
    }

    #[tokio::test]
    async fn an_endpoint_keeps_no_more_than_it_may_use_at_a_time() {
        let (lines, now) = (Lines::default(), Instant::now());
        let mut endpoint = endpoint(PLAIN);
        endpoint.concurrency = 2;
        let held: Vec<DuplexStream> = (0..3)
            .map(|_| {
                let (kept, other) = line(now);
                lines.keep(&endpoint, kept, now);
                other
            })
            .collect();
        assert!(lines.take(&endpoint, now).is_some());
        assert!(lines.take(&endpoint, now).is_some());
        assert!(lines.take(&endpoint, now).is_none());
        assert_eq!(held.len(), 3);
    }
}
