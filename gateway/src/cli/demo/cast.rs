//! Everybody who takes part, each at its own address.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use tonic::transport::Channel;
use waymark_adapters::grpc::convert::sender_reference_to_proto;
use waymark_adapters::stand_in::mesh::{Hub, OURS, THEIRS, WORKFLOW};
use waymark_core::directory::Directory;
use waymark_proto::v1;
use waymark_proto::v1::audit_service_client::AuditServiceClient;
use waymark_proto::v1::get_receipt_request::Subject;
use waymark_proto::v1::referral_key::Key;

use super::admin::Admin;
use super::bars::{self, Bars};
use super::board::Board;
use super::deployment::{self, FarSides, Place};
use super::hearing::{self, Hearing};
use super::hospital::{Hospital, Power};
use super::ledger::Ledger;
use super::papers::Callers;
use super::portage::{self, Portage};
use super::post::{self, ReceiptKey};
use super::samples::{self, Referred};
use super::school::{self, School};
use super::therapy::Therapy;
use super::verdict::SPECIALIST;
use super::{ADMIN, AUDITOR, COUNCIL, SOCIAL_CARE, families, log, push};
use crate::app::{App, Duty};
use crate::cli::failure::Refusal;
use crate::cli::https::Reserved;
use crate::clock::SystemClock;
use crate::lifecycle::Lifecycle;
use crate::telemetry::Telemetry;

/// Everybody who takes part.
pub(super) struct Cast {
    /// Where it plays.
    pub(super) place: Place,
    /// Who is in the area.
    pub(super) directory: Directory,
    /// Who submits over gRPC.
    pub(super) school: School,
    /// Whoever is taken down.
    pub(super) hospital: Hospital,
    therapy: Therapy,
    bars: Bars,
    hearing: Hearing,
    portage: Portage,
    /// Ledgers of those who only take: by gRPC, by mailbox and for families.
    takers: Vec<Arc<Ledger>>,
    /// Connections of agencies that refer otherwise than by gRPC, by code.
    referrers: BTreeMap<&'static str, Channel>,
    /// Who sees every delivery.
    pub(super) admin: Admin,
    auditor: Channel,
    /// The hub that the hearing service and the gateway share.
    pub(super) hub: Hub,
    hub_url: String,
}

