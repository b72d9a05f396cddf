//! The canonical referral: what one agency asks of another about one child (DOMAIN.md 2.8).
//!
//! Its JSON is the body that is sealed at rest and committed to in the delivery log, so the order of fields here
//! is part of the format.

use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use crate::error::Violation;
use crate::id::{DocumentId, Pathway, ServiceId};
use crate::identifier::{NhsNumber, Uln, Upn, Urn};
use crate::personal::Personal;

mod code;
mod validate;

pub use code::{
    Channel, ConsentGiver, ConsentScope, ConsentStatus, ContactRole, Format, LawfulBasis, NeedType,
    NhsVerification, Priority, SafeToContact, SenProvision, SettingKind, Sex, Tested,
};
pub use validate::limits;

/// A referral as an agency sends it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Referral {
    /// The child or young person.
    pub child: Child,
    /// People around the child, those with parental responsibility first.
    #[serde(default)]
    pub contacts: Vec<Contact>,
    /// Who refers.
    pub referrer: Referrer,
    /// Where the child learns.
    #[serde(default)]
    pub setting: Option<Setting>,
    /// Needs, the primary one at rank 1.
    #[serde(default)]
    pub needs: Vec<Need>,
    /// What is asked for.
    pub pathway: Pathway,
    /// The service asked for by name, if any; routing still decides.
    #[serde(default)]
    pub requested_service: Option<ServiceId>,
    /// How soon.
    pub priority: Priority,
    /// Why that soon.
    #[serde(default)]
    pub priority_reason: Option<Personal<String>>,
    /// Why at all.
    pub reason: Reason,
    /// Concerns by setting.
    #[serde(default)]
    pub concerns: Vec<Concern>,
    /// What was tried: assess, plan, do, review.
    #[serde(default)]
    pub graduated_response: Vec<Cycle>,
    /// Whether hearing was checked.
    #[serde(default)]
    pub hearing_checked: Tested,
    /// Whether vision was checked.
    #[serde(default)]
    pub vision_checked: Tested,
    /// Attendance this academic year, whole percent.
    #[serde(default)]
    pub attendance_percent: Option<u8>,
    /// Safeguarding flags: never dropped on the way.
    #[serde(default)]
    pub safeguarding: Vec<Flag>,
    /// Reasonable adjustments: never dropped on the way.
    #[serde(default)]
    pub reasonable_adjustments: Vec<Flag>,
    /// Allergies: never dropped on the way.
    #[serde(default)]
    pub allergies: Option<Personal<String>>,
    /// Consent to the referral.
    pub consent: Consent,
    /// The lawful basis for sharing.
    pub lawful_basis: LawfulBasis,
    /// Documents, by digest.
    #[serde(default)]
    pub documents: Vec<DocumentRef>,
    /// References that other systems know this referral by.
    #[serde(default)]
    pub external_ids: Vec<ExternalId>,
    /// The sender's own reference, what its later messages attach to (RF1-6, ServiceRequest.identifier).
    #[serde(default)]
    pub sender_reference: Option<SenderReference>,
    /// Anything else the receiver should read.
    #[serde(default)]
    pub narrative: Option<Personal<String>>,
}

/// A child or young person, 0 to 25.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Child {
    /// Name.
    pub name: Name,
    /// Date of birth.
    pub date_of_birth: Personal<Date>,
    /// Sex as recorded.
    #[serde(default)]
    pub sex: Sex,
    /// NHS number.
    #[serde(default)]
    pub nhs_number: Option<NhsNumber>,
    /// Whether the NHS number was traced.
    #[serde(default)]
    pub nhs_verification: NhsVerification,
    /// Unique pupil number.
    #[serde(default)]
    pub upn: Option<Upn>,
    /// Unique learner number, from 14.
    #[serde(default)]
    pub uln: Option<Uln>,
    /// Identifiers of a local scheme.
    #[serde(default)]
    pub local_ids: Vec<LocalId>,
    /// Home address, routed only to the receiver.
    #[serde(default)]
    pub address: Option<Address>,
    /// Preferred language, BCP 47.
    #[serde(default)]
    pub language: Option<String>,
    /// Whether an interpreter is needed.
    #[serde(default)]
    pub interpreter_required: bool,
}

/// A person's name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Name {
    /// Family name.
    pub family: Personal<String>,
    /// Given name.
    pub given: Personal<String>,
    /// Middle names.
    #[serde(default)]
    pub middle: Option<Personal<String>>,
}

/// An identifier that a local system gave the child.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LocalId {
    /// Assigning authority.
    pub system: String,
    /// The identifier.
    pub value: Personal<String>,
}

/// A home address.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Address {
    /// Lines, outermost last.
    #[serde(default)]
    pub lines: Vec<Personal<String>>,
    /// Postcode; its outward part is the area that routing sees.
    #[serde(default)]
    pub postcode: Option<Personal<String>>,
}

/// A person to speak with about the child.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contact {
    /// Name.
    pub name: Name,
    /// Relation to the child.
    pub role: ContactRole,
    /// Whether they hold parental responsibility.
    #[serde(default)]
    pub parental_responsibility: bool,
    /// Telephone.
    #[serde(default)]
    pub phone: Option<Personal<String>>,
    /// Email.
    #[serde(default)]
    pub email: Option<Personal<String>>,
    /// Whether contact is safe: never dropped on the way.
    #[serde(default)]
    pub safe_to_contact: SafeToContact,
    /// What makes contact unsafe, or when it is safe.
    #[serde(default)]
    pub safe_contact_note: Option<Personal<String>>,
    /// The format they can read.
    #[serde(default)]
    pub format: Format,
    /// How they wish to be reached.
    #[serde(default)]
    pub channel: Channel,
}

