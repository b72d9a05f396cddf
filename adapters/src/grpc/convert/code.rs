//! The code lists of a referral against the vocabularies of the contract.

use waymark_core::error::Violation;
use waymark_core::referral::{
    Channel, ConsentGiver, ConsentScope, ConsentStatus, ContactRole, Format, NeedType, Priority,
    SafeToContact, SettingKind, Sex, Tested,
};
use waymark_proto::v1;

use super::reading::{Code, UnknownCode};

macro_rules! pairs {
    ($to:ident, $from:ident: $ours:ty = $theirs:ty, $($a:ident <=> $b:ident,)*) => {
        pub(super) const fn $to(code: $ours) -> $theirs {
            match code { $(<$ours>::$a => <$theirs>::$b,)* }
        }
        pub(super) fn $from(number: i32) -> Code<$ours> {
            match <$theirs>::try_from(number) {
                $(Ok(<$theirs>::$b) => Ok(Some(<$ours>::$a)),)*
                Ok(<$theirs>::Unspecified) => Ok(None),
                Err(_) => Err(UnknownCode),
            }
        }
    };
}

pairs! { sex_to, sex_from: Sex = v1::Sex,
    Female <=> Female, Male <=> Male, Other <=> Other, Unknown <=> Unknown,
}
pairs! { safety_to, safety_from: SafeToContact = v1::ContactSafety,
    Yes <=> Safe, WithCare <=> Restricted, No <=> Unsafe, Unknown <=> Unknown,
}
pairs! { format_to, format_from: Format = v1::ContactFormat,
    Standard <=> Standard, EasyRead <=> EasyRead, LargePrint <=> LargePrint, Braille <=> Braille, Audio <=> Audio,
}
pairs! { setting_to, setting_from: SettingKind = v1::SettingKind,
    EarlyYears <=> EarlyYears, Primary <=> Primary, Secondary <=> Secondary, Post16 <=> Post16,
    Special <=> Special, AlternativeProvision <=> AlternativeProvision, HomeEducated <=> HomeEducated,
    None <=> None,
}
pairs! { need_to, need_from: NeedType = v1::NeedType,
    Autism <=> Asd, SpeechLanguage <=> Slcn, SpecificLearning <=> Spld, ModerateLearning <=> Mld,
    SevereLearning <=> Sld, ProfoundLearning <=> Pmld, SocialEmotional <=> Semh, Hearing <=> Hi,
    Vision <=> Vi, MultiSensory <=> Msi, Physical <=> Pd, Other <=> Oth, NotAssessed <=> Nsa, Down <=> Ds,
}
pairs! { priority_to, priority_from: Priority = v1::Priority,
    Routine <=> Routine, Soon <=> Soon, Urgent <=> Urgent, Immediate <=> Immediate,
}
pairs! { giver_to, giver_from: ConsentGiver = v1::ConsentGiverRole,
    Parent <=> ParentWithPr, YoungPerson <=> YoungPerson, Other <=> Other,
}
pairs! { scope_to, scope_from: ConsentScope = v1::ConsentScope,
    Referral <=> Referral, ShareHealth <=> ShareHealth, ShareEducation <=> ShareEducation,
    ShareSocialCare <=> ShareSocialCare, FamilyMessages <=> FamilyMessages,
}

/// Writes what a consent covers.
pub const fn consent_scope_to_proto(scope: ConsentScope) -> v1::ConsentScope {
    scope_to(scope)
}

/// Reads what a consent covers.
///
/// # Errors
/// The violation of `field` when it is not stated or not known.
pub fn consent_scope_from_proto(field: &str, number: i32) -> Result<ConsentScope, Violation> {
    stated(field, scope_from(number))
}

/// Writes in what capacity consent was given.
pub const fn giver_to_proto(giver: ConsentGiver) -> v1::ConsentGiverRole {
    giver_to(giver)
}

/// Reads in what capacity consent was given.
///
/// # Errors
/// The violation of `field` when it is not stated or not known.
pub fn giver_from_proto(field: &str, number: i32) -> Result<ConsentGiver, Violation> {
    stated(field, giver_from(number))
}

fn stated<T>(field: &str, code: Code<T>) -> Result<T, Violation> {
    match code {
        Ok(Some(value)) => Ok(value),
        Ok(None) => Err(Violation::new(field, "is required")),
        Err(UnknownCode) => Err(Violation::new(field, "is not a value this release knows")),
    }
}

/// A question: yes, no, or not known; absent means not asked.
pub(super) fn answer_from(number: i32) -> Code<Tested> {
    match v1::Answer::try_from(number) {
        Ok(v1::Answer::Unspecified) => Ok(None),
        Ok(v1::Answer::Yes) => Ok(Some(Tested::Yes)),
        Ok(v1::Answer::No) => Ok(Some(Tested::No)),
        Ok(v1::Answer::Unknown) => Ok(Some(Tested::Unknown)),
        Err(_) => Err(UnknownCode),
    }
}

/// What was not recorded is not stated: the contract's `UNKNOWN` would say that somebody asked.
pub(super) const fn tested_to(tested: Tested) -> v1::Answer {
    match tested {
        Tested::Yes => v1::Answer::Yes,
        Tested::No => v1::Answer::No,
        Tested::Unknown => v1::Answer::Unspecified,
    }
}

/// The canonical form knows yes alone; that it is absent says nothing.
pub(super) const fn yes_to(yes: bool) -> v1::Answer {
    if yes {
        v1::Answer::Yes
    } else {
        v1::Answer::Unspecified
    }
}

