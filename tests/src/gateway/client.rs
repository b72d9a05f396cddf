//! One identity's way to the gateway: mutual TLS, the generated clients, and the calls that tests make most.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use prost::Message as _;
use serde_json::Value;
use tonic::Status;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic_types::StatusExt as _;
use waymark_core::directory::SourceFile;
use waymark_proto::v1;
use waymark_proto::v1::admin_service_client::AdminServiceClient;
use waymark_proto::v1::audit_service_client::AuditServiceClient;
use waymark_proto::v1::directory_service_client::DirectoryServiceClient;
use waymark_proto::v1::download_document_response::Part as Out;
use waymark_proto::v1::mailbox_service_client::MailboxServiceClient;
use waymark_proto::v1::referral_key::Key;
use waymark_proto::v1::referral_service_client::ReferralServiceClient;
use waymark_proto::v1::upload_document_request::Part as In;

use super::{PATIENCE, wait_until};

/// The longest that one call may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of one chunk of a document, as the contract says.
const CHUNK_BYTES: usize = 256 * 1024;

/// One identity's way to the gateway.
#[derive(Clone, Debug)]
pub struct Client {
    /// The connection.
    pub channel: Channel,
}

/// A piece of post as a mailbox lent it, and what it says.
#[derive(Clone, Debug)]
pub struct Post {
    /// The loan.
    pub lent: v1::ReceiveResponse,
    /// What it says.
    pub dispatch: v1::Dispatch,
}

/// The fields that a refusal names.
pub fn field_violations(status: &Status) -> Vec<String> {
    let details = status.get_error_details();
    details
        .bad_request()
        .map(|b| b.field_violations.iter().map(|v| v.field.clone()).collect())
        .unwrap_or_default()
}

/// The stable reason of a refusal.
pub fn reason_of(status: &Status) -> String {
    status
        .get_error_details()
        .error_info()
        .map(|info| info.reason.clone())
        .unwrap_or_default()
}

