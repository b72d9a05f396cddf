//! What a family is told, whom of it, and by which way: pure (DOMAIN.md 6; DESIGN.md section 9, ruling 25).
//!
//! Nobody is written to of whom it is not recorded that contact is safe, and nobody by a way, a language or a format
//! that they did not ask for. What is left over is a person's task, never a guess.

use std::collections::{BTreeMap, BTreeSet};

use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use crate::directory::{Directory, Place, Validity};
use crate::id::{BodyId, EndpointId, LegId, Pathway, Reference, ServiceId, TemplateId};
use crate::leg::LegState;
use crate::personal::Personal;
use crate::referral::{
    Channel, ConsentGiver, ConsentScope, ConsentStatus, Contact, ContactRole, Format, Referral,
    SafeToContact,
};

/// The age from which the young person is told and not the parents (CFA 2014: the end of compulsory school age).
pub const YOUNG_PERSON_AGE: i16 = 16;
/// The language of a child of whom none is recorded.
pub const LANGUAGE_DEFAULT: &str = "en";
/// Lines of a letter's address, the name and the postcode among them.
pub const ADDRESS_LINES_MAX: usize = 7;
/// The reasonable adjustment that asks for Easy Read.
const EASY_READ: &str = "requiresinformationineasyread";
/// The most characters of an email address (RFC 3696, erratum 1690).
const EMAIL_CHARS_MAX: usize = 254;

/// A way to write to somebody, in the order of the ladder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// Email.
    Email,
    /// Text message.
    Sms,
    /// Letter.
    Letter,
}

impl Way {
    /// Every way, in the order of the ladder.
    pub const ALL: &[Self] = &[Self::Email, Self::Sms, Self::Letter];

    /// The way as text.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Email => "email",
            Self::Sms => "sms",
            Self::Letter => "letter",
        }
    }

    /// The media type of a message rendered for this way, so that what is stored says by which way it goes.
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::Email => "application/json; way=email",
            Self::Sms => "application/json; way=sms",
            Self::Letter => "application/json; way=letter",
        }
    }

    /// The way of a message as rendered.
    pub fn of_media_type(text: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|way| way.media_type() == text)
    }
}

/// What may be said to a family: the closed list that templates choose their fields from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Field {
    /// The gateway's short reference of the referral.
    Reference,
    /// The name of the service.
    Service,
    /// The name of the service's agency.
    Agency,
    /// The day by which the service acts next.
    NextStepBy,
    /// The name of the person written to; in no text message.
    Contact,
}

impl Field {
    /// The name under which a template has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Reference => "reference",
            Self::Service => "service",
            Self::Agency => "agency",
            Self::NextStepBy => "next_step_by",
            Self::Contact => "contact",
        }
    }
}

/// One version of one text for one way, as the directory names it. The words are kept where they are sent from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// Its id.
    pub id: TemplateId,
    /// Its version: of two that hold, the newer is sent.
    pub version: u32,
    /// The endpoint that sends it.
    pub endpoint: EndpointId,
    /// What it is called at that endpoint.
    pub remote: String,
    /// The way that it is written for.
    pub way: Way,
    /// The states of a leg that it tells.
    pub states: BTreeSet<LegState>,
    /// The pathways that it is for; empty for all.
    pub pathways: BTreeSet<Pathway>,
    /// Its language, BCP 47.
    pub language: String,
    /// Its format.
    pub format: Format,
    /// What it says of the referral, besides its own words.
    pub fields: BTreeSet<Field>,
    /// When it holds.
    pub validity: Validity,
    /// Where it stands, for reports.
    pub place: Place,
}

impl Template {
    /// Whether it is due for a state and pathway on a day.
    pub fn is_due(&self, state: LegState, pathway: &Pathway, day: Date) -> bool {
        self.states.contains(&state)
            && (self.pathways.is_empty() || self.pathways.contains(pathway))
            && self.validity.holds_on(day)
    }
}

/// What a delivery to a family was queued for; it names no person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Notice {
    /// The leg.
    pub leg: LegId,
    /// The state that the family is told of.
    pub state: LegState,
    /// The day by which the service acts next.
    #[serde(default)]
    pub due: Option<Date>,
    /// Ways that failed for good.
    #[serde(default)]
    pub tried: Vec<Way>,
    /// The content on which they failed: with other content they may be tried again.
    #[serde(default)]
    pub tried_on: Option<BodyId>,
}