impl Cast {
    /// Has everybody take their places, in a folder of its own or in the one asked for.
    ///
    /// # Errors
    /// When the gateway or an agency cannot start.
    pub(super) async fn open(
        dir: Option<&Path>,
        lifecycle: &Lifecycle,
        telemetry: &Telemetry,
        board: &Board,
    ) -> anyhow::Result<Self> {
        let hospital = Hospital::open(lifecycle)?;
        hospital.turn(Power::Up).await?;
        let doors = Doors::take().await?;
        let key = ReceiptKey::generate()?;
        let far = doors.far_sides(hospital.address, key.public())?;
        let place = Place::make(dir, &far)?;
        let directory = place.directory()?;
        let app = App::start(&place.config, Duty::Serve, lifecycle, telemetry.metrics()).await;
        let app = app.context("start the gateway")?;
        let grpc = app.grpc.context("the gateway does not listen for gRPC")?;
        place.settle(&app, grpc)?;
        hospital.answer_to(Place::hospital_listener(&app)?);
        let callback = app.callback.context("the gateway takes no callbacks")?;
        let fhir = app.fhir.context("the gateway does not listen for FHIR")?;
        let therapy = Therapy::open(doors.therapy, place.therapy_trust()?, callback, lifecycle);

        let own = |name, agency: &str| place.papers(name, &format!("waymark:test:agency:{agency}"));
        let bars_papers = own("Southmere Children's Occupational Therapy", bars::AGENCY)?;
        let bars = Bars::open(
            doors.bars,
            bars_papers.server(Callers::Certified)?,
            place.client(bars::AGENCY)?,
            fhir,
            lifecycle,
        )?;
        let mesh = Hub::new(Arc::new(SystemClock));
        let papers = place.papers("MESH hub", "urn:demo:mesh")?;
        let tls = papers.server(Callers::Certified)?;
        doors
            .hub
            .serve("demo MESH hub", tls, mesh.routes(), lifecycle);
        let url = format!("https://{}", far.hub);
        let hearing = Hearing::open(&url, place.client(hearing::AGENCY)?, lifecycle)?;
        let portage = Portage::open(place.portage_folder()?, lifecycle);

        let papers = own("Southmere Child and Adolescent Mental Health", push::AGENCY)?;
        let channel = place.connect(push::AGENCY, grpc).await?;
        let mut takers = vec![push::open(doors.push, &papers, channel, lifecycle)?];
        let papers = place.papers("Family messages", "urn:demo:notify")?;
        takers.push(families::open(
            doors.families,
            papers.server(Callers::Anybody)?,
            &directory,
            place.reports(callback, &papers)?,
            lifecycle,
        ));
        takers.extend(clerks(&place, grpc, key, lifecycle).await?);
        let mut referrers = BTreeMap::new();
        for agency in [bars::AGENCY, hearing::AGENCY, portage::AGENCY] {
            referrers.insert(agency, place.connect(agency, grpc).await?);
        }
        let school = School::open(place.connect(school::AGENCY, grpc).await?, lifecycle);
        let admin = Admin::new(place.connect(ADMIN, grpc).await?);
        let auditor = place.connect(AUDITOR, grpc).await?;
        board.say(&format!(
            "a gateway is up in {}: gRPC {grpc}, FHIR {fhir}, callbacks {callback}",
            place.dir().display()
        ))?;
        board.say(&format!(
            "its agencies: MLLP {}, webhook {}, gRPC {}, FHIR {}, a MESH hub {}, family messages {}, files in {}, four mailboxes",
            far.hospital, far.therapy, far.push, far.bars, far.hub, far.families, place.portage_folder()?.display()
        ))?;
        Ok(Self {
            place,
            directory,
            school,
            hospital,
            therapy,
            bars,
            hearing,
            portage,
            takers,
            referrers,
            admin,
            auditor,
            hub: mesh,
            hub_url: url,
        })
    }

    /// What each agency took in.
    pub(super) fn ledgers(&self) -> Vec<&Ledger> {
        let own = [
            &*self.hospital.ledger,
            &*self.therapy.ledger,
            &*self.bars.ledger,
            &*self.hearing.ledger,
            &*self.portage.ledger,
        ];
        own.into_iter()
            .chain(self.takers.iter().map(|ledger| &**ledger))
            .collect()
    }

    /// Has somebody else than the school refer a child.
    ///
    /// # Errors
    /// When its message cannot be handed over.
    pub(super) async fn refer(&self, one: &Referred) -> anyhow::Result<()> {
        match one.planned.from {
            bars::AGENCY => self.bars.refer(&one.bytes).await,
            hearing::AGENCY => self.hearing.refer(&one.bytes).await,
            portage::AGENCY => self.portage.refer(&one.bytes),
            other => bail!("{other} refers nobody"),
        }
    }

    /// The receipt of what somebody else than the school referred, once there is one.
    ///
    /// # Errors
    /// When the gateway does not answer.
    pub(super) async fn receipt_of(&self, one: &Referred) -> anyhow::Result<Option<v1::Receipt>> {
        let channel = self.referrers.get(one.planned.from).context("nobody")?;
        let reference = one.planned.referral.sender_reference.as_ref();
        let key = Key::SenderReference(sender_reference_to_proto(
            reference.context("no reference")?,
        ));
        let ask = v1::GetReceiptRequest {
            subject: Some(Subject::Key(v1::ReferralKey { key: Some(key) })),
            want_proof: true,
        };
        let mut client = AuditServiceClient::new(channel.clone());
        match client.get_receipt(ask).await {
            Ok(answer) => Ok(answer.into_inner().receipt),
            Err(status) if status.code() == tonic::Code::NotFound => Ok(None),
            Err(status) => Err(Refusal::from(status)).context("ask for a receipt"),
        }
    }

