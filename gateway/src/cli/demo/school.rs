//! The school: submits over gRPC, keeps its receipts, and follows what happens to what it sent.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use waymark_adapters::grpc::convert::referral_to_proto;
use waymark_proto::v1;
use waymark_proto::v1::referral_key::Key;
use waymark_proto::v1::referral_service_client::ReferralServiceClient;
use waymark_proto::v1::submit_referrals_response::Result as Became;

use super::samples::Planned;
use crate::cli::failure::Refusal;
use crate::lifecycle::{FailureEffect, Lifecycle};

/// The school's code in the directory: `EE` and its URN.
pub(super) const AGENCY: &str = "EE123456";

/// Events of a watch that the school keeps.
const EVENTS_MAX: usize = 50_000;
/// Most referrals asked for in one page.
const PAGE: u32 = 200;
/// Most pages of the school's own referrals.
const PAGES_MAX: usize = 100;
/// The pause before a watch that ended is opened again.
const PAUSE: Duration = Duration::from_millis(250);

/// The school at work.
pub(super) struct School {
    client: ReferralServiceClient<Channel>,
    seen: Arc<Seen>,
}

/// What the watch has told the school, each event once.
#[derive(Default)]
struct Seen {
    inner: Mutex<SeenInner>,
}

#[derive(Default)]
struct SeenInner {
    events: BTreeSet<String>,
    accepted: BTreeSet<String>,
    statuses: BTreeSet<(String, String, i32)>,
    cursor: String,
}

impl Seen {
    fn lock(&self) -> MutexGuard<'_, SeenInner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, step: v1::WatchReferralsResponse) {
        let mut seen = self.lock();
        seen.cursor = step.cursor;
        let Some(event) = step.event else { return };
        if seen.events.len() >= EVENTS_MAX || !seen.events.insert(event.event_id.clone()) {
            return;
        }
        let service = event
            .leg
            .as_ref()
            .map(|leg| leg.service_id.clone())
            .unwrap_or_default();
        match v1::ReferralEventKind::try_from(event.kind) {
            Ok(v1::ReferralEventKind::Accepted) => {
                seen.accepted.insert(event.reference);
            }
            Ok(v1::ReferralEventKind::Status) => {
                let state = event.status.map_or(0, |status| status.state);
                seen.statuses.insert((event.reference, service, state));
            }
            _ => {}
        }
    }
}

impl School {
    /// Starts to watch.
    pub(super) fn open(channel: Channel, lifecycle: &Lifecycle) -> Self {
        let client = ReferralServiceClient::new(channel);
        let seen = Arc::new(Seen::default());
        let watching = watch(client.clone(), Arc::clone(&seen), lifecycle.stopping());
        lifecycle.spawn("demo school's watch", FailureEffect::EndProcess, watching);
        Self { client, seen }
    }

    /// Submits many on one stream; each item has its own answer.
    ///
    /// # Errors
    /// When the stream breaks or an item is not answered.
    pub(super) async fn submit_all(
        &self,
        planned: &[Planned],
    ) -> anyhow::Result<BTreeMap<String, Result<v1::Receipt, Refusal>>> {
        let items: Vec<_> = planned
            .iter()
            .map(|p| v1::SubmitReferralsRequest {
                item_id: p.request_id.clone(),
                request_id: p.request_id.clone(),
                referral: Some(referral_to_proto(&p.referral)),
                want_proof: true,
            })
            .collect();
        let answers = self
            .client
            .clone()
            .submit_referrals(futures::stream::iter(items))
            .await;
        let mut answers = answers
            .map_err(Refusal::from)
            .context("open a stream of referrals")?
            .into_inner();
        let mut became = BTreeMap::new();
        while let Some(answer) = answers
            .message()
            .await
            .map_err(Refusal::from)
            .context("submit a stream")?
        {
            let result = match answer.result {
                Some(Became::Receipt(receipt)) => Ok(receipt),
                Some(Became::Error(error)) => Err(Refusal::from(error)),
                None => bail!("item {} was answered with nothing", answer.item_id),
            };
            if became.insert(answer.item_id.clone(), result).is_some() {
                bail!("item {} was answered twice", answer.item_id);
            }
        }
        Ok(became)
    }

