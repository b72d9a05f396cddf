//! `waymark watch`: events as they happen, resumed by cursor when the connection is lost.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use waymark_adapters::grpc::convert::timestamp_from_proto;
use waymark_proto::v1;
use waymark_proto::v1::referral_service_client::ReferralServiceClient;

use super::client::{ClientArgs, ClientDuty};
use super::failure::Refusal;
use super::output::{self, Format, word};

/// The pause before a lost watch is resumed, doubled by each failure in a row up to [`PAUSE_MAX`].
const PAUSE: Duration = Duration::from_millis(500);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Follows what happens to an agency's referrals.
#[derive(Args, Debug)]
#[command(after_long_help = "Examples:
  waymark watch --as EE123456
  waymark watch --as EE123456 --from oldest --max 20
  waymark watch --as EE123456 --output json --cursor-file watch.cursor

With --output json each event is one line, with its cursor. Events may repeat after a resume: event_id stays the
same. A lost connection is resumed by itself; Ctrl-C ends.")]
pub(super) struct Options {
    /// Where to begin: oldest, now, or the cursor of the last event handled.
    #[arg(long, value_name = "oldest|now|CURSOR", default_value = "now")]
    from: String,
    /// Only this referral, by id; may be given several times.
    #[arg(long, value_name = "ID")]
    referral: Vec<String>,
    /// End after so many events.
    #[arg(long, value_name = "N")]
    max: Option<u64>,
    /// File that keeps the cursor; with one, the next run goes on where this one ended.
    #[arg(long, value_name = "FILE")]
    cursor_file: Option<PathBuf>,
    #[command(flatten)]
    client: ClientArgs,
}

impl Options {
    /// Follows until it is stopped or has seen enough.
    ///
    /// # Errors
    /// When the gateway refuses; a connection that is lost later is resumed.
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let channel = self.client.connect(ClientDuty::Agency).await?;
        let following = async {
            let mut watch = Watch {
                cursor: self.begin()?,
                seen: 0,
                failures: 0,
            };
            while !watch.is_done(&self) {
                let client = ReferralServiceClient::new(channel.clone());
                if let Err(error) = watch.follow(&self, client).await {
                    watch.pause(error).await?;
                }
            }
            Ok(ExitCode::SUCCESS)
        };
        tokio::select! {
            result = following => result,
            stopped = tokio::signal::ctrl_c() => {
                stopped.context("listen for Ctrl-C")?;
                Ok(ExitCode::SUCCESS)
            }
        }
    }

    /// The cursor to begin with: the file's, where it holds one, else the one asked for.
    fn begin(&self) -> anyhow::Result<String> {
        if let Some(path) = &self.cursor_file {
            match std::fs::read_to_string(path) {
                Ok(text) if !text.trim().is_empty() => return Ok(text.trim().to_owned()),
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => {
                    return Err(error).with_context(|| format!("read {}", path.display()));
                }
            }
        }
        Ok(if is_start(&self.from) {
            String::new()
        } else {
            self.from.clone()
        })
    }

    fn ask(&self, cursor: &str) -> v1::WatchReferralsRequest {
        let start = if self.from == "oldest" {
            v1::WatchStart::Oldest
        } else {
            v1::WatchStart::Now
        };
        v1::WatchReferralsRequest {
            cursor: cursor.to_owned(),
            start: start.into(),
            referral_ids: self.referral.clone(),
        }
    }
}

fn is_start(from: &str) -> bool {
    matches!(from, "oldest" | "now")
}

/// How far a watch is.
struct Watch {
    cursor: String,
    seen: u64,
    failures: u32,
}

impl Watch {
    fn is_done(&self, options: &Options) -> bool {
        options.max.is_some_and(|max| self.seen >= max)
    }

