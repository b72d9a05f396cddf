//! What supports a request: flags, allergies, consent, needs, concerns, what was tried, facts and documents.

use std::fmt::Write as _;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::civil::Date;
use waymark_core::identifier::Urn;
use waymark_core::personal::{Payload, Personal};
use waymark_core::port::InboundDocument;
use waymark_core::referral::{
    Concern, Consent, Cycle, Flag, LawfulBasis, Need, NeedType, SenProvision, Setting, SettingKind,
    Tested,
};

use super::super::name;
use super::inward::Reading;
use super::node::{Concept, Fault, Issue, Node};
use super::{aside, words};

/// What the supporting resources of a message say.
pub(super) struct Support {
    pub(super) safeguarding: Vec<Flag>,
    pub(super) adjustments: Vec<Flag>,
    pub(super) allergies: Option<Personal<String>>,
    pub(super) consent: Consent,
    pub(super) lawful_basis: LawfulBasis,
    pub(super) needs: Vec<Need>,
    pub(super) concerns: Vec<Concern>,
    pub(super) cycles: Vec<Cycle>,
    pub(super) setting: Option<Setting>,
    pub(super) attendance: Option<u8>,
    pub(super) hearing: Option<Tested>,
    pub(super) vision: Option<Tested>,
}

pub(super) fn read(reading: &mut Reading<'_, '_>) -> Result<Support, Fault> {
    let (consent, lawful_basis) = super::consent::read(reading)?;
    let mut found = Support {
        safeguarding: Vec::new(),
        adjustments: Vec::new(),
        allergies: None,
        consent,
        lawful_basis,
        needs: Vec::new(),
        concerns: Vec::new(),
        cycles: Vec::new(),
        setting: None,
        attendance: None,
        hearing: None,
        vision: None,
    };
    flags(reading, &mut found)?;
    allergies(reading, &mut found)?;
    needs(reading, &mut found)?;
    let observations: Vec<Node<'_>> = reading.message.all("Observation").cloned().collect();
    for observation in &observations {
        self::observation(reading, observation, &mut found)?;
    }
    plans(reading, &mut found)?;
    let documents: Vec<Node<'_>> = reading.message.all("DocumentReference").cloned().collect();
    for document in &documents {
        self::document(reading, document)?;
    }
    Ok(found)
}

/// Safeguarding and adjustments by their categories; any other flag in words, never dropped.
fn flags(reading: &mut Reading<'_, '_>, found: &mut Support) -> Result<(), Fault> {
    let flags: Vec<Node<'_>> = reading.message.all("Flag").cloned().collect();
    for flag in &flags {
        if flag.extension(&name::extension("derived"))?.is_some() {
            continue;
        }
        let concept = Concept::read(&flag.required("code")?)?;
        let mut category = None;
        for one in flag.list("category")? {
            category = category.or(Concept::read(&one)?.code_of(name::FLAG_CATEGORY));
        }
        let coding = concept.codings.iter().find(|coding| coding.code.is_some());
        let coded = Flag {
            system: name::namespace_of(coding.and_then(|c| c.system)),
            code: coding
                .and_then(|c| c.code)
                .unwrap_or(category.unwrap_or("flag"))
                .to_owned(),
            text: concept
                .text
                .or(coding.and_then(|c| c.display))
                .map(Personal::from),
        };
        let stale = aside::stale(flag, &["inactive", "entered-in-error"])?;
        match category {
            _ if stale.is_some() => {
                let words = [category, stale, concept.words()];
                let words: Vec<&str> = words.into_iter().flatten().collect();
                reading.say(format!("Flag that is not in force: {}", words.join(" ")));
            }
            Some("SG") => found.safeguarding.push(coded),
            Some("RA") => found.adjustments.push(coded),
            other => {
                let words = concept.words().unwrap_or_default();
                reading.say(format!(
                    "Flag {}: {words}",
                    other.unwrap_or("of no known category")
                ));
            }
        }
    }
    Ok(())
}

fn allergies(reading: &mut Reading<'_, '_>, found: &mut Support) -> Result<(), Fault> {
    let message = reading.message;
    let mut all = Vec::new();
    for allergy in message.all("AllergyIntolerance") {
        let mut words = allergy
            .concept("code")?
            .words()
            .unwrap_or("allergy that is not named")
            .to_owned();
        if let Some(criticality) = allergy.text("criticality")? {
            write!(words, " (criticality {criticality})").unwrap_or_default();
        }
        for reaction in allergy.list("reaction")? {
            for manifestation in reaction.list("manifestation")? {
                let shown = Concept::read(&manifestation)?;
                write!(words, ", {}", shown.words().unwrap_or_default()).unwrap_or_default();
            }
        }
        for note in allergy.list("note")? {
            write!(words, ", {}", note.required_text("text")?).unwrap_or_default();
        }
        if let Some(past) = aside::past(allergy)? {
            write!(words, " ({past})").unwrap_or_default();
        }
        match aside::ruled_out(allergy)? {
            Some(why) => reading.say(format!("Not an allergy ({why}): {words}")),
            None => all.push(words),
        }
    }
    found.allergies = (!all.is_empty()).then(|| Personal::new(all.join("\n")));
    Ok(())
}