impl Notice {
    /// The first telling of a state.
    pub const fn of(leg: LegId, state: LegState, due: Option<Date>) -> Self {
        Self {
            leg,
            state,
            due,
            tried: Vec::new(),
            tried_on: None,
        }
    }

    /// The ways that failed on this content.
    pub fn tried_on(&self, content: BodyId) -> &[Way] {
        if self.tried_on == Some(content) {
            &self.tried
        } else {
            &[]
        }
    }

    /// What is queued once a way failed on a content.
    #[must_use]
    pub fn after(&self, failed: Option<Way>, content: BodyId) -> Self {
        let mut tried = self.tried_on(content).to_vec();
        tried.extend(failed);
        Self {
            tried,
            tried_on: Some(content),
            ..self.clone()
        }
    }
}

/// A message to a person, ready to be rendered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FamilyMessage {
    /// The template.
    pub template: TemplateId,
    /// Its version.
    pub version: u32,
    /// What it is called at the endpoint.
    pub remote: String,
    /// The way.
    pub way: Way,
    /// The address: one text, or the lines of a letter's.
    pub to: Vec<Personal<String>>,
    /// What it says, by field.
    pub fields: BTreeMap<&'static str, Personal<String>>,
}

/// Why a family is not written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Untold {
    /// The young person does not wish it (ruling 25): recorded, and told to nobody.
    #[error("the young person does not wish it")]
    Objection,
    /// No consent to family messages stands.
    #[error("no consent to family messages stands")]
    NoConsent,
    /// The leg was entered in error: it is another child's, perhaps.
    #[error("the leg was entered in error")]
    EnteredInError,
    /// The leg moved on, and its new state is told by itself.
    #[error("the leg moved on meanwhile, which is told by itself")]
    MovedOn,
    /// No template that holds today fits.
    #[error("no template that holds today tells this state")]
    NoTemplate,
    /// Nobody is recorded whom it is safe to contact.
    #[error("nobody is recorded whom it is safe to contact")]
    NobodySafe,
    /// Somebody may be contacted, by no way, language and format that there is a template for.
    #[error("no template and way fit the person's language, format and wishes")]
    NoWay,
    /// Every way that there was failed.
    #[error("every way to reach the family failed")]
    Exhausted,
}

impl Untold {
    /// A stable code.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Objection => "family.objection",
            Self::NoConsent => "family.no_consent",
            Self::EnteredInError => "family.entered_in_error",
            Self::MovedOn => "family.moved_on",
            Self::NoTemplate => "family.no_template",
            Self::NobodySafe => "family.nobody_safe",
            Self::NoWay => "family.no_way",
            Self::Exhausted => "family.exhausted",
        }
    }

    /// Whether somebody must tell the family in another way.
    pub const fn needs_a_person(self) -> bool {
        !matches!(
            self,
            Self::Objection | Self::NoConsent | Self::EnteredInError | Self::MovedOn
        )
    }
}

/// What decides what a family is told.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// The directory in force.
    pub directory: &'a Directory,
    /// Today.
    pub day: Date,
    /// What is asked for.
    pub pathway: &'a Pathway,
    /// The leg's service.
    pub service: Option<&'a ServiceId>,
    /// The leg's state now.
    pub standing: LegState,
    /// The endpoint that the delivery is bound to.
    pub endpoint: &'a EndpointId,
    /// The referral's short reference.
    pub reference: &'a Reference,
    /// What is to be told.
    pub notice: &'a Notice,
    /// The ways that failed on this content.
    pub tried: &'a [Way],
    /// The referral's content now.
    pub content: &'a Referral,
    /// Consent that was withdrawn since.
    pub withdrawn: &'a BTreeSet<ConsentScope>,
}