    /// Submits one.
    ///
    /// # Errors
    /// When it is refused.
    pub(super) async fn submit(&self, planned: &Planned) -> Result<v1::Receipt, Refusal> {
        let ask = v1::SubmitReferralRequest {
            request_id: planned.request_id.clone(),
            referral: Some(referral_to_proto(&planned.referral)),
            want_proof: true,
        };
        let answer = self
            .client
            .clone()
            .submit_referral(ask)
            .await
            .map_err(Refusal::from)?
            .into_inner();
        Ok(answer.receipt.unwrap_or_default())
    }

    /// Cancels one.
    ///
    /// # Errors
    /// When it is refused.
    pub(super) async fn cancel(
        &self,
        planned: &Planned,
        referral_id: &str,
    ) -> Result<Vec<v1::LegEffect>, Refusal> {
        let ask = v1::CancelReferralRequest {
            request_id: format!("{}-cancel", planned.request_id),
            key: Some(v1::ReferralKey {
                key: Some(Key::ReferralId(referral_id.to_owned())),
            }),
            cancellation: Some(v1::Cancellation {
                reason: v1::CancelReason::MovedAway.into(),
                text: "The family has moved.".to_owned(),
            }),
            want_proof: false,
        };
        Ok(self
            .client
            .clone()
            .cancel_referral(ask)
            .await
            .map_err(Refusal::from)?
            .into_inner()
            .legs)
    }

    /// The states of its referrals' legs, by leg.
    ///
    /// # Errors
    /// When the gateway does not answer.
    pub(super) async fn legs(&self) -> anyhow::Result<BTreeMap<String, i32>> {
        let mut legs = BTreeMap::new();
        let mut ask = v1::ListReferralsRequest {
            page_size: PAGE,
            ..v1::ListReferralsRequest::default()
        };
        for _ in 0..PAGES_MAX {
            let page = self.client.clone().list_referrals(ask.clone()).await;
            let page = page
                .map_err(Refusal::from)
                .context("list the school's referrals")?
                .into_inner();
            legs.extend(
                page.referrals
                    .into_iter()
                    .flat_map(|r| r.legs)
                    .map(|leg| (leg.leg_id, leg.state)),
            );
            if page.next_page_token.is_empty() {
                break;
            }
            ask.page_token = page.next_page_token;
        }
        Ok(legs)
    }

    /// References of referrals that the watch has shown as accepted.
    pub(super) fn saw_accepted(&self) -> BTreeSet<String> {
        self.seen.lock().accepted.clone()
    }

    /// Whether the watch has shown this state of a referral at a service.
    pub(super) fn saw_status(&self, reference: &str, service: &str, state: v1::LegState) -> bool {
        let wanted = (reference.to_owned(), service.to_owned(), i32::from(state));
        self.seen.lock().statuses.contains(&wanted)
    }
}

/// Watches until told to stop, from the last cursor on when a stream ends.
async fn watch(
    mut client: ReferralServiceClient<Channel>,
    seen: Arc<Seen>,
    stop: CancellationToken,
) -> Result<(), std::convert::Infallible> {
    while !stop.is_cancelled() {
        tokio::select! {
            () = stop.cancelled() => {}
            ended = follow(&mut client, &seen) => {
                if let Err(why) = ended {
                    tracing::debug!(error = %why, "the school's watch ended");
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    Ok(())
}

async fn follow(
    client: &mut ReferralServiceClient<Channel>,
    seen: &Seen,
) -> Result<(), tonic::Status> {
    let cursor = seen.lock().cursor.clone();
    let ask = v1::WatchReferralsRequest {
        cursor,
        start: v1::WatchStart::Oldest.into(),
        referral_ids: Vec::new(),
    };
    let mut steps = client.watch_referrals(ask).await?.into_inner();
    while let Some(step) = steps.message().await? {
        seen.note(step);
    }
    Ok(())
}
