//! Following referrals: everything that the log says of them, from a cursor on, and never silence without a sign.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use futures::stream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tonic::Status;
use waymark_core::access::Principal;
use waymark_core::error::ErrorKind;
use waymark_core::id::ReferralId;
use waymark_core::port::ReferralView;
use waymark_proto::v1;

use super::super::cursor::{self, Kind};
use super::super::face::{Caller, Face};
use super::super::status::{CURSOR_OUT_OF_RANGE, field, refusal};
use super::super::write;
use super::{Answers, required};
use crate::service::{Key, ServiceError};

/// The longest silence of a watch: a step without an event then says where it stands.
pub const HEARTBEAT: Duration = Duration::from_secs(15);
/// Referrals that one watch may name.
pub const WATCHED_MAX: usize = 200;
/// How often the log is looked at when nothing says that it grew; another instance may have extended it.
const LOOK: Duration = Duration::from_secs(1);

/// A watch at work. Nothing is read ahead of the client: the next step is made when it takes the last one.
struct Watching {
    face: Face,
    caller: Caller,
    only: BTreeSet<ReferralId>,
    next: u64,
    ready: VecDeque<v1::WatchReferralsResponse>,
    spoke: Instant,
    _room: OwnedSemaphorePermit,
}

/// Begins a watch.
pub(super) async fn begin(
    face: Face,
    caller: Caller,
    ask: v1::WatchReferralsRequest,
    room: OwnedSemaphorePermit,
) -> Result<Answers<v1::WatchReferralsResponse>, ServiceError> {
    if ask.referral_ids.len() > WATCHED_MAX {
        return Err(field("referral_ids", format!("at most {WATCHED_MAX}")));
    }
    let ids = ask
        .referral_ids
        .iter()
        .zip(0..)
        .map(|(id, at)| required(&format!("referral_ids[{at}]"), id));
    let only = ids.collect::<Result<_, _>>()?;
    let end = face.service.feed_end().await?;
    let next = if ask.cursor.is_empty() {
        match v1::WatchStart::try_from(ask.start) {
            Ok(v1::WatchStart::Oldest) => 0,
            Ok(v1::WatchStart::Now | v1::WatchStart::Unspecified) => end,
            Err(_) => {
                return Err(field(
                    "start",
                    format!("{} is not a value this release knows", ask.start),
                ));
            }
        }
    } else {
        let position = cursor::read_text(Kind::Watch, scope(&caller.principal), &ask.cursor);
        let next = position.as_deref().and_then(cursor::number);
        let next = next.ok_or_else(|| field("cursor", "is not a cursor of a watch of yours"))?;
        if next > end {
            let why =
                "is beyond the log: it came from another deployment, or from before a restore";
            return Err(ServiceError::new(ErrorKind::Invalid, CURSOR_OUT_OF_RANGE)
                .with_violation("cursor", why));
        }
        next
    };
    // The first feed says at once whether the caller may watch.
    face.service.feed(&caller.principal, end).await?;
    let mut watching = Watching {
        face,
        caller,
        only,
        next,
        ready: VecDeque::new(),
        spoke: Instant::now(),
        _room: room,
    };
    watching.beat();
    Ok(Box::pin(stream::try_unfold(
        watching,
        |mut watching| async move {
            let step = watching.step().await?;
            Ok(Some((step, watching)))
        },
    )))
}

/// What a watch's cursor is bound to.
fn scope(principal: &Principal) -> &[u8] {
    principal.agency.as_str().as_bytes()
}

impl Watching {
    async fn step(&mut self) -> Result<v1::WatchReferralsResponse, Status> {
        loop {
            if let Some(step) = self.ready.pop_front() {
                self.spoke = Instant::now();
                return Ok(step);
            }
            if self.face.stopping.is_cancelled() {
                return Err(Face::gone());
            }
            let before = self.next;
            self.look().await.map_err(|e| refusal(&e))?;
            if !self.ready.is_empty() {
                continue;
            }
            let quiet = self.spoke.elapsed();
            if quiet >= HEARTBEAT {
                self.beat();
            } else if self.next == before {
                let stopping = self.face.stopping.clone();
                tokio::select! {
                    () = stopping.cancelled() => {}
                    () = self.face.service.log_grown(LOOK.min(HEARTBEAT.saturating_sub(quiet))) => {}
                }
            }
        }
    }

    /// Reads one window of the log. Whether the caller may still watch is asked each time.
    async fn look(&mut self) -> Result<(), ServiceError> {
        let principal = self.face.principal(&self.caller.peer)?;
        let page = self.face.service.feed(&principal, self.next).await?;
        let mut seen: BTreeMap<ReferralId, Option<ReferralView>> = BTreeMap::new();
        for event in &page.events {
            if !self.only.is_empty() && !self.only.contains(&event.referral) {
                continue;
            }
            let Some(index) = event.log_index else {
                continue;
            };
            let view = match seen.entry(event.referral) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => new.insert(self.visible(&principal, event.referral).await?),
            };
            let cursor = self.cursor(index + 1);
            self.ready.push_back(v1::WatchReferralsResponse {
                cursor,
                event: Some(write::event(event, view.as_ref())),
            });
        }
        self.next = page.next;
        Ok(())
    }

    /// The referral as it stands; none where the caller may no longer see it.
    async fn visible(
        &self,
        principal: &Principal,
        id: ReferralId,
    ) -> Result<Option<ReferralView>, ServiceError> {
        match self.face.service.referral(principal, &Key::Id(id)).await {
            Ok(view) => Ok(Some(view)),
            Err(refused) if refused.kind == ErrorKind::NotFound => Ok(None),
            Err(refused) => Err(refused),
        }
    }

    fn beat(&mut self) {
        let cursor = self.cursor(self.next);
        self.ready.push_back(v1::WatchReferralsResponse {
            cursor,
            event: None,
        });
    }

    fn cursor(&self, next: u64) -> String {
        cursor::write_text(
            Kind::Watch,
            scope(&self.caller.principal),
            &next.to_be_bytes(),
        )
    }
}