/// Decides whom of a family to write to, by which way and with which template.
///
/// # Errors
/// [`Untold`] says why nobody.
pub fn decide(ask: &Ask<'_>) -> Result<FamilyMessage, Untold> {
    if ask.standing == LegState::EnteredInError && ask.notice.state != LegState::EnteredInError {
        return Err(Untold::EnteredInError);
    }
    consent(ask)?;
    let of = |state| {
        let templates = ask.directory.templates.iter();
        templates.filter(move |t| t.is_due(state, ask.pathway, ask.day))
    };
    // Who was told that a referral was declined must not hear afterwards that it was accepted.
    if ask.standing != ask.notice.state && of(ask.standing).next().is_some() {
        return Err(Untold::MovedOn);
    }
    let due: Vec<&Template> = of(ask.notice.state)
        .filter(|t| t.endpoint == *ask.endpoint)
        .collect();
    if due.is_empty() {
        return Err(Untold::NoTemplate);
    }
    let mut safe = ask
        .content
        .contacts
        .iter()
        .filter(|contact| may_be_told(ask, contact))
        .peekable();
    if safe.peek().is_none() {
        return Err(Untold::NobodySafe);
    }
    let mut untold = Untold::NoWay;
    for contact in safe {
        for way in ladder(contact.channel) {
            let Some(message) = message(ask, &due, contact, way) else {
                continue;
            };
            if ask.tried.contains(&way) {
                untold = Untold::Exhausted;
            } else {
                return Ok(message);
            }
        }
        // The ladder is one person's: what failed for them is not told to the next.
        if untold == Untold::Exhausted {
            break;
        }
    }
    Err(untold)
}

/// Consent to family messages, or whose wish it is that there are none.
fn consent(ask: &Ask<'_>) -> Result<(), Untold> {
    let given = &ask.content.consent;
    let own = given.role == ConsentGiver::YoungPerson || grown(ask);
    let no = if own {
        Untold::Objection
    } else {
        Untold::NoConsent
    };
    let withdrawn = [ConsentScope::FamilyMessages, ConsentScope::Referral]
        .iter()
        .any(|scope| ask.withdrawn.contains(scope));
    let stands =
        given.status == ConsentStatus::Given && given.scope.contains(&ConsentScope::FamilyMessages);
    if stands && !withdrawn {
        Ok(())
    } else {
        Err(no)
    }
}

fn grown(ask: &Ask<'_>) -> bool {
    ask.content.age_on(ask.day) >= YOUNG_PERSON_AGE
}

/// Whether somebody is of those who are told, and is recorded as safe to contact.
fn may_be_told(ask: &Ask<'_>, contact: &Contact) -> bool {
    let told = match contact.role {
        ContactRole::Mother | ContactRole::Father | ContactRole::Parent | ContactRole::Carer => {
            // Once it is the young person's to decide, parents are told if the young person said so.
            let theirs = contact.parental_responsibility || contact.role == ContactRole::Carer;
            theirs && (!grown(ask) || ask.content.consent.role == ConsentGiver::YoungPerson)
        }
        ContactRole::YoungPerson => grown(ask),
        ContactRole::SocialWorker | ContactRole::Professional | ContactRole::Other => false,
    };
    told && contact.safe_to_contact == SafeToContact::Yes
}

/// The ways in the order in which somebody wishes them; none for somebody who wishes to be rung up.
fn ladder(wish: Channel) -> Vec<Way> {
    let first = match wish {
        Channel::Phone => return Vec::new(),
        Channel::Email => Some(Way::Email),
        Channel::Sms => Some(Way::Sms),
        Channel::Letter => Some(Way::Letter),
        Channel::Unspecified => None,
    };
    let rest = Way::ALL.iter().copied().filter(|way| Some(*way) != first);
    first.into_iter().chain(rest).collect()
}

