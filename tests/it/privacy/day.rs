//! A day with everything that it may bring, wrong turns included.

#![expect(
    clippy::indexing_slicing,
    reason = "a test that reaches beside its own JSON fails, as it should"
)]

use anyhow::Context as _;
use serde_json::json;
use waymark_proto::v1;
use waymark_proto::v1::DeliveryState;
use waymark_tests::actors::{Hospital, Play, Therapy, callback, send};
use waymark_tests::gateway::{Child, Client, Gateway, referral_key};

use super::process::Running;
use super::{CHILDREN, wrong_number};

struct Day<'a> {
    gateway: &'a Gateway,
    running: &'a Running,
    hospital: &'a Hospital,
    therapy: &'a Therapy,
    school: Client,
    admin: Client,
    team: Client,
    provider: Client,
    children: std::ops::Range<u32>,
}

/// What was accepted in the morning.
struct Sent {
    first: Child,
    adhd: v1::Receipt,
    refused: v1::Receipt,
    speech: v1::Receipt,
    minds: v1::Receipt,
    teaching: v1::Receipt,
}

pub(super) async fn run(
    gateway: &Gateway,
    running: &Running,
    hospital: &Hospital,
    therapy: &Therapy,
) -> anyhow::Result<()> {
    let mut day = Day {
        gateway,
        running,
        hospital,
        therapy,
        school: running.client(gateway, "EE123456").await?,
        admin: running.client(gateway, "admin-LA882").await?,
        team: running.client(gateway, "SPEC1").await?,
        provider: running.client(gateway, "R1L").await?,
        children: CHILDREN,
    };
    day.refuses().await?;
    let sent = day.sends().await?;
    day.changes(&sent).await?;
    day.answers(&sent).await?;
    day.operates(&sent).await
}

