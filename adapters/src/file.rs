//! Files in a folder or over SFTP: messages with a manifest out, receipts, statuses and referrals in.
//!
//! Lost on the way: with `payload = "canonical"` nothing. With `hl7v2` what [`crate::hl7v2::map::LOSSES`] says, but
//! documents travel beside the message. With `csv` nothing that a referral says: spaces around a text and the
//! difference between a blank and an absent text go; what repeats more often than there are columns for
//! (`columns`) is refused. Documents larger than [`INLINE_BYTES_MAX`] together go by reference.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::{Instant, timeout_at};
use waymark_core::delivery::{Outcome, ParkReason, Repeat, Why};
use waymark_core::directory::{Endpoint, Environment};
use waymark_core::error::Violation;
use waymark_core::port::{
    Adapter, Collected, Deadline, Identification, Intake, Outbound, Probe, RenderError, Rendered,
    Sent, Source,
};
use waymark_core::time::Clock;

use crate::connect::{self, ConnectError, Stage};
use crate::context::{AdapterContext, EgressPolicy, Secrets};
use crate::settings;
use config::{Settings, Transport};
use folder::Folder;
use inbox::Round;
use place::{Place, PlaceError, Sub};
use seen::{Seen, Since};
use sftp::{Reached, Remote};

mod answers;
mod bare;
mod cell;
mod columns;
mod config;
mod folder;
mod inbox;
pub(crate) mod inspect;
mod name;
mod outbox;
mod package;
mod place;
mod seen;
pub mod send;
mod sftp;
mod table;
mod wire;

pub use name::{NAME_CHARS_MAX, Name, NotAName};
pub use package::{FileRole, Format, ListedFile, MANIFEST_SUFFIX, MANIFEST_VERSION, Manifest};

/// What the codes of its outcomes begin with.
const ADAPTER: &str = "file";
/// Bytes of one message's documents that lie beside it; the rest go by reference.
pub const INLINE_BYTES_MAX: u64 = 10 * 1024 * 1024;
/// How long a session may take to end.
const GOODBYE: Duration = Duration::from_secs(2);
/// The file that a probe writes and removes; readers pass over what ends so.
const PROBE_FILE: &str = "waymark-probe.part";

/// The file adapter.
pub struct FileDrop {
    root: Option<PathBuf>,
    secrets: Arc<dyn Secrets>,
    clock: Arc<dyn Clock>,
    environment: Environment,
    egress: EgressPolicy,
    seen: Seen,
}

impl std::fmt::Debug for FileDrop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileDrop")
            .field("environment", &self.environment)
            .finish_non_exhaustive()
    }
}

impl FileDrop {
    pub(crate) fn new(context: &AdapterContext) -> Self {
        Self {
            root: context.files_root.clone(),
            secrets: Arc::clone(&context.secrets),
            clock: Arc::clone(&context.clock),
            environment: context.environment,
            egress: context.egress,
            seen: Seen::default(),
        }
    }

    async fn open(
        &self,
        settings: &Settings,
        until: Instant,
    ) -> Result<Place, (Reached, PlaceError)> {
        match &settings.transport {
            Transport::Folder { directory } => {
                let late = |_| {
                    (
                        Reached::Identity,
                        ConnectError::Timeout(Stage::Application).into(),
                    )
                };
                let Some(root) = &self.root else {
                    return Err((Reached::Nothing, PlaceError::NoFolder));
                };
                let opened = timeout_at(until, Folder::open(root, directory))
                    .await
                    .map_err(late)?;
                opened
                    .map(Place::Folder)
                    .map_err(|error| (Reached::Identity, error))
            }
            Transport::Sftp(sftp) => Remote::open(sftp, &*self.secrets, until)
                .await
                .map(|remote| Place::Sftp(Box::new(remote))),
        }
    }

    /// The settings, when they are of the agency that the message was bound to.
    fn bound(&self, message: &Outbound<'_>) -> Result<Settings, Outcome> {
        let settings = Settings::read(message.endpoint, self.egress)
            .map_err(|faults| settings::parked(ADAPTER, &faults))?;
        settings::bound(ADAPTER, message, None)?;
        Ok(settings)
    }

    async fn try_out(place: &Place) -> Result<(), PlaceError> {
        place.list(Sub::Outbox, 1).await?;
        place.list(Sub::Inbox, 1).await?;
        let Ok(name) = Name::parse(PROBE_FILE) else {
            return Ok(());
        };
        place.remove(Sub::Outbox, &name).await?;
        place.put(Sub::Outbox, &name, b"probe\n").await?;
        place.remove(Sub::Outbox, &name).await
    }
}

async fn goodbye(place: Place) {
    if let Place::Sftp(remote) = place {
        remote.close(Instant::now() + GOODBYE).await;
    }
}

#[async_trait]
impl Adapter for FileDrop {
    fn repeat(&self, _endpoint: &Endpoint) -> Repeat {
        Repeat::DedupesById
    }

    fn identification(&self, _endpoint: &Endpoint) -> Identification {
        Identification::Path
    }