/// The day of an element that is a date or the beginning of a dateTime.
pub(super) fn day(node: &Node<'_>, element: &str) -> Result<Option<Date>, Fault> {
    let Some(written) = node.text(element)? else {
        return Ok(None);
    };
    let date = written.get(..10).unwrap_or(written).parse();
    date.map(Some)
        .map_err(|_| node.fault_of(element, "begins with a date, YYYY-MM-DD", Issue::Value))
}

/// Needs of the school census, in their order; any other condition in words.
fn needs(reading: &mut Reading<'_, '_>, found: &mut Support) -> Result<(), Fault> {
    let conditions: Vec<Node<'_>> = reading.message.all("Condition").cloned().collect();
    for condition in &conditions {
        let concept = condition.concept("code")?;
        let mapped = || {
            let mut codings = concept.codings.iter();
            codings.find_map(|coding| {
                let system = coding.system.unwrap_or_default();
                reading.codes.need_of(system, coding.code?)
            })
        };
        let known = match concept.code_of(name::NEED) {
            None => mapped(),
            Some(code) => Some(NeedType::parse(code).ok_or_else(|| {
                let rule = "is a type of need of the school census";
                condition.fault_of("code", rule, Issue::Value)
            })?),
        };
        if let Some(why) = aside::ruled_out(condition)?.or(aside::past(condition)?) {
            let words = concept.words().unwrap_or_default();
            reading.say(format!("Condition that does not stand ({why}): {words}"));
            continue;
        }
        match known {
            None => reading.say(format!(
                "Condition: {}",
                concept.words().unwrap_or_default()
            )),
            Some(kind) => {
                let bad = |rule: &str| condition.fault_of("code", rule, Issue::Value);
                let rank = condition.extension(&name::extension("rank"))?;
                let rank = rank
                    .map(|rank| rank.integer("valuePositiveInt"))
                    .transpose()?
                    .flatten();
                let nth = i64::try_from(found.needs.len() + 1).unwrap_or(i64::MAX);
                let rank = u8::try_from(rank.unwrap_or(nth))
                    .map_err(|_| bad("has a rank of at most 255"))?;
                found.needs.push(Need { kind, rank });
            }
        }
    }
    Ok(())
}

/// One observation: ours by what it observes, any other in words.
fn observation(
    reading: &mut Reading<'_, '_>,
    node: &Node<'_>,
    found: &mut Support,
) -> Result<(), Fault> {
    let code = Concept::read(&node.required("code")?)?;
    let value = node.concept("valueCodeableConcept")?;
    if let Some(why) = aside::stale(node, &["cancelled", "entered-in-error"])? {
        let words = words::finding(node)?;
        reading.say(format!("Observation that does not stand ({why}): {words}"));
        return Ok(());
    }
    let tested = || {
        let parsed = value.code_of(name::VALUE).and_then(Tested::parse);
        parsed.ok_or_else(|| node.fault_of("valueCodeableConcept", "is yes or no", Issue::Value))
    };
    match code.code_of(name::OBSERVED) {
        Some("concern") => {
            let part = |code: &str| part(node, code, "valueString");
            found.concerns.push(Concern {
                setting: part("place")?.unwrap_or_default().to_owned(),
                text: node.required_text("valueString")?.into(),
                onset: part("onset")?.map(Personal::from),
                impact: part("impact")?.map(Personal::from),
            });
        }
        Some("education-setting") => found.setting = Some(setting(node, &value)?),
        Some("attendance") => {
            let percent = node.required("valueQuantity")?;
            let whole = percent
                .integer("value")?
                .and_then(|value| u8::try_from(value).ok());
            found.attendance =
                Some(whole.ok_or_else(|| {
                    percent.fault_of("value", "is a whole percentage", Issue::Value)
                })?);
        }
        Some("hearing-checked") => found.hearing = Some(tested()?),
        Some("vision-checked") => found.vision = Some(tested()?),
        _ => {
            let words = words::finding(node)?;
            reading.say(format!("Observation: {words}"));
        }
    }
    Ok(())
}

fn component<'v>(node: &Node<'v>, code: &str) -> Result<Option<Node<'v>>, Fault> {
    for component in node.list("component")? {
        if component.concept("code")?.code_of(name::OBSERVED) == Some(code) {
            return Ok(Some(component));
        }
    }
    Ok(None)
}

fn part<'v>(node: &Node<'v>, code: &str, element: &str) -> Result<Option<&'v str>, Fault> {
    match component(node, code)? {
        None => Ok(None),
        Some(component) => component.text(element),
    }
}