/// Who refers, within the sending agency.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Referrer {
    /// The named person.
    pub name: Personal<String>,
    /// Their role, e.g. SENCO.
    pub role: String,
    /// Telephone.
    #[serde(default)]
    pub phone: Option<Personal<String>>,
    /// Email.
    #[serde(default)]
    pub email: Option<Personal<String>>,
}

/// Where the child learns.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setting {
    /// Unique reference number of the school or college.
    #[serde(default)]
    pub urn: Option<Urn>,
    /// Its name.
    #[serde(default)]
    pub name: Option<String>,
    /// Its kind.
    pub kind: SettingKind,
    /// Year group, -2 (nursery) to 14.
    #[serde(default)]
    pub year_group: Option<i8>,
    /// SEN provision of the school census.
    #[serde(default)]
    pub sen_provision: SenProvision,
}

/// One need.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Need {
    /// Type of need of the school census.
    pub kind: NeedType,
    /// Rank, 1 is primary.
    pub rank: u8,
}

/// Why the child is referred.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reason {
    /// Code of the area's reason list, or of the sender's.
    pub code: String,
    /// In words.
    #[serde(default)]
    pub text: Option<Personal<String>>,
}

/// A concern seen in one setting.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Concern {
    /// `home`, `school` or another place.
    pub setting: String,
    /// What is seen.
    pub text: Personal<String>,
    /// Since when.
    #[serde(default)]
    pub onset: Option<Personal<String>>,
    /// What it does to the child's life.
    #[serde(default)]
    pub impact: Option<Personal<String>>,
}

/// One assess-plan-do-review cycle.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cycle {
    /// First day.
    #[serde(default)]
    pub from: Option<Date>,
    /// Last day.
    #[serde(default)]
    pub to: Option<Date>,
    /// What was done.
    pub what: Personal<String>,
    /// What came of it.
    #[serde(default)]
    pub outcome: Option<Personal<String>>,
}

/// A coded flag, with words where codes do not say enough.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Flag {
    /// Code system, e.g. `http://snomed.info/sct`.
    pub system: String,
    /// Code, e.g. `requiresinformationineasyread`.
    pub code: String,
    /// In words.
    #[serde(default)]
    pub text: Option<Personal<String>>,
}

/// Consent to the referral and to sharing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Consent {
    /// Whether it stands.
    pub status: ConsentStatus,
    /// Who gave it.
    #[serde(default)]
    pub given_by: Option<Personal<String>>,
    /// In what capacity.
    pub role: ConsentGiver,
    /// What it covers.
    #[serde(default)]
    pub scope: Vec<ConsentScope>,
    /// The day it was given.
    #[serde(default)]
    pub date: Option<Date>,
    /// Where the evidence is held.
    #[serde(default)]
    pub evidence: Option<Personal<String>>,
}

/// A document held by the gateway, by digest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DocumentRef {
    /// Its id from UploadDocument.
    pub id: DocumentId,
    /// SHA-256, lower-case hex.
    pub sha256: String,
    /// Media type.
    pub media_type: String,
    /// Size in bytes.
    pub size_bytes: u64,
    /// Title.
    #[serde(default)]
    pub title: Option<Personal<String>>,
    /// Kind, e.g. `questionnaire`.
    #[serde(default)]
    pub kind: Option<String>,
}

/// An alias of the referral in another system.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExternalId {
    /// System, e.g. `https://fhir.nhs.uk/Id/UBRN`.
    pub system: String,
    /// Value.
    pub value: String,
}

/// The sender's own reference of the referral, within the sender's namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SenderReference {
    /// The reference, e.g. RF1-6.1.
    pub value: String,
    /// Its namespace, e.g. RF1-6.2.
    #[serde(default)]
    pub namespace: String,
}

impl Referral {
    /// Checks every rule that holds between and within fields; an empty answer means valid.
    pub fn violations(&self, today: Date) -> Vec<Violation> {
        validate::violations(self, today)
    }

    /// The age in whole years on a day; negative before birth.
    pub fn age_on(&self, day: Date) -> i16 {
        let dob = *self.child.date_of_birth.expose();
        let had_birthday = (day.month(), day.day()) >= (dob.month(), dob.day());
        day.year() - dob.year() - i16::from(!had_birthday)
    }

    /// The primary need: the one of lowest rank.
    pub fn primary_need(&self) -> Option<NeedType> {
        self.needs.iter().min_by_key(|n| n.rank).map(|n| n.kind)
    }

    /// The outward part of the postcode, e.g. `SS1`: the area that routing sees.
    pub fn area(&self) -> Option<String> {
        let postcode = self.child.address.as_ref()?.postcode.as_ref()?.expose();
        let compact: String = postcode
            .chars()
            .filter(|c| !c.is_whitespace())
            .collect::<String>()
            .to_ascii_uppercase();
        if !compact.is_ascii() || compact.len() < 5 {
            return None;
        }
        compact.get(..compact.len() - 3).map(ToOwned::to_owned)
    }

    /// Whether the referral must not wait behind others unseen: it carries a safeguarding flag.
    pub fn is_safeguarding(&self) -> bool {
        !self.safeguarding.is_empty()
    }

    /// The canonical bytes: what is sealed, committed to and delivered from.
    pub fn to_canonical(&self) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(self)
    }

    /// Reads canonical bytes.
    pub fn from_canonical(bytes: &[u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(bytes)
    }
}
