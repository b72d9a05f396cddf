//! The sample referrals, and where each must arrive.

use anyhow::Context as _;
use jiff::civil::Date;
use waymark_core::personal::Personal;
use waymark_core::referral::{LocalId, NhsVerification, Referral};

use super::{bars, hearing, portage, school};

/// When a referral is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// While every agency answers.
    Open,
    /// While the hospital does not.
    Outage,
}

/// What its sender does afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Afterwards {
    /// Nothing.
    Nothing,
    /// It cancels it, once an attempt was made.
    Cancel,
}

/// One sample.
struct Sample {
    name: &'static str,
    json: &'static str,
    /// The age that decides its route: the date of birth moves with the years, so that the sample never outgrows it.
    age: i16,
    to: &'static [&'static str],
    stage: Stage,
    afterwards: Afterwards,
}

macro_rules! sample {
    ($name:literal, $age:literal, $to:expr, $stage:ident) => {
        sample!($name, $age, $to, $stage, Nothing)
    };
    ($name:literal, $age:literal, $to:expr, $stage:ident, $afterwards:ident) => {
        Sample {
            name: $name,
            json: include_str!(concat!("../../../../deploy/referrals/", $name, ".json")),
            age: $age,
            to: &$to,
            stage: Stage::$stage,
            afterwards: Afterwards::$afterwards,
        }
    };
}

const SAMPLES: [Sample; 16] = [
    sample!(
        "autism-toddler",
        3,
        ["community-paediatrics", "speech-language-therapy"],
        Open
    ),
    sample!("speech-language", 4, ["speech-language-therapy"], Open),
    sample!("specialist-teaching", 8, ["specialist-teaching"], Open),
    sample!("mental-health", 14, ["mental-health"], Open),
    sample!("occupational-therapy", 7, ["occupational-therapy"], Open),
    sample!("hearing-assessment", 5, ["hearing-assessment"], Open),
    sample!("portage", 3, ["portage"], Open),
    sample!("speech-language-out-of-area", 4, ["send-triage"], Open),
    sample!("autism-no-consent-for-health", 9, ["send-triage"], Open),
    sample!(
        "adhd-cancelled",
        8,
        ["community-paediatrics"],
        Outage,
        Cancel
    ),
    sample!("adhd", 11, ["community-paediatrics"], Outage),
    sample!(
        "autism-safeguarding-easy-read",
        9,
        ["community-paediatrics"],
        Outage
    ),
    sample!(
        "ehc-advice",
        7,
        ["health-advice", "education-advice", "social-care-advice"],
        Outage
    ),
    sample!(
        "adhd-urgent",
        12,
        ["community-paediatrics", "send-triage"],
        Outage
    ),
    sample!("autism-young-adult", 19, ["adult-neurodevelopment"], Outage),
    sample!("autism-aged-26", 26, ["send-triage"], Outage),
];

/// What somebody else than the school refers, in the language of its own system.
struct Other {
    name: &'static str,
    from: &'static str,
    /// As its system writes it; its child's date of birth is that of the sample's age.
    bytes: &'static str,
    /// How its system names the date of birth.
    born: &'static str,
    age: i16,
    to: &'static [&'static str],
}

macro_rules! other {
    ($name:literal, $from:expr, $born:literal, $age:literal, $to:expr) => {
        Other {
            name: $name,
            from: $from,
            bytes: include_str!(concat!("../../../../deploy/referrals/", $name, ".json")),
            born: $born,
            age: $age,
            to: &$to,
        }
    };
}

const OTHERS: [Other; 3] = [
    other!("portage-by-fhir", bars::AGENCY, "birthDate", 2, ["portage"]),
    other!(
        "hearing-from-portage",
        portage::AGENCY,
        "date_of_birth",
        3,
        ["hearing-assessment"]
    ),
    other!(
        "mental-health-from-hearing",
        hearing::AGENCY,
        "date_of_birth",
        13,
        ["mental-health"]
    ),
];

/// How many referrals others than the school send.
#[cfg(test)]
pub(super) const OTHERS_COUNT: usize = OTHERS.len();
/// How many samples there are.
pub(super) const SAMPLES_COUNT: usize = SAMPLES.len();
/// The most referrals that one demo sends.
pub(super) const REFERRALS_MAX: usize = 1_000;
/// The name of the sample that is left for the reader to send.
pub(super) const SPARE: &str = "another-autism.json";
/// The name of the one to send by FHIR.
pub(super) const SPARE_MESSAGE: &str = "another-portage.fhir.json";
/// That sample.
pub(super) const SPARE_JSON: &str =
    include_str!("../../../../deploy/referrals/another-autism.json");

/// One referral that the school is about to send.
#[derive(Clone, Debug)]
pub(super) struct Planned {
    /// What the demo calls it.
    pub(super) name: String,
    /// Who sends it.
    pub(super) from: &'static str,
    /// Its message key, from the school.
    pub(super) request_id: String,
    /// What is sent.
    pub(super) referral: Referral,
    /// The services that must get it.
    pub(super) to: &'static [&'static str],
    /// When it is sent.
    pub(super) stage: Stage,
    /// What follows.
    pub(super) afterwards: Afterwards,
}