fn setting(node: &Node<'_>, kind: &Concept<'_>) -> Result<Setting, Fault> {
    let bad = |rule: &str| node.fault_of("component", rule, Issue::Value);
    let school = component(node, "school")?;
    let school = school
        .map(|c| c.concept("valueCodeableConcept"))
        .transpose()?
        .unwrap_or_default();
    let urn = school.code_of(name::SCHOOL_URN).map(Urn::parse).transpose();
    let year = component(node, "year-group")?;
    let year = year
        .map(|c| c.integer("valueInteger"))
        .transpose()?
        .flatten();
    let provision = component(node, "sen-provision")?;
    let provision = provision
        .map(|c| c.concept("valueCodeableConcept"))
        .transpose()?
        .unwrap_or_default();
    let kind = kind.code_of(name::VALUE).and_then(SettingKind::parse);
    Ok(Setting {
        urn: urn.map_err(|e| bad(&e.to_string()))?,
        name: school.text.map(ToOwned::to_owned),
        kind: kind.ok_or_else(|| {
            node.fault_of("valueCodeableConcept", "is a kind of setting", Issue::Value)
        })?,
        year_group: year
            .map(i8::try_from)
            .transpose()
            .map_err(|_| bad("has a year group from -2 to 14"))?,
        sen_provision: provision
            .code_of(name::VALUE)
            .and_then(SenProvision::parse)
            .unwrap_or_default(),
    })
}

/// Care plans: an activity with a description is a cycle, and what else activities say goes into words.
fn plans(reading: &mut Reading<'_, '_>, found: &mut Support) -> Result<(), Fault> {
    let plans: Vec<Node<'_>> = reading.message.all("CarePlan").cloned().collect();
    for plan in &plans {
        words::plan(reading, plan)?;
    }
    for activity in plans
        .iter()
        .map(|plan| plan.list("activity"))
        .collect::<Result<Vec<_>, _>>()?
        .iter()
        .flatten()
    {
        for outcome in activity.list("outcomeCodeableConcept")? {
            let concept = Concept::read(&outcome)?;
            reading
                .words
                .extend(concept.words().map(|words| format!("Care plan: {words}")));
        }
        let detail = activity.object("detail")?;
        let what = match &detail {
            Some(detail) if detail.truth("doNotPerform")? != Some(true) => {
                detail.text("description")?
            }
            _ => None,
        };
        let (Some(detail), Some(what)) = (detail, what) else {
            words::activity(reading, activity)?;
            continue;
        };
        let period = detail.object("scheduledPeriod")?;
        let end = |element: &str| match &period {
            Some(period) => day(period, element),
            None => Ok(None),
        };
        let mut outcome = Vec::new();
        for progress in activity.list("progress")? {
            outcome.push(progress.required_text("text")?);
        }
        found.cycles.push(Cycle {
            from: end("start")?,
            to: end("end")?,
            what: what.into(),
            outcome: (!outcome.is_empty()).then(|| Personal::new(outcome.join("\n"))),
        });
    }
    Ok(())
}

/// A document: taken in where it came inline and is what its hash says, announced in words where it did not.
fn document(reading: &mut Reading<'_, '_>, node: &Node<'_>) -> Result<(), Fault> {
    let kind = node.concept("type")?.words().map(ToOwned::to_owned);
    if let Some(why) = aside::stale(node, &["superseded", "entered-in-error"])? {
        let words = node.text("description")?.or(kind.as_deref());
        let line = format!(
            "Document not taken, for it is {why}: {}",
            words.unwrap_or_default()
        );
        reading.say(line.trim_end_matches([':', ' ']));
        return Ok(());
    }
    for content in node.list("content")? {
        let attachment = content.required("attachment")?;
        let title = attachment.text("title")?.or(node.text("description")?);
        let media_type = attachment.text("contentType")?;
        let sha256 = attachment.extension(&name::extension("sha256"))?;
        let sha256 = sha256
            .map(|found| found.required_text("valueString"))
            .transpose()?;
        let Some(data) = attachment.text("data")? else {
            let mut line = format!(
                "Document not sent along: {}",
                title.unwrap_or("without a title")
            );
            for part in [
                media_type,
                sha256.map(|_| "sha256"),
                sha256,
                attachment.text("url")?,
            ]
            .into_iter()
            .flatten()
            {
                write!(line, " {part}").unwrap_or_default();
            }
            reading.say(line);
            continue;
        };
        let compact: String = data.chars().filter(|c| !c.is_ascii_whitespace()).collect();
        let bytes = STANDARD
            .decode(compact)
            .map_err(|_| attachment.fault_of("data", "is base64", Issue::Structure))?;
        if let Some(hash) = attachment.text("hash")? {
            let own = STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &bytes));
            if own != hash {
                return Err(attachment.fault_of(
                    "hash",
                    "is the SHA-1 of the data: it is not",
                    Issue::Value,
                ));
            }
        }
        let length = i64::try_from(bytes.len()).unwrap_or(i64::MAX);
        if attachment
            .integer("size")?
            .is_some_and(|size| size != length)
        {
            let rule = "is the number of bytes of the data: it is not";
            return Err(attachment.fault_of("size", rule, Issue::Value));
        }
        let media_type = media_type.ok_or_else(|| {
            attachment.fault_of("contentType", "is required with data", Issue::Required)
        })?;
        reading.documents.push(InboundDocument {
            media_type: media_type.to_owned(),
            sha256: sha256.map(ToOwned::to_owned),
            title: title.map(Personal::from),
            kind: kind.clone(),
            bytes: Payload::new(bytes),
        });
    }
    Ok(())
}