impl Client {
    /// Connects with a certificate.
    ///
    /// # Errors
    /// When the gateway does not take the connection.
    pub async fn connect(
        address: SocketAddr,
        ca: &[u8],
        cert: &[u8],
        key: &[u8],
    ) -> anyhow::Result<Self> {
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(ca))
            .identity(Identity::from_pem(cert, key))
            .domain_name("localhost");
        let endpoint = Endpoint::from_shared(format!("https://{address}"))?
            .tls_config(tls)?
            .timeout(CALL_TIMEOUT);
        Ok(Self {
            channel: endpoint.connect().await.context("connect to the gateway")?,
        })
    }

    /// Sending and following.
    pub fn referrals(&self) -> ReferralServiceClient<Channel> {
        ReferralServiceClient::new(self.channel.clone())
    }

    /// Fetching post.
    pub fn mailbox(&self) -> MailboxServiceClient<Channel> {
        MailboxServiceClient::new(self.channel.clone())
    }

    /// The directory.
    pub fn directory(&self) -> DirectoryServiceClient<Channel> {
        DirectoryServiceClient::new(self.channel.clone())
    }

    /// The delivery log.
    pub fn audit(&self) -> AuditServiceClient<Channel> {
        AuditServiceClient::new(self.channel.clone())
    }

    /// Operating.
    pub fn admin(&self) -> AdminServiceClient<Channel> {
        AdminServiceClient::new(self.channel.clone())
    }

    /// Submits a referral under a message key.
    ///
    /// # Errors
    /// The gateway's refusal.
    pub async fn try_submit(
        &self,
        request_id: &str,
        referral: &Value,
    ) -> Result<v1::Receipt, Status> {
        let read =
            |e: serde_json::Error| Status::internal(format!("the test's referral is not one: {e}"));
        let request = v1::SubmitReferralRequest {
            request_id: request_id.to_owned(),
            referral: Some(serde_json::from_value(referral.clone()).map_err(read)?),
            want_proof: false,
        };
        let response = self
            .referrals()
            .submit_referral(request)
            .await?
            .into_inner();
        response
            .receipt
            .ok_or_else(|| Status::internal("no receipt"))
    }

    /// Submits a referral that must be taken.
    ///
    /// # Errors
    /// When it is refused, with the fields.
    pub async fn submit(&self, request_id: &str, referral: &Value) -> anyhow::Result<v1::Receipt> {
        let taken = self.try_submit(request_id, referral).await;
        taken.map_err(|status| anyhow::anyhow!("{status:?}: {:?}", field_violations(&status)))
    }

    /// Uploads a document, in chunks, under a message key; `sha256` is what the upload says of it.
    ///
    /// # Errors
    /// The gateway's refusal.
    pub async fn upload(
        &self,
        request_id: &str,
        media_type: &str,
        content: &[u8],
        sha256: &[u8],
    ) -> Result<v1::UploadDocumentResponse, Status> {
        let metadata = v1::DocumentMetadata {
            request_id: request_id.to_owned(),
            media_type: media_type.to_owned(),
            sha256: sha256.to_vec(),
            size_bytes: u64::try_from(content.len()).unwrap_or(u64::MAX),
            file_name: "report.pdf".to_owned(),
            ..v1::DocumentMetadata::default()
        };
        let chunks = content.chunks(CHUNK_BYTES).map(|c| In::Chunk(c.to_vec()));
        let parts = std::iter::once(In::Metadata(metadata)).chain(chunks);
        let parts: Vec<_> = parts
            .map(|part| v1::UploadDocumentRequest { part: Some(part) })
            .collect();
        let mut service = self.referrals();
        let answer = service.upload_document(tokio_stream::iter(parts)).await?;
        Ok(answer.into_inner())
    }

    /// Downloads a document by its id: what the gateway says of it, and its bytes.
    ///
    /// # Errors
    /// The gateway's refusal.
    pub async fn download(&self, id: &str) -> Result<(v1::DocumentRef, Vec<u8>), Status> {
        let request = v1::DownloadDocumentRequest {
            document_id: id.to_owned(),
            purpose: v1::AccessPurpose::DirectCare.into(),
        };
        let mut parts = self
            .referrals()
            .download_document(request)
            .await?
            .into_inner();
        let (mut described, mut content) = (None, Vec::new());
        while let Some(part) = parts.message().await? {
            match part.part {
                Some(Out::Document(document)) => described = Some(document),
                Some(Out::Chunk(chunk)) => content.extend(chunk),
                None => {}
            }
        }
        let described = described.ok_or_else(|| Status::internal("it was not described"))?;
        Ok((described, content))
    }

    /// A referral by id.
    ///
    /// # Errors
    /// The gateway's refusal.
    pub async fn referral(&self, id: &str) -> anyhow::Result<v1::ReferralRecord> {
        let request = v1::GetReferralRequest {
            key: Some(referral_key(id)),
            include_content: false,
            purpose: 0,
        };
        let response = self.referrals().get_referral(request).await?.into_inner();
        response.referral.context("no referral")
    }

    /// The one leg of a referral.
    ///
    /// # Errors
    /// When it has another number of legs.
    pub async fn leg(&self, id: &str) -> anyhow::Result<v1::Leg> {
        let mut legs = self.referral(id).await?.legs;
        anyhow::ensure!(legs.len() == 1, "{} legs", legs.len());
        legs.pop().context("a leg")
    }

    /// Waits until the one leg of a referral shows a delivery state.
    ///
    /// # Errors
    /// When it does not come.
    pub async fn leg_shows(&self, id: &str, state: v1::DeliveryState) -> anyhow::Result<v1::Leg> {
        wait_until(&format!("the delivery is {state:?}"), PATIENCE, || async {
            let leg = self.leg(id).await?;
            Ok((leg.delivery_state() == state).then_some(leg))
        })
        .await
    }

    /// Reports the state of the caller's leg.
    ///
    /// # Errors
    /// The gateway's refusal.
    pub async fn status(
        &self,
        id: &str,
        version: u64,
        state: v1::LegState,
    ) -> Result<v1::UpdateStatusResponse, Status> {
        let change = v1::StatusChange {
            state: state.into(),
            source_version: version,
            reason_code: if state == v1::LegState::Declined {
                "RRNA".to_owned()
            } else {
                String::new()
            },
            ..v1::StatusChange::default()
        };
        let request = v1::UpdateStatusRequest {
            key: Some(referral_key(id)),
            leg_id: String::new(),
            change: Some(change),
            want_proof: false,
        };
        Ok(self.referrals().update_status(request).await?.into_inner())
    }

    /// Cancels a referral.
    ///
    /// # Errors
    /// The gateway's refusal.
    pub async fn cancel(
        &self,
        request_id: &str,
        id: &str,
    ) -> Result<v1::CancelReferralResponse, Status> {
        let request = v1::CancelReferralRequest {
            request_id: request_id.to_owned(),
            key: Some(referral_key(id)),
            cancellation: Some(v1::Cancellation {
                reason: v1::CancelReason::NoLongerNeeded.into(),
                text: String::new(),
            }),
            want_proof: false,
        };
        Ok(self
            .referrals()
            .cancel_referral(request)
            .await?
            .into_inner())
    }

    /// Replaces a referral's content.
    ///
    /// # Errors
    /// The gateway's refusal.
    pub async fn amend(
        &self,
        request_id: &str,
        id: &str,
        referral: &Value,
    ) -> anyhow::Result<v1::Receipt> {
        let request = v1::AmendReferralRequest {
            request_id: request_id.to_owned(),
            key: Some(referral_key(id)),
            expected_version: self.referral(id).await?.version,
            referral: Some(serde_json::from_value(referral.clone())?),
            ..v1::AmendReferralRequest::default()
        };
        let response = self.referrals().amend_referral(request).await?.into_inner();
        response.receipt.context("no receipt")
    }

    /// Deliveries of a referral, oldest first.
    ///
    /// # Errors
    /// The gateway's refusal.
    pub async fn deliveries(&self, referral: &str) -> anyhow::Result<Vec<v1::Delivery>> {
        let request = v1::ListDeliveriesRequest {
            referral: Some(referral_key(referral)),
            ..v1::ListDeliveriesRequest::default()
        };
        let mut found = self
            .admin()
            .list_deliveries(request)
            .await?
            .into_inner()
            .deliveries;
        // Ids hold their time.
        found.sort_by(|one, other| one.delivery_id.cmp(&other.delivery_id));
        Ok(found)
    }

    /// One delivery with its attempts.
    ///
    /// # Errors
    /// The gateway's refusal.
    pub async fn delivery(&self, id: &str) -> anyhow::Result<(v1::Delivery, Vec<v1::Attempt>)> {
        let request = v1::GetDeliveryRequest {
            delivery_id: id.to_owned(),
            ..v1::GetDeliveryRequest::default()
        };
        let response = self.admin().get_delivery(request).await?.into_inner();
        Ok((response.delivery.context("no delivery")?, response.attempts))
    }

    /// Waits until a delivery is in a state.
    ///
    /// # Errors
    /// When it does not come there.
    pub async fn delivery_is(
        &self,
        id: &str,
        state: v1::DeliveryState,
    ) -> anyhow::Result<v1::Delivery> {
        wait_until(&format!("delivery {id} is {state:?}"), PATIENCE, || async {
            let (delivery, _) = self.delivery(id).await?;
            Ok((delivery.state() == state).then_some(delivery))
        })
        .await
    }

    /// Open alarms of a kind.
    ///
    /// # Errors
    /// The gateway's refusal.
    pub async fn alarms(&self, kind: &str) -> anyhow::Result<Vec<v1::Alarm>> {
        let request = v1::ListAlarmsRequest {
            kind: kind.to_owned(),
            ..v1::ListAlarmsRequest::default()
        };
        Ok(self.admin().list_alarms(request).await?.into_inner().alarms)
    }

    /// The conservation check.
    ///
    /// # Errors
    /// The gateway's refusal.
    pub async fn conservation(&self) -> anyhow::Result<v1::GetConservationResponse> {
        Ok(self
            .admin()
            .get_conservation(v1::GetConservationRequest {})
            .await?
            .into_inner())
    }

    /// Makes files the next release of the directory; answers its number.
    ///
    /// # Errors
    /// When it is refused, with every finding.
    pub async fn apply_directory(
        &self,
        files: &[SourceFile],
        comment: &str,
    ) -> anyhow::Result<u64> {
        let file = |f: &SourceFile| v1::DirectoryFile {
            path: f.path.clone(),
            content: f.text.clone().into_bytes(),
        };
        let newest = self
            .admin()
            .list_releases(v1::ListReleasesRequest::default())
            .await?
            .into_inner();
        let request = v1::ApplyDirectoryRequest {
            files: files.iter().map(file).collect(),
            comment: comment.to_owned(),
            expected_release: newest.releases.first().map_or(0, |r| r.directory_release),
            dry_run: false,
        };
        let response = self.admin().apply_directory(request).await;
        let response = response
            .map_err(|s| anyhow::anyhow!("{s:?}: {:?}", s.get_error_details().bad_request()))?;
        let v1::ApplyDirectoryResponse {
            release, findings, ..
        } = response.into_inner();
        let words: Vec<String> = findings
            .iter()
            .map(|f| format!("{}:{} {}", f.path, f.line, f.message))
            .collect();
        Ok(release
            .with_context(|| format!("no release was made: {words:?}"))?
            .directory_release)
    }

    /// Everything that waits in the caller's mailbox now, lent.
    ///
    /// # Errors
    /// When the stream fails.
    pub async fn fetch(&self) -> anyhow::Result<Vec<Post>> {
        let request = v1::ReceiveRequest {
            credit: 100,
            lease_seconds: 60,
            drain: true,
            ..v1::ReceiveRequest::default()
        };
        let mut stream = self.mailbox().receive(request).await?.into_inner();
        let mut all = Vec::new();
        while let Some(lent) = stream.message().await? {
            let dispatch = v1::Dispatch::decode(lent.body.as_slice())?;
            all.push(Post { lent, dispatch });
        }
        Ok(all)
    }

    /// Waits for one piece of post about a referral.
    ///
    /// # Errors
    /// When none comes.
    pub async fn fetch_one(&self, referral: &str) -> anyhow::Result<Post> {
        wait_until("post has come", PATIENCE, || async {
            Ok(self
                .fetch()
                .await?
                .into_iter()
                .find(|post| post.dispatch.referral_id == referral))
        })
        .await
    }

    /// Says that a piece of post is taken.
    ///
    /// # Errors
    /// The gateway's refusal.
    pub async fn acknowledge(&self, post: &Post) -> Result<v1::AcknowledgeResponse, Status> {
        let request = v1::AcknowledgeRequest {
            delivery_id: post.lent.delivery_id.clone(),
            lease_token: post.lent.lease_token.clone(),
            receipt: None,
        };
        Ok(self.mailbox().acknowledge(request).await?.into_inner())
    }
}

/// The key of a referral's id.
pub fn referral_key(id: &str) -> v1::ReferralKey {
    v1::ReferralKey {
        key: Some(Key::ReferralId(id.to_owned())),
    }
}