impl Day<'_> {
    fn child(&mut self) -> Child {
        self.children.next().map(Child).expect("children enough")
    }

    /// A wrong number, a field too long, an unknown word, a key that is none.
    async fn refuses(&mut self) -> anyhow::Result<()> {
        let mut wrong = self.child().referral("adhd-assessment");
        wrong["child"]["nhsNumber"] = wrong_number().into();
        assert!(self.school.try_submit("wrong", &wrong).await.is_err());
        let someone = self.child();
        let mut long = someone.referral("adhd-assessment");
        long["child"]["name"]["family"] = someone.family().repeat(20).into();
        assert!(self.school.try_submit("long", &long).await.is_err());
        assert!(
            self.school
                .try_submit("pathway", &someone.referral("heliotrope"))
                .await
                .is_err()
        );
        assert!(
            self.school
                .try_submit(
                    &format!("bad key of {}", someone.family()),
                    &someone.referral("adhd-assessment")
                )
                .await
                .is_err()
        );
        Ok(())
    }

    /// By every adapter, with a failure, a lost answer and a refusal on the way.
    async fn sends(&mut self) -> anyhow::Result<Sent> {
        self.hospital.play(&[Play::Later, Play::ApplyAndDrop]);
        self.therapy.play(&[http::StatusCode::SERVICE_UNAVAILABLE]);
        let first = self.child();
        let mut careful = first.referral("adhd-assessment");
        careful["safeguardingFlags"] = json!([{ "system": "http://snomed.info/sct", "code": "836881000000105", "text": format!("{} sees Heliotrope House", first.given()) }]);
        careful["senderReference"] = format!("{}-1", first.family()).into();
        let adhd = self.school.submit("adhd", &careful).await?;
        self.school
            .leg_shows(&adhd.referral_id, DeliveryState::Done)
            .await?;
        let again = self
            .school
            .try_submit("adhd", &first.referral("speech-language"))
            .await;
        assert!(again.is_err(), "the same key for other content");
        self.hospital.play(&[Play::Refuse]);
        let refused = self.child().referral("adhd-assessment");
        let refused = self.school.submit("refused", &refused).await?;
        let speech = self.child().referral("speech-language");
        let speech = self.school.submit("speech", &speech).await?;
        let minds = self.child().referral("mental-health");
        let minds = self.school.submit("minds", &minds).await?;
        let post_for = self.child();
        let teaching = self
            .school
            .submit("teaching", &post_for.referral("specialist-teaching"))
            .await?;
        for receipt in [&speech, &minds] {
            self.school
                .leg_shows(&receipt.referral_id, DeliveryState::Done)
                .await?;
        }
        self.school
            .leg_shows(&refused.referral_id, DeliveryState::Parked)
            .await?;
        Ok(Sent {
            first,
            adhd,
            refused,
            speech,
            minds,
            teaching,
        })
    }

    /// Amended, and cancelled with words.
    async fn changes(&self, sent: &Sent) -> anyhow::Result<()> {
        let mut more = sent.first.referral("adhd-assessment");
        more["narrative"] = format!("{} now lives with an aunt", sent.first.given()).into();
        self.school
            .amend("adhd-more", &sent.adhd.referral_id, &more)
            .await?;
        let cancel = v1::CancelReferralRequest {
            request_id: "speech-no".to_owned(),
            key: Some(referral_key(&sent.speech.referral_id)),
            cancellation: Some(v1::Cancellation {
                reason: v1::CancelReason::Other.into(),
                text: format!("{} moved", sent.first.family()),
            }),
            want_proof: false,
        };
        self.school.referrals().cancel_referral(cancel).await?;
        Ok(())
    }

    /// With words: by call, by MLLP, by callback, by mailbox.
    async fn answers(&self, sent: &Sent) -> anyhow::Result<()> {
        let change = v1::StatusChange {
            state: v1::LegState::Accepted.into(),
            source_version: 1,
            text_for_family: format!("{} is on our list", sent.first.given()),
            ..v1::StatusChange::default()
        };
        let status = v1::UpdateStatusRequest {
            key: Some(referral_key(&sent.adhd.referral_id)),
            change: Some(change),
            ..v1::UpdateStatusRequest::default()
        };
        self.provider.referrals().update_status(status).await?;
        let mllp = self.running.addresses.mllp.context("an MLLP listener")?;
        let named = format!(
            "NTE|1|P|{} {} was seen at Heliotrope House",
            sent.first.given(),
            sent.first.family()
        );
        let rri = format!(
            "{}{named}\r",
            waymark_tests::actors::rri("R1", &sent.adhd.reference, "A")
        );
        assert!(send(mllp, &rri).await?.contains("MSA|"));
        let broken = format!(
            "MSH|^~\\&|EPR|R1L|WAYMARK|SOUTHMERE|20260302||REF^I12|B1|T|2.5\rPID|1||{}^^^NHS^NH||{}\r",
            sent.first.nhs(),
            sent.first.family()
        );
        assert!(send(mllp, &broken).await?.contains("MSA|A"));
        let webhook = self
            .running
            .addresses
            .webhook
            .context("a callback listener")?;
        let body = json!({ "type": "referral.status", "environment": "test", "referral": sent.minds.reference, "state": "on_its_way", "text": sent.first.family() });
        let secret = self.gateway.secret("therapy-callback")?;
        assert_eq!(
            callback(
                webhook,
                &self.gateway.ca()?,
                "therapy-webhook",
                &secret,
                "m1",
                &body
            )
            .await?,
            400
        );
        let post = self.team.fetch_one(&sent.teaching.referral_id).await?;
        let reject = v1::RejectRequest {
            delivery_id: post.lent.delivery_id.clone(),
            lease_token: post.lent.lease_token.clone(),
            reason_code: "not-ours".to_owned(),
            reason: "not our area".to_owned(),
            fault: v1::Fault::Sender.into(),
        };
        self.team.mailbox().reject(reject).await?;
        Ok(())
    }

    /// Looked up, read, and operated on with a reason that names somebody.
    async fn operates(&self, sent: &Sent) -> anyhow::Result<()> {
        let by_number = v1::ChildIdentifier {
            nhs_number: sent.first.nhs(),
            nhs_number_verification: v1::NhsNumberVerification::PresentAndVerified.into(),
            ..v1::ChildIdentifier::default()
        };
        let list = v1::ListReferralsRequest {
            child: Some(by_number),
            ..v1::ListReferralsRequest::default()
        };
        assert_eq!(
            self.school
                .referrals()
                .list_referrals(list)
                .await?
                .into_inner()
                .referrals
                .len(),
            1
        );
        let content = v1::GetReferralRequest {
            key: Some(referral_key(&sent.adhd.referral_id)),
            include_content: true,
            purpose: v1::AccessPurpose::DirectCare.into(),
        };
        assert!(
            self.school
                .referrals()
                .get_referral(content)
                .await?
                .into_inner()
                .referral
                .is_some_and(|r| r.content.is_some())
        );
        let stuck = self
            .admin
            .deliveries(&sent.refused.referral_id)
            .await?
            .remove(0);
        let resend = v1::ResendRequest {
            delivery_id: stuck.delivery_id.clone(),
            reason: format!("the hospital rang about {}", sent.first.family()),
            expected_version: self.admin.delivery(&stuck.delivery_id).await?.0.version,
        };
        self.admin.admin().resend(resend).await?;
        self.admin
            .delivery_is(&stuck.delivery_id, DeliveryState::Done)
            .await?;
        Ok(())
    }
}