/// Plans so many referrals: the samples in turn, each round under references of its own.
///
/// # Errors
/// When a sample does not read, or does not meet the rules of a referral.
pub(super) fn plan(count: usize, today: Date) -> anyhow::Result<Vec<Planned>> {
    let rounds = (1..=count.div_ceil(SAMPLES_COUNT))
        .flat_map(|round| SAMPLES.iter().map(move |s| (s, round)));
    rounds
        .take(count)
        .map(|(sample, round)| planned(sample, round, today))
        .collect()
}

fn planned(sample: &Sample, round: usize, today: Date) -> anyhow::Result<Planned> {
    let mut referral: Referral = serde_json::from_str(sample.json)
        .with_context(|| format!("read sample {}", sample.name))?;
    let born = *referral.child.date_of_birth.expose();
    referral.child.date_of_birth = Personal::new(aged(born, sample.age, today)?);
    let name = if round == 1 {
        sample.name.to_owned()
    } else {
        format!("{}-{round}", sample.name)
    };
    if round > 1 {
        another_child(&mut referral, &name);
    }
    let violations = referral.violations(today);
    anyhow::ensure!(
        violations.is_empty(),
        "sample {name} is refused: {violations:?}"
    );
    Ok(Planned {
        from: school::AGENCY,
        request_id: format!("demo-{name}"),
        name,
        referral,
        to: sample.to,
        stage: sample.stage,
        // One shows it; further ones would each wait for a probe of the hospital while it is down.
        afterwards: if round == 1 {
            sample.afterwards
        } else {
            Afterwards::Nothing
        },
    })
}

/// A referral that somebody else than the school is about to send.
#[derive(Clone)]
pub(super) struct Referred {
    /// What it is, and where it must go.
    pub(super) planned: Planned,
    /// What its system sends.
    pub(super) bytes: Vec<u8>,
}

/// Plans what others than the school refer.
///
/// # Errors
/// When a sample does not read, or does not meet the rules of a referral.
pub(super) fn others(today: Date) -> anyhow::Result<Vec<Referred>> {
    OTHERS.iter().map(|other| referred(other, today)).collect()
}

fn referred(other: &Other, today: Date) -> anyhow::Result<Referred> {
    let name = other.name;
    let before = format!("\"{}\": \"", other.born);
    let (_, rest) = other
        .bytes
        .split_once(&before)
        .with_context(|| format!("sample {name} has no date of birth"))?;
    let (born, _) = rest.split_once('"').context("a date of birth")?;
    let moved = aged(born.parse().context("a date of birth")?, other.age, today)?;
    let bytes = other
        .bytes
        .replacen(&format!("{before}{born}"), &format!("{before}{moved}"), 1)
        .into_bytes();
    let referral: Referral = if other.from == bars::AGENCY {
        bars::referral_in(&bytes)?
    } else {
        Referral::from_canonical(&bytes).with_context(|| format!("read sample {name}"))?
    };
    let violations = referral.violations(today);
    anyhow::ensure!(
        violations.is_empty(),
        "sample {name} is refused: {violations:?}"
    );
    let planned = Planned {
        name: name.to_owned(),
        from: other.from,
        request_id: String::new(),
        referral,
        to: other.to,
        stage: Stage::Open,
        afterwards: Afterwards::Nothing,
    };
    Ok(Referred { planned, bytes })
}

/// The message that is left for the reader to send by FHIR: the sample of another child, under ids of its own.
pub(super) fn spare_message(today: Date) -> anyhow::Result<Vec<u8>> {
    let all = others(today)?;
    let sample = all.iter().find(|one| one.planned.from == bars::AGENCY);
    let text = String::from_utf8(sample.context("a FHIR sample")?.bytes.clone())?;
    let mut message: serde_json::Value =
        serde_json::from_str(&text.replace("OT-2026-0001", "OT-2026-0002"))?;
    let entries = message
        .get_mut("entry")
        .and_then(serde_json::Value::as_array_mut);
    for entry in entries.into_iter().flatten() {
        let is_child = entry.pointer("/resource/resourceType") == Some(&"Patient".into());
        if let Some(child) = entry
            .get_mut("resource")
            .and_then(serde_json::Value::as_object_mut)
            && is_child
        {
            let number = serde_json::json!([{ "system": "urn:waymark:namespace:THERAPY", "value": "child-2" }]);
            child.insert("identifier".to_owned(), number);
        }
    }
    Ok(serde_json::to_vec_pretty(&message)?)
}