    /// Exports the log and verifies it.
    ///
    /// # Errors
    /// When it cannot be fetched or written.
    pub(super) async fn verify_log(
        &self,
        receipts: &[v1::Receipt],
    ) -> anyhow::Result<log::Verified> {
        log::verify(
            self.auditor.clone(),
            self.place.log_vkey(),
            self.place.dir(),
            receipts,
        )
        .await
    }

    /// What the reader can try, word for word.
    ///
    /// # Errors
    /// When the deployment has no folder for files.
    pub(super) fn invitation(&self) -> anyhow::Result<String> {
        let place = &self.place;
        let program = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("waymark"));
        let here = std::env::current_dir().unwrap_or_default();
        let program = program.strip_prefix(&here).unwrap_or(&program);
        let command = |rest: &str| format!("  {} {rest}\n", program.display());
        let config = place.config_path().display();
        let school = school::AGENCY;
        let (spare, message) = (
            place.spare(samples::SPARE),
            place.spare(samples::SPARE_MESSAGE),
        );
        let (spare, message) = (spare.display(), message.display());
        let (password, key) = (
            place.secret_path(deployment::MESH_PASSWORD),
            place.secret_path(deployment::MESH_KEY),
        );
        let tree = place.dir().join(log::FOLDER);
        Ok([
        "everything stays up until Ctrl-C. In another terminal:\n".to_owned(),
        command(&format!("watch --config {config} --as {school}")),
        command(&format!(
            "route explain --config {config} --as {school} {spare}"
        )),
        command(&format!("send --config {config} --as {school} {spare}")),
        command(&format!(
            "send --config {config} --as {} {message}",
            bars::AGENCY
        )),
        command(&format!(
            "send --folder {} {spare}",
            place.portage_folder()?.display()
        )),
        command(&format!(
            "send --config {config} --as {} --mesh {} --mailbox {THEIRS} --to {OURS} --workflow {WORKFLOW} \
             --password-file {} --shared-key-file {} {spare}",
            hearing::AGENCY,
            self.hub_url,
            password.display(),
            key.display(),
        )),
        command(&format!(
            "audit verify {} --vkey '{}'",
            tree.display(),
            place.log_vkey()
        )),
    ]
    .concat())
    }
}

/// The addresses of those who listen, taken before the gateway knows of them.
struct Doors {
    therapy: Reserved,
    push: Reserved,
    bars: Reserved,
    hub: Reserved,
    families: Reserved,
}

impl Doors {
    async fn take() -> anyhow::Result<Self> {
        Ok(Self {
            therapy: Reserved::take().await?,
            push: Reserved::take().await?,
            bars: Reserved::take().await?,
            hub: Reserved::take().await?,
            families: Reserved::take().await?,
        })
    }

    fn far_sides(&self, hospital: SocketAddr, receipt_key: String) -> anyhow::Result<FarSides> {
        Ok(FarSides {
            hospital,
            therapy: self.therapy.address()?,
            push: self.push.address()?,
            bars: self.bars.address()?,
            hub: self.hub.address()?,
            families: self.families.address()?,
            receipt_key,
        })
    }
}

/// Those who fetch their post from a mailbox; the specialist team signs its receipts.
async fn clerks(
    place: &Place,
    gateway: SocketAddr,
    key: ReceiptKey,
    lifecycle: &Lifecycle,
) -> anyhow::Result<Vec<Arc<Ledger>>> {
    let mut ledgers = Vec::new();
    for (agency, key) in [
        (school::AGENCY, None),
        (SPECIALIST, Some(key)),
        (COUNCIL, None),
        (SOCIAL_CARE, None),
    ] {
        let channel = place.connect(agency, gateway).await?;
        ledgers.push(post::open(agency, channel, key, lifecycle));
    }
    Ok(ledgers)
}
