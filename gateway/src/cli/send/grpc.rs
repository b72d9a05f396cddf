//! Referrals over one SubmitReferrals stream, bounded, in the order of their files; passing faults are repeated.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use waymark_adapters::grpc::convert::referral_to_proto;
use waymark_proto::v1;
use waymark_proto::v1::get_receipt_request::Subject;
use waymark_proto::v1::referral_service_client::ReferralServiceClient;
use waymark_proto::v1::submit_referrals_response::Result as Answer;

use super::super::failure::Refusal;
use super::super::receipts::{self, Saved};
use super::{Accepted, Content, Outcome, Sending, Source, source};

/// How often items are sent that met a passing fault.
const ROUNDS_MAX: u32 = 5;
/// The pause before such a round, unless the gateway names a longer one.
const PAUSE: Duration = Duration::from_millis(250);
/// The longest pause that is waited.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// An item that met a passing fault.
struct Again<'s> {
    source: &'s Source,
    refusal: Refusal,
}

/// Sends JSON files; each gets its outcome.
pub(super) async fn send(sending: &mut Sending<'_>, sources: &[Source]) -> anyhow::Result<()> {
    let mut open: VecDeque<&Source> = sources.iter().collect();
    for round in 1..=ROUNDS_MAX {
        let again = stream(sending, &mut open).await?;
        if again.is_empty() {
            return Ok(());
        }
        if round == ROUNDS_MAX {
            for item in again {
                let why = item.refusal.to_string();
                sending.done(item.source, Outcome::Unanswered { why })?;
            }
            return Ok(());
        }
        let longest = again
            .iter()
            .filter_map(|a| a.refusal.retry_after)
            .max()
            .unwrap_or(PAUSE);
        tokio::time::sleep(longest.clamp(PAUSE, PAUSE_MAX)).await;
        open = again.into_iter().map(|a| a.source).collect();
    }
    Ok(())
}

/// Sends items over one stream; answers those worth another try.
async fn stream<'s>(
    sending: &mut Sending<'_>,
    open: &mut VecDeque<&'s Source>,
) -> anyhow::Result<Vec<Again<'s>>> {
    let limit = sending.options.in_flight;
    let channel = sending.channel().await?;
    let (sender, receiver) = mpsc::channel(limit);
    let mut sender = Some(sender);
    let mut at_work: BTreeMap<u64, &'s Source> = BTreeMap::new();
    let mut again = Vec::new();
    // The first items go before the call, which a server may answer only once something has come.
    fill(sending, open, &mut at_work, &mut sender).await?;
    if at_work.is_empty() {
        return Ok(again);
    }
    let call = ReferralServiceClient::new(channel)
        .submit_referrals(ReceiverStream::new(receiver))
        .await;
    let lost = match call {
        Err(status) => Some(Refusal::from(status)),
        Ok(answers) => {
            let mut answers = answers.into_inner();
            loop {
                match answers.message().await {
                    Ok(Some(answer)) => {
                        let named: Option<u64> = answer.item_id.parse().ok();
                        let Some(source) = named.and_then(|n| at_work.remove(&n)) else {
                            continue;
                        };
                        take(sending, source, answer.result, &mut again).await?;
                        fill(sending, open, &mut at_work, &mut sender).await?;
                    }
                    Ok(None) => {
                        break (!at_work.is_empty()).then(|| {
                            Refusal::from(tonic::Status::unavailable("the stream ended early"))
                        });
                    }
                    Err(status) => break Some(Refusal::from(status)),
                }
            }
        }
    };
    if let Some(refusal) = lost {
        if !refusal.passing {
            return Err(refusal.into());
        }
        again.extend(at_work.into_values().map(|source| Again {
            source,
            refusal: refusal.clone(),
        }));
        again.extend(open.drain(..).map(|source| Again {
            source,
            refusal: refusal.clone(),
        }));
    }
    Ok(again)
}

/// Puts items on the stream until it has as many at work as it may, and closes it after the last.
async fn fill<'s>(
    sending: &mut Sending<'_>,
    open: &mut VecDeque<&'s Source>,
    at_work: &mut BTreeMap<u64, &'s Source>,
    sender: &mut Option<mpsc::Sender<v1::SubmitReferralsRequest>>,
) -> anyhow::Result<()> {
    while at_work.len() < sending.options.in_flight {
        let Some(source) = open.pop_front() else {
            *sender = None;
            return Ok(());
        };
        let (referral, digest) = match source::read(source) {
            Ok(Content::Referral(referral, digest)) => (referral, digest),
            Ok(Content::Hl7(..) | Content::Fhir(..)) => continue,
            Err(refused) => {
                sending.done(source, Outcome::Refused(refused))?;
                continue;
            }
        };
        let request_id = sending.options.request_id.clone().unwrap_or(digest);
        sending.numbered += 1;
        let item = v1::SubmitReferralsRequest {
            item_id: sending.numbered.to_string(),
            request_id,
            referral: Some(referral_to_proto(&referral)),
            want_proof: sending.options.wants_proof(),
        };
        let Some(stream) = sender.as_ref() else {
            return Ok(());
        };
        at_work.insert(sending.numbered, source);
        if stream.send(item).await.is_err() {
            // The call has ended: its error, not this, is what is shown.
            return Ok(());
        }
    }
    Ok(())
}

async fn take<'s>(
    sending: &mut Sending<'_>,
    source: &'s Source,
    answer: Option<Answer>,
    again: &mut Vec<Again<'s>>,
) -> anyhow::Result<()> {
    let outcome = match answer {
        Some(Answer::Receipt(receipt)) => taken(sending, receipt).await,
        Some(Answer::Error(status)) => {
            let refusal = Refusal::from(status);
            if refusal.passing {
                again.push(Again { source, refusal });
                return Ok(());
            }
            Outcome::Refused(refusal.into())
        }
        None => Outcome::Unanswered {
            why: "the answer is empty".to_owned(),
        },
    };
    sending.done(source, outcome)
}

async fn taken(sending: &Sending<'_>, receipt: v1::Receipt) -> Outcome {
    let duplicate = receipt.duplicate;
    let mut accepted = Accepted::of(&receipt);
    if let Some(folder) = &sending.options.receipts {
        accepted = accepted.with_receipt(kept(sending, receipt, folder).await);
    }
    if duplicate {
        Outcome::Repeated(accepted)
    } else {
        Outcome::Accepted(accepted)
    }
}

/// Writes a receipt, after asking for its proof once more where that was not ready.
async fn kept(sending: &Sending<'_>, receipt: v1::Receipt, folder: &Path) -> anyhow::Result<Saved> {
    let receipt = match &sending.channel {
        Some(channel) if receipt.tlog_proof.is_empty() => {
            receipts::fetch(channel.clone(), Subject::EventId(receipt.event_id)).await?
        }
        _ => receipt,
    };
    receipts::save(
        folder,
        &receipt,
        sending.options.client.log_vkey()?.as_ref(),
    )
}
