//! The one module that decides who may do what, and the only one that can make a [`Permit`].

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::id::AgencyId;

/// What an identity of the directory may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// An agency's system: sends and receives for its agency.
    Agency,
    /// An area administrator: sees metadata and acts on deliveries.
    Admin,
    /// Reads bodies, each read logged.
    BodyReader,
    /// Reads the delivery log and its proofs.
    Auditor,
    /// Reads health and metrics alone.
    Monitor,
}

/// Who calls: what the authenticated channel proves, as the directory binds it (ruling 9).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// The agency bound to the channel.
    pub agency: AgencyId,
    /// The identity's name in the directory, for the log: a SAN URI, mailbox, listener or folder.
    pub identity: String,
    /// A random-looking id that stands for the identity in the delivery log.
    pub actor: [u8; 16],
    /// What it may be used for.
    pub roles: BTreeSet<Role>,
    /// Agencies that it may act for besides its own.
    pub acts_for: BTreeSet<AgencyId>,
}

impl Principal {
    /// Whether it may speak for an agency.
    pub fn speaks_for(&self, agency: &AgencyId) -> bool {
        self.agency == *agency || self.acts_for.contains(agency)
    }

    fn has(&self, role: Role) -> bool {
        self.roles.contains(&role)
    }
}

/// How the caller stands to the thing it asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relationship {
    /// It sent the referral.
    Sender,
    /// It owns a service that a leg goes to.
    Receiver,
    /// Neither.
    None,
}

/// Every use case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// Submit a referral for an agency.
    Submit,
    /// Read a referral's state, legs and timeline.
    ReadReferral,
    /// Read a referral's content.
    ReadBody,
    /// Amend a referral.
    Amend,
    /// Cancel a referral or withdraw consent.
    Cancel,
    /// Report the status of a leg.
    UpdateStatus,
    /// Watch one's own referrals.
    Watch,
    /// Ask where a referral would go.
    ExplainRoute,
    /// Upload a document.
    UploadDocument,
    /// Receive from one's own mailbox.
    Mailbox,
    /// Read the directory.
    ReadDirectory,
    /// Apply a directory release.
    ApplyDirectory,
    /// Read the receipt of one's own event.
    ReadReceipt,
    /// Read checkpoints and proofs, which name nobody.
    ReadCheckpoint,
    /// Read log entries.
    ReadLog,
    /// List and inspect deliveries and alarms.
    ReadDeliveries,
    /// Resend, redirect, park or resume.
    ActOnDeliveries,
}

impl Action {
    /// Every action.
    pub const ALL: &[Self] = &[
        Self::Submit,
        Self::ReadReferral,
        Self::ReadBody,
        Self::Amend,
        Self::Cancel,
        Self::UpdateStatus,
        Self::Watch,
        Self::ExplainRoute,
        Self::UploadDocument,
        Self::Mailbox,
        Self::ReadDirectory,
        Self::ApplyDirectory,
        Self::ReadReceipt,
        Self::ReadCheckpoint,
        Self::ReadLog,
        Self::ReadDeliveries,
        Self::ActOnDeliveries,
    ];
}

/// Why access is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The caller may not do this at all.
    #[error("this identity may not do that")]
    Denied,
    /// The caller may not know that the thing exists.
    #[error("no such thing")]
    NotFound,
}

/// Proof that a use case is allowed. Only [`permit`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permit {
    principal: Principal,
    action: Action,
}

impl Permit {
    /// Who was allowed.
    pub const fn principal(&self) -> &Principal {
        &self.principal
    }

    /// What was allowed.
    pub const fn action(&self) -> Action {
        self.action
    }
}

/// Decides: deny by default.
///
/// # Errors
/// [`Refusal::NotFound`] where the caller may not learn that the thing exists, else [`Refusal::Denied`].
pub fn permit(
    principal: &Principal,
    action: Action,
    relationship: Relationship,
) -> Result<Permit, Refusal> {
    use Relationship::{None, Receiver, Sender};
    let agency = principal.has(Role::Agency);
    let admin = principal.has(Role::Admin);
    let auditor = principal.has(Role::Auditor);
    let related = relationship != None;
    let allowed = match action {
        Action::Submit | Action::Amend | Action::Cancel => agency && relationship == Sender,
        Action::ReadReferral => (agency && related) || admin || auditor,
        Action::ReadBody => (agency && related) || principal.has(Role::BodyReader),
        Action::UpdateStatus => agency && relationship == Receiver,
        Action::Watch | Action::UploadDocument | Action::Mailbox => agency,
        Action::ExplainRoute | Action::ReadDirectory | Action::ReadCheckpoint => {
            agency || admin || auditor
        }
        Action::ApplyDirectory | Action::ActOnDeliveries => admin,
        Action::ReadReceipt => (agency && related) || auditor,
        Action::ReadLog => auditor,
        Action::ReadDeliveries => admin || auditor,
    };
    if allowed {
        return Ok(Permit {
            principal: principal.clone(),
            action,
        });
    }
    let about_one_referral = matches!(
        action,
        Action::ReadReferral
            | Action::ReadBody
            | Action::Amend
            | Action::Cancel
            | Action::UpdateStatus
            | Action::ReadReceipt
    );
    if agency && about_one_referral && !related {
        Err(Refusal::NotFound)
    } else {
        Err(Refusal::Denied)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(roles: &[Role]) -> Principal {
        Principal {
            agency: "EE123456".parse().unwrap(),
            identity: "test".into(),
            actor: [0; 16],
            roles: roles.iter().copied().collect(),
            acts_for: BTreeSet::new(),
        }
    }

    #[test]
    fn no_role_may_do_nothing() {
        for action in Action::ALL {
            for relationship in [
                Relationship::Sender,
                Relationship::Receiver,
                Relationship::None,
            ] {
                for roles in [&[][..], &[Role::Monitor]] {
                    assert!(
                        permit(&with(roles), *action, relationship).is_err(),
                        "{action:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_stranger_cannot_tell_that_a_referral_exists() {
        for action in [
            Action::ReadReferral,
            Action::ReadBody,
            Action::Cancel,
            Action::UpdateStatus,
        ] {
            assert_eq!(
                permit(&with(&[Role::Agency]), action, Relationship::None),
                Err(Refusal::NotFound)
            );
        }
    }

    #[test]
    fn duties_are_separated() {
        assert!(permit(&with(&[Role::Admin]), Action::ReadBody, Relationship::None).is_err());
        assert!(
            permit(
                &with(&[Role::Auditor]),
                Action::ActOnDeliveries,
                Relationship::None
            )
            .is_err()
        );
        assert!(permit(&with(&[Role::Admin]), Action::ReadLog, Relationship::None).is_err());
        assert!(
            permit(
                &with(&[Role::BodyReader]),
                Action::ReadBody,
                Relationship::None
            )
            .is_ok()
        );
    }

    #[test]
    fn only_the_receiver_reports_status_and_only_the_sender_cancels() {
        let agency = with(&[Role::Agency]);
        assert!(permit(&agency, Action::UpdateStatus, Relationship::Receiver).is_ok());
        assert!(permit(&agency, Action::UpdateStatus, Relationship::Sender).is_err());
        assert!(permit(&agency, Action::Cancel, Relationship::Sender).is_ok());
        assert!(permit(&agency, Action::Cancel, Relationship::Receiver).is_err());
    }
}