    async fn follow(
        &mut self,
        options: &Options,
        mut client: ReferralServiceClient<tonic::transport::Channel>,
    ) -> anyhow::Result<()> {
        let steps = client
            .watch_referrals(options.ask(&self.cursor))
            .await
            .map_err(Refusal::from)?;
        let mut steps = steps.into_inner();
        while !self.is_done(options) {
            let Some(step) = steps.message().await.map_err(Refusal::from)? else {
                return Err(Refusal::from(tonic::Status::unavailable("the stream ended")).into());
            };
            self.failures = 0;
            if step.event.is_some() {
                match output::format() {
                    Format::Json => output::json(&step)?,
                    Format::Human => {
                        output::line(&step.event.as_ref().map(text).unwrap_or_default())?;
                    }
                }
                self.seen += 1;
            }
            self.cursor = step.cursor;
            if let Some(path) = &options.cursor_file {
                keep(path, &self.cursor)?;
            }
        }
        Ok(())
    }

    /// Waits before the next try; gives up on what no repeat can mend.
    async fn pause(&mut self, error: anyhow::Error) -> anyhow::Result<()> {
        let passing = error
            .downcast_ref::<Refusal>()
            .filter(|refusal| refusal.passing);
        let Some(refusal) = passing else {
            return Err(error);
        };
        let pause = PAUSE
            .saturating_mul(1 << self.failures.min(6))
            .min(PAUSE_MAX);
        output::note(&format!("waymark: {}, resuming", refusal.message));
        self.failures += 1;
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

/// Replaces the cursor's file as a whole, so that a crash leaves the old or the new one.
fn keep(path: &std::path::Path, cursor: &str) -> anyhow::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    std::fs::write(&beside, cursor)
        .and_then(|()| std::fs::rename(&beside, path))
        .with_context(|| format!("write {}", path.display()))
}

/// An event in one line.
fn text(event: &v1::ReferralEvent) -> String {
    let at = event
        .at
        .as_ref()
        .and_then(|at| timestamp_from_proto("at", at).ok());
    let kind = word(event.kind().as_str_name(), "REFERRAL_EVENT_KIND_");
    let mut parts = vec![
        at.map(|at| at.to_string()).unwrap_or_default(),
        event.reference.clone(),
        kind,
    ];
    if let Some(leg) = &event.leg {
        let said = |word: String| Some(word).filter(|w| !w.is_empty() && w != "none");
        parts.push(leg.service_id.clone());
        parts.extend(said(word(leg.state().as_str_name(), "LEG_STATE_")));
        parts.extend(said(word(
            leg.delivery_state().as_str_name(),
            "DELIVERY_STATE_",
        )));
        parts.extend(said(word(leg.evidence().as_str_name(), "EVIDENCE_GRADE_")));
    }
    if let Some(status) = event.status.as_ref().filter(|s| !s.reason_code.is_empty()) {
        parts.push(format!("reason {}", status.reason_code));
    }
    if event.effect() == v1::UpdateEffect::OutOfOrder {
        parts.push("out of order, kept".to_owned());
    }
    if let Some(park) = &event.park {
        let owner = park
            .owner
            .as_ref()
            .map(|o| format!(" for {} ({})", o.role, o.agency_id))
            .unwrap_or_default();
        parts.push(format!("parked {}{owner}", park.reason_code));
    }
    parts.retain(|part| !part.is_empty());
    parts.join("  ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_reads_as_one_line_of_reference_kind_and_states() {
        let leg = v1::Leg {
            service_id: "community-paediatrics".to_owned(),
            state: v1::LegState::Accepted.into(),
            delivery_state: v1::DeliveryState::Done.into(),
            evidence: v1::EvidenceGrade::ApplicationAck.into(),
            ..v1::Leg::default()
        };
        let event = v1::ReferralEvent {
            kind: v1::ReferralEventKind::Status.into(),
            reference: "WM-AAAAA-BBBBB-CCCCC".to_owned(),
            at: Some(pbjson_types::Timestamp {
                seconds: 1_700_000_000,
                nanos: 0,
            }),
            leg: Some(leg),
            effect: v1::UpdateEffect::OutOfOrder.into(),
            ..v1::ReferralEvent::default()
        };
        assert_eq!(
            text(&event),
            "2023-11-14T22:13:20.000Z  WM-AAAAA-BBBBB-CCCCC  status  community-paediatrics  accepted  done  \
             application_ack  out of order, kept"
        );
    }

    #[test]
    fn the_kept_cursor_is_replaced_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cursor");
        keep(&path, "one").unwrap();
        keep(&path, "two").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "two");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