/// The message to somebody by a way, if there is an address and a template that fits.
fn message(ask: &Ask<'_>, due: &[&Template], to: &Contact, way: Way) -> Option<FamilyMessage> {
    let address = address(ask.content, to, way)?;
    let format = format(ask, to);
    let language = ask.content.child.language.as_deref();
    let language = language.unwrap_or(LANGUAGE_DEFAULT);
    // Who needs an interpreter is not helped by words in the language that they need one for.
    if ask.content.child.interpreter_required && same_language(language, LANGUAGE_DEFAULT) {
        return None;
    }
    let fitting = due
        .iter()
        .filter(|t| t.way == way && t.format == format && same_language(&t.language, language));
    let mut usable: Vec<(&Template, BTreeMap<&'static str, Personal<String>>)> = fitting
        .filter_map(|t| Some((*t, said(ask, t, to)?)))
        .collect();
    usable.sort_by_key(|(t, _)| t.version);
    let (template, fields) = usable.pop()?;
    Some(FamilyMessage {
        template: template.id.clone(),
        version: template.version,
        remote: template.remote.clone(),
        way,
        to: address,
        fields,
    })
}

/// The format that somebody reads; a young person's adjustments count as their own wish.
fn format(ask: &Ask<'_>, contact: &Contact) -> Format {
    let adjusted = || {
        let mut adjustments = ask.content.reasonable_adjustments.iter();
        adjustments.any(|flag| flag.code.eq_ignore_ascii_case(EASY_READ))
    };
    match (contact.format, contact.role) {
        (Format::Standard, ContactRole::YoungPerson) if adjusted() => Format::EasyRead,
        (format, _) => format,
    }
}

/// Whether two tags name one language, whatever region or script they add.
fn same_language(one: &str, other: &str) -> bool {
    let primary = |tag: &str| tag.split('-').next().unwrap_or_default().to_lowercase();
    primary(one) == primary(other)
}

/// What a template says; `None` where something that it needs is not known.
fn said(
    ask: &Ask<'_>,
    template: &Template,
    to: &Contact,
) -> Option<BTreeMap<&'static str, Personal<String>>> {
    let service = || ask.directory.services.get(ask.service?);
    let value = |field: &Field| {
        Some(match field {
            Field::Reference => ask.reference.as_str().to_owned(),
            Field::Service => service()?.name.clone(),
            Field::Agency => {
                let agency = ask.directory.agencies.get(&service()?.agency)?;
                agency.name.clone()
            }
            Field::NextStepBy => ask.notice.due?.strftime("%-d %B %Y").to_string(),
            Field::Contact => full_name(to),
        })
    };
    let fields = template.fields.iter();
    fields
        .map(|field| Some((field.as_str(), Personal::new(value(field)?))))
        .collect()
}

fn full_name(contact: &Contact) -> String {
    format!(
        "{} {}",
        contact.name.given.expose(),
        contact.name.family.expose()
    )
    .trim()
    .to_owned()
}

/// Where somebody is reached by a way.
fn address(content: &Referral, to: &Contact, way: Way) -> Option<Vec<Personal<String>>> {
    match way {
        Way::Email => {
            let email = to.email.as_ref()?.expose().trim();
            let whole = email.len() <= EMAIL_CHARS_MAX && !email.contains(char::is_whitespace);
            let parts = email.split_once('@')?;
            let good = whole && !parts.0.is_empty() && parts.1.contains('.');
            good.then(|| vec![email.into()])
        }
        Way::Sms => mobile(to.phone.as_ref()?.expose()).map(|number| vec![number.into()]),
        Way::Letter => letter(content, to),
    }
}

/// A number that takes text messages: a British mobile, or any in international form.
fn mobile(text: &str) -> Option<String> {
    let number: String = text
        .chars()
        .filter(|c| !c.is_whitespace() && !"()-.".contains(*c))
        .collect();
    let digits = |n: &str| n.bytes().all(|b| b.is_ascii_digit());
    let british = |n: &str| n.len() == 11 && n.starts_with("07") && digits(n);
    let good = british(&number)
        || number
            .strip_prefix("447")
            .is_some_and(|n| n.len() == 9 && digits(n))
        || number.strip_prefix('+').is_some_and(|n| {
            let landline = n.starts_with("44") && !n.starts_with("447");
            (8..=15).contains(&n.len()) && digits(n) && !landline
        });
    good.then_some(number)
}

/// The lines of a letter to the child's home. Where somebody around the child must not be contacted, or only with
/// care, nothing is posted there: nobody knows who opens it.
fn letter(content: &Referral, to: &Contact) -> Option<Vec<Personal<String>>> {
    let unsafe_home = content.contacts.iter().any(|c| {
        matches!(
            c.safe_to_contact,
            SafeToContact::No | SafeToContact::WithCare
        )
    });
    if unsafe_home {
        return None;
    }
    let home = content.child.address.as_ref()?;
    let postcode = home.postcode.clone()?;
    let written = |line: &&Personal<String>| !line.expose().trim().is_empty();
    let mut lines = vec![Personal::new(full_name(to))];
    lines.extend(home.lines.iter().filter(written).cloned());
    let has_street = lines.len() > 1;
    lines.push(postcode);
    (has_street && lines.len() <= ADDRESS_LINES_MAX).then_some(lines)
}

#[cfg(test)]
mod tests;