/// Makes the referral one of another child, whom the school alone has a number for, under a reference of its own.
fn another_child(referral: &mut Referral, name: &str) {
    let child = &mut referral.child;
    child.nhs_number = None;
    child.nhs_verification = NhsVerification::Unverified;
    child.upn = None;
    child.local_ids = vec![LocalId {
        system: "HILLSIDE".to_owned(),
        value: Personal::new(name.to_owned()),
    }];
    if let Some(reference) = &mut referral.sender_reference {
        name.clone_into(&mut reference.value);
    }
}

/// The latest day with this birthday on which somebody of this age today was born.
fn aged(born: Date, age: i16, today: Date) -> anyhow::Result<Date> {
    let to_come = (born.month(), born.day()) > (today.month(), today.day());
    let year = today.year() - age - i16::from(to_come);
    Date::new(year, born.month(), born.day()).context("move a date of birth")
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;
    use waymark_adapters::grpc::convert::{referral_from_proto, referral_to_proto};
    use waymark_core::directory::{Directory, SourceFile};
    use waymark_core::routing::{Facts, decide};

    use super::*;

    const DAYS: [Date; 3] = [date(2026, 1, 1), date(2026, 2, 14), date(2031, 12, 31)];

    fn directory() -> Directory {
        let file = |path: &str, text: &str| SourceFile {
            path: path.to_owned(),
            text: text.to_owned(),
        };
        let files = [
            file(
                "agencies.toml",
                include_str!("../../../../deploy/directory/agencies.toml"),
            ),
            file(
                "area.toml",
                include_str!("../../../../deploy/directory/area.toml"),
            ),
            file(
                "rules.toml",
                include_str!("../../../../deploy/directory/rules.toml"),
            ),
            file(
                "services.toml",
                include_str!("../../../../deploy/directory/services.toml"),
            ),
        ];
        Directory::load(&files).unwrap()
    }

    #[test]
    fn every_sample_goes_where_the_sample_directory_sends_it_in_any_year() {
        let directory = directory();
        for today in DAYS {
            let others = others(today).unwrap().into_iter().map(|one| one.planned);
            for planned in plan(SAMPLES_COUNT, today)
                .unwrap()
                .into_iter()
                .chain(others)
            {
                let sender = planned.from.parse().unwrap();
                let decision = decide(
                    &directory,
                    &Facts::of(&planned.referral, &sender, today),
                    today,
                )
                .unwrap();
                let mut to: Vec<&str> = decision
                    .destinations
                    .iter()
                    .map(|d| d.service.as_str())
                    .collect();
                let mut expected = planned.to.to_vec();
                to.sort_unstable();
                expected.sort_unstable();
                assert_eq!(to, expected, "{} on {today}", planned.name);
            }
        }
    }

    #[test]
    fn every_sample_survives_the_wire_whole() {
        for planned in plan(2 * SAMPLES_COUNT, DAYS[0]).unwrap() {
            let back = referral_from_proto(referral_to_proto(&planned.referral)).unwrap();
            let json = |r: &Referral| serde_json::to_value(r).unwrap();
            assert_eq!(json(&back), json(&planned.referral), "{}", planned.name);
        }
    }

    #[test]
    fn the_spare_sample_is_a_referral_of_its_own() {
        let spare: Referral = serde_json::from_str(SPARE_JSON).unwrap();
        assert_eq!(spare.violations(DAYS[0]), []);
        let taken = plan(SAMPLES_COUNT, DAYS[0]).unwrap();
        assert!(
            taken
                .iter()
                .all(|p| p.referral.sender_reference != spare.sender_reference)
        );
    }

    #[test]
    fn the_spare_message_is_a_referral_of_its_own() {
        let spare = bars::referral_in(&spare_message(DAYS[0]).unwrap()).unwrap();
        assert_eq!(spare.violations(DAYS[0]), []);
        let others = others(DAYS[0]).unwrap();
        assert_eq!(others.len(), OTHERS_COUNT);
        let own = |r: &Referral| r.sender_reference.clone().unwrap().value;
        assert!(
            others
                .iter()
                .all(|one| own(&one.planned.referral) != own(&spare))
        );
    }

    #[test]
    fn more_referrals_than_samples_have_keys_and_references_of_their_own() {
        let all = plan(3 * SAMPLES_COUNT, DAYS[0]).unwrap();
        let keys: std::collections::BTreeSet<_> =
            all.iter().map(|p| p.request_id.clone()).collect();
        let own: std::collections::BTreeSet<_> = all
            .iter()
            .map(|p| p.referral.sender_reference.clone().unwrap().value)
            .collect();
        assert_eq!((keys.len(), own.len()), (all.len(), all.len()));
        assert_eq!(plan(2, DAYS[0]).unwrap().len(), 2);
    }

    #[test]
    fn a_date_of_birth_gives_the_age_on_its_birthday_and_the_day_before() {
        let born = date(2018, 2, 14);
        assert_eq!(aged(born, 9, date(2026, 2, 14)).unwrap(), date(2017, 2, 14));
        assert_eq!(aged(born, 9, date(2026, 2, 13)).unwrap(), date(2016, 2, 14));
    }
}