pub(super) const fn channel_to(channel: Channel) -> v1::ContactChannel {
    match channel {
        Channel::Email => v1::ContactChannel::Email,
        Channel::Sms => v1::ContactChannel::Sms,
        Channel::Letter => v1::ContactChannel::Letter,
        Channel::Phone => v1::ContactChannel::Telephone,
        Channel::Unspecified => v1::ContactChannel::Unspecified,
    }
}

/// The channel, and what it says beyond the canonical list.
pub(super) fn channel_from(number: i32) -> Code<(Channel, &'static str)> {
    match v1::ContactChannel::try_from(number) {
        Ok(v1::ContactChannel::Unspecified) => Ok(None),
        Ok(v1::ContactChannel::Email) => Ok(Some((Channel::Email, ""))),
        Ok(v1::ContactChannel::Sms) => Ok(Some((Channel::Sms, ""))),
        Ok(v1::ContactChannel::Letter) => Ok(Some((Channel::Letter, ""))),
        Ok(v1::ContactChannel::Telephone) => Ok(Some((Channel::Phone, ""))),
        Ok(v1::ContactChannel::ViaCarer) => Ok(Some((
            Channel::Unspecified,
            "asks to be contacted through a carer",
        ))),
        Err(_) => Err(UnknownCode),
    }
}

/// The role, and what the contract's word leaves open.
pub(super) const fn role_to(role: ContactRole) -> (v1::ContactRole, &'static str) {
    match role {
        ContactRole::Mother => (v1::ContactRole::Parent, "mother"),
        ContactRole::Father => (v1::ContactRole::Parent, "father"),
        ContactRole::Parent => (v1::ContactRole::Parent, ""),
        ContactRole::Carer => (v1::ContactRole::Carer, ""),
        ContactRole::YoungPerson => (v1::ContactRole::YoungPerson, ""),
        ContactRole::SocialWorker => (v1::ContactRole::SocialWorker, ""),
        ContactRole::Professional => (v1::ContactRole::Other, "professional"),
        ContactRole::Other => (v1::ContactRole::Other, ""),
    }
}

/// The role, and what it says beyond the canonical list.
pub(super) fn role_from(number: i32) -> Code<(ContactRole, &'static str)> {
    match v1::ContactRole::try_from(number) {
        Ok(v1::ContactRole::Unspecified) => Ok(None),
        Ok(v1::ContactRole::Parent) => Ok(Some((ContactRole::Parent, ""))),
        Ok(v1::ContactRole::Carer) => Ok(Some((ContactRole::Carer, ""))),
        Ok(v1::ContactRole::FosterCarer) => Ok(Some((ContactRole::Carer, "foster carer"))),
        Ok(v1::ContactRole::YoungPerson) => Ok(Some((ContactRole::YoungPerson, ""))),
        Ok(v1::ContactRole::SocialWorker) => Ok(Some((ContactRole::SocialWorker, ""))),
        Ok(v1::ContactRole::SettingStaff) => {
            Ok(Some((ContactRole::Professional, "staff of the setting")))
        }
        Ok(v1::ContactRole::HealthProfessional) => {
            Ok(Some((ContactRole::Professional, "health professional")))
        }
        Ok(v1::ContactRole::Advocate) => Ok(Some((ContactRole::Other, "advocate"))),
        Ok(v1::ContactRole::Other) => Ok(Some((ContactRole::Other, ""))),
        Err(_) => Err(UnknownCode),
    }
}

/// Consent that was never sought is no consent at all on the wire.
pub(super) const fn consent_to(status: ConsentStatus) -> Option<v1::ConsentStatus> {
    match status {
        ConsentStatus::Given => Some(v1::ConsentStatus::Given),
        ConsentStatus::Withheld => Some(v1::ConsentStatus::Withheld),
        ConsentStatus::Withdrawn => Some(v1::ConsentStatus::Withdrawn),
        ConsentStatus::NotSought => None,
    }
}

pub(super) fn consent_from(number: i32) -> Code<ConsentStatus> {
    match v1::ConsentStatus::try_from(number) {
        Ok(v1::ConsentStatus::Unspecified) => Ok(None),
        Ok(v1::ConsentStatus::Given) => Ok(Some(ConsentStatus::Given)),
        Ok(v1::ConsentStatus::Withheld) => Ok(Some(ConsentStatus::Withheld)),
        Ok(v1::ConsentStatus::Withdrawn) => Ok(Some(ConsentStatus::Withdrawn)),
        Err(_) => Err(UnknownCode),
    }
}

/// The documents' kinds by name; a kind that the contract has no name for is `OTHER`.
pub(super) fn document_kind_to(kind: Option<&str>) -> v1::DocumentKind {
    match kind {
        None => v1::DocumentKind::Unspecified,
        Some("report") => v1::DocumentKind::Report,
        Some("questionnaire") => v1::DocumentKind::Questionnaire,
        Some("letter") => v1::DocumentKind::Letter,
        Some("plan") => v1::DocumentKind::Plan,
        Some("consent") => v1::DocumentKind::Consent,
        Some(_) => v1::DocumentKind::Other,
    }
}

pub(super) fn document_kind_from(number: i32) -> Code<&'static str> {
    match v1::DocumentKind::try_from(number) {
        Ok(v1::DocumentKind::Unspecified) => Ok(None),
        Ok(v1::DocumentKind::Report) => Ok(Some("report")),
        Ok(v1::DocumentKind::Questionnaire) => Ok(Some("questionnaire")),
        Ok(v1::DocumentKind::Letter) => Ok(Some("letter")),
        Ok(v1::DocumentKind::Plan) => Ok(Some("plan")),
        Ok(v1::DocumentKind::Consent) => Ok(Some("consent")),
        Ok(v1::DocumentKind::Other) => Ok(Some("other")),
        Err(_) => Err(UnknownCode),
    }
}