    fn validate(&self, endpoint: &Endpoint) -> Vec<Violation> {
        match Settings::read(endpoint, self.egress) {
            Err(faults) => faults,
            Ok(settings) => match settings.transport {
                Transport::Folder { .. } if self.root.is_none() => {
                    let why = "needs files.root in waymark.toml: folders lie below it";
                    vec![Violation::new("settings.directory", why)]
                }
                Transport::Folder { .. } | Transport::Sftp(_) => Vec::new(),
            },
        }
    }

    fn render(&self, source: &Source, endpoint: &Endpoint) -> Result<Rendered, RenderError> {
        let settings = Settings::read(endpoint, self.egress).map_err(settings::unusable)?;
        wire::render(source, endpoint, &settings, self.environment)
    }

    async fn deliver(&self, message: &Outbound<'_>, deadline: Deadline) -> Outcome {
        let until = Instant::now() + deadline.within;
        let settings = match self.bound(message) {
            Ok(settings) => settings,
            Err(outcome) => return outcome,
        };
        let Some(package) = package::unpack(message.rendered.bytes.expose()) else {
            let why = Why::new(
                "file.stored",
                "what was stored of this message is no set of files",
            );
            return Outcome::Park {
                reason: ParkReason::Poison,
                why,
            };
        };
        let place = match self.open(&settings, until).await {
            Ok(place) => place,
            Err((_, error)) => return outbox::not_sent(&error),
        };
        let outcome = outbox::write(&place, &package, settings.waiting_max, until).await;
        goodbye(place).await;
        outcome
    }

    fn inline_bytes_max(&self, _endpoint: &Endpoint) -> u64 {
        INLINE_BYTES_MAX
    }

    fn collect_every(&self, endpoint: &Endpoint) -> Option<Duration> {
        Settings::read(endpoint, self.egress)
            .ok()
            .map(|settings| settings.every)
    }

    async fn collect(
        &self,
        endpoint: &Endpoint,
        _sent: &[Sent],
        intake: &dyn Intake,
        deadline: Deadline,
    ) -> Collected {
        let until = Instant::now() + deadline.within;
        let stopped = |code: &str, text: String| Collected {
            stopped: Some(Why::new(code, text)),
            ..Collected::default()
        };
        let settings = match Settings::read(endpoint, self.egress) {
            Ok(settings) => settings,
            Err(faults) => {
                let why = settings::why(ADAPTER, &faults);
                return stopped(&why.code, why.text);
            }
        };
        let place = match self.open(&settings, until).await {
            Ok(place) => place,
            Err((_, error)) => return stopped("file.folder", error.to_string()),
        };
        let round = Round {
            place: &place,
            endpoint,
            settings: &settings,
            intake,
            now: self.clock.now(),
            until,
            seen: &self.seen,
            since: Since::default(),
            crowded: false,
            collected: Collected::default(),
        };
        let collected = round.run().await;
        goodbye(place).await;
        collected
    }

    async fn probe(&self, endpoint: &Endpoint, deadline: Deadline) -> Probe {
        let until = Instant::now() + deadline.within;
        let Ok(settings) = Settings::read(endpoint, self.egress) else {
            return connect::unusable("the endpoint's settings are wrong: see directory check");
        };
        let reached = match self.open(&settings, until).await {
            Ok(place) => {
                let tried = timeout_at(until, Self::try_out(&place)).await;
                goodbye(place).await;
                let tried = tried.unwrap_or(Err(ConnectError::Timeout(Stage::Application).into()));
                tried.map_err(|error| (Reached::Identity, error))
            }
            Err(unreached) => Err(unreached),
        };
        staged(&settings, &reached)
    }
}

/// A probe's stages: SSH stands for both TLS and identity; a folder of this machine has neither.
fn staged(settings: &Settings, reached: &Result<(), (Reached, PlaceError)>) -> Probe {
    let is_folder = matches!(settings.transport, Transport::Folder { .. });
    let failed_at = reached.as_ref().err().map(|(reached, error)| match error {
        _ if is_folder => Stage::Application,
        PlaceError::Connect(error) => error.stage(),
        // Nothing is tried without our key.
        PlaceError::Key(_) => Stage::Name,
        PlaceError::WrongHost => Stage::Identity,
        _ => match reached {
            Reached::Nothing => Stage::Tcp,
            Reached::Tcp => Stage::Tls,
            Reached::Identity => Stage::Application,
        },
    });
    let told = |stage: Stage| match failed_at {
        _ if is_folder && stage < Stage::Application => {
            let why = "a folder of this machine: its path is what identifies it";
            stage.told(None, why)
        }
        Some(failed) if stage == failed => {
            let why = reached.as_ref().err().map(|(_, error)| error.to_string());
            stage.told(Some(false), why.unwrap_or_default())
        }
        Some(failed) if stage > failed => stage.told(None, "not tried"),
        Some(_) | None => {
            let how = match stage {
                Stage::Tls => "SSH, not TLS",
                Stage::Application => "listed, and a file written and removed",
                Stage::Name | Stage::Tcp | Stage::Identity => "passed",
            };
            stage.told(Some(true), how)
        }
    };
    Probe {
        stages: Stage::ALL.map(told).into(),
    }
}

#[cfg(test)]
mod tests;
