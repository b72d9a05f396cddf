//! A right request for each method of the contract.

use anyhow::bail;
use prost::Message as _;
use waymark_proto::v1;
use waymark_tests::gateway::{Child, referral_key};

use super::{Case, World, upload};

impl World {
    /// A request that is right in everything but, perhaps, who makes it.
    #[expect(
        clippy::too_many_lines,
        reason = "a table: one arm for each method of the contract"
    )]
    pub(super) fn request(&self, method: &str, case: &Case) -> anyhow::Result<Vec<Vec<u8>>> {
        let request_id = format!("row-{}", self.made);
        let content = || serde_json::from_value::<v1::Referral>(case.content.clone()).map(Some);
        let fresh = || {
            let referral = Child(5_000 + self.made).referral("specialist-teaching");
            serde_json::from_value::<v1::Referral>(referral).map(Some)
        };
        let (key, reason) = (
            Some(referral_key(&case.referral)),
            "for the test".to_owned(),
        );
        let (delivery_id, expected_version) =
            (case.delivery.delivery_id.clone(), case.delivery.version);
        let token = case
            .lent
            .as_ref()
            .map(|post| post.lent.lease_token.clone())
            .unwrap_or_default();
        let message = match method {
            "ReferralService/SubmitReferral" => v1::SubmitReferralRequest {
                request_id,
                referral: fresh()?,
                want_proof: false,
            }
            .encode_to_vec(),
            "ReferralService/SubmitReferrals" => {
                let item_id = "1".to_owned();
                v1::SubmitReferralsRequest {
                    item_id,
                    request_id,
                    referral: fresh()?,
                    want_proof: false,
                }
                .encode_to_vec()
            }
            "ReferralService/GetReferral" => v1::GetReferralRequest {
                key,
                include_content: false,
                purpose: 0,
            }
            .encode_to_vec(),
            "ReferralService/ListReferrals" => v1::ListReferralsRequest::default().encode_to_vec(),
            "ReferralService/AmendReferral" => v1::AmendReferralRequest {
                request_id,
                key,
                expected_version: 1,
                referral: content()?,
                ..Default::default()
            }
            .encode_to_vec(),
            "ReferralService/CancelReferral" => {
                let reason = v1::CancelReason::NoLongerNeeded.into();
                let cancellation = Some(v1::Cancellation {
                    reason,
                    text: String::new(),
                });
                v1::CancelReferralRequest {
                    request_id,
                    key,
                    cancellation,
                    want_proof: false,
                }
                .encode_to_vec()
            }
            "ReferralService/WithdrawConsent" => {
                let withdrawal = v1::ConsentWithdrawal {
                    withdrawn_by: "Marisol".to_owned(),
                    role: v1::ConsentGiverRole::ParentWithPr.into(),
                    date: "2026-02-01".to_owned(),
                    ..Default::default()
                };
                v1::WithdrawConsentRequest {
                    request_id,
                    key,
                    withdrawal: Some(withdrawal),
                    want_proof: false,
                }
                .encode_to_vec()
            }
            "ReferralService/UpdateStatus" => {
                let state = v1::LegState::Accepted.into();
                let change = Some(v1::StatusChange {
                    state,
                    source_version: 1,
                    ..Default::default()
                });
                v1::UpdateStatusRequest {
                    key,
                    leg_id: String::new(),
                    change,
                    want_proof: false,
                }
                .encode_to_vec()
            }
            "ReferralService/WatchReferrals" => {
                let start = v1::WatchStart::Oldest.into();
                v1::WatchReferralsRequest {
                    start,
                    ..Default::default()
                }
                .encode_to_vec()
            }
            "ReferralService/ExplainRoute" => {
                let subject = content()?.map(v1::explain_route_request::Subject::Referral);
                v1::ExplainRouteRequest {
                    subject,
                    ..Default::default()
                }
                .encode_to_vec()
            }
            "ReferralService/UploadDocument" => return Ok(upload(request_id)),
            "ReferralService/DownloadDocument" => {
                let purpose = v1::AccessPurpose::DirectCare.into();
                let document_id = case.document.document_id.clone();
                v1::DownloadDocumentRequest {
                    document_id,
                    purpose,
                }
                .encode_to_vec()
            }
            "MailboxService/Receive" => v1::ReceiveRequest {
                credit: 1,
                lease_seconds: 5,
                drain: true,
                ..Default::default()
            }
            .encode_to_vec(),
            "MailboxService/Acknowledge" => v1::AcknowledgeRequest {
                delivery_id,
                lease_token: token,
                receipt: None,
            }
            .encode_to_vec(),
            "MailboxService/Reject" => v1::RejectRequest {
                delivery_id,
                lease_token: token,
                reason_code: "not-ours".to_owned(),
                reason,
                fault: v1::Fault::Sender.into(),
            }
            .encode_to_vec(),
            "DirectoryService/ListServices" => v1::ListServicesRequest::default().encode_to_vec(),
            "DirectoryService/GetAgency" => v1::GetAgencyRequest {
                agency_id: "SPEC1".to_owned(),
            }
            .encode_to_vec(),
            "DirectoryService/GetRelease" => v1::GetReleaseRequest::default().encode_to_vec(),
            "AuditService/GetReceipt" => {
                let subject = Some(v1::get_receipt_request::Subject::EventId(
                    case.event.clone(),
                ));
                v1::GetReceiptRequest {
                    subject,
                    want_proof: false,
                }
                .encode_to_vec()
            }
            "AuditService/GetCheckpoint" => v1::GetCheckpointRequest {}.encode_to_vec(),
            "AuditService/ListCheckpoints" => v1::ListCheckpointsRequest::default().encode_to_vec(),
            "AuditService/ListEntries" => v1::ListEntriesRequest::default().encode_to_vec(),
            "AuditService/GetEntry" => v1::GetEntryRequest {
                subject: Some(v1::get_entry_request::Subject::Index(0)),
            }
            .encode_to_vec(),
            "AuditService/GetInclusionProof" => {
                let subject = Some(v1::get_inclusion_proof_request::Subject::Index(0));
                v1::GetInclusionProofRequest {
                    subject,
                    tree_size: 0,
                }
                .encode_to_vec()
            }
            "AuditService/GetConsistencyProof" => v1::GetConsistencyProofRequest {
                from_size: 1,
                to_size: 0,
            }
            .encode_to_vec(),
            "AdminService/ListDeliveries" => v1::ListDeliveriesRequest::default().encode_to_vec(),
            "AdminService/GetDelivery" => v1::GetDeliveryRequest {
                delivery_id,
                ..Default::default()
            }
            .encode_to_vec(),
            "AdminService/PreviewResend" => {
                v1::PreviewResendRequest { delivery_id }.encode_to_vec()
            }
            "AdminService/Resend" => v1::ResendRequest {
                delivery_id,
                reason,
                expected_version,
            }
            .encode_to_vec(),
            "AdminService/Redirect" => {
                let target = Some(v1::redirect_request::Target::ServiceId(
                    "social-care".to_owned(),
                ));
                v1::RedirectRequest {
                    delivery_id,
                    reason,
                    expected_version,
                    target,
                }
                .encode_to_vec()
            }
            "AdminService/ParkLane" => {
                let target = Some(v1::park_lane_request::Target::DeliveryId(delivery_id));
                v1::ParkLaneRequest { target, reason }.encode_to_vec()
            }
            "AdminService/ResumeLane" => {
                let target = Some(v1::resume_lane_request::Target::DeliveryId(delivery_id));
                v1::ResumeLaneRequest { target, reason }.encode_to_vec()
            }
            "AdminService/ApplyDirectory" => {
                let file = |f: waymark_core::directory::SourceFile| v1::DirectoryFile {
                    path: f.path,
                    content: f.text.into_bytes(),
                };
                let files = self.area.files().into_iter().map(file).collect();
                v1::ApplyDirectoryRequest {
                    files,
                    comment: reason,
                    expected_release: 1,
                    dry_run: true,
                }
                .encode_to_vec()
            }
            "AdminService/ListReleases" => v1::ListReleasesRequest::default().encode_to_vec(),
            "AdminService/ListAlarms" => v1::ListAlarmsRequest::default().encode_to_vec(),
            "AdminService/GetConservation" => v1::GetConservationRequest {}.encode_to_vec(),
            "AdminService/ProbeEndpoint" => {
                let endpoint_id = "spec1-mailbox".to_owned();
                v1::ProbeEndpointRequest { endpoint_id }.encode_to_vec()
            }
            "AgencyService/Deliver" => v1::DeliverRequest::default().encode_to_vec(),
            other => bail!("no request for {other}: add one, and a row"),
        };
        Ok(vec![message])
    }
}
