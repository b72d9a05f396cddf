use jiff::civil::date;

use super::*;
use crate::directory::sample::{TODAY, with};
use crate::directory::{Finding, Severity, check};
use crate::id::ReferralId;

const NOTIFY: &str = r#"
[[endpoint]]
id = "families"
agency = "LA1"
adapter = "notify"
"#;

/// A template of a way for the state `accepted`, with further lines.
fn template(id: &str, way: &str, rest: &str) -> String {
    format!(
        "[[template]]\nid = \"{id}\"\nversion = 1\nendpoint = \"families\"\nremote = \"{id}-remote\"\nway = \"{way}\"\n\
         states = \"accepted\"\n{rest}\n"
    )
}

/// One template of each way.
fn each() -> String {
    ["email", "sms", "letter"]
        .map(|way| template(way, way, ""))
        .concat()
}

const REFERRAL: &str = r#"{
    "child": {"name": {"family": "Oduya", "given": "Wren"}, "date_of_birth": "2016-05-04",
        "address": {"lines": ["4 Lower Lane"], "postcode": "SS1 1AA"}},
    "contacts": [
        {"name": {"family": "Oduya", "given": "Ife"}, "role": "mother", "parental_responsibility": true,
         "phone": "07700 900123", "email": "ife@family.example", "safe_to_contact": "yes"},
        {"name": {"family": "Oduya", "given": "Wren"}, "role": "young_person", "phone": "+44 7700 900456",
         "safe_to_contact": "yes"}],
    "referrer": {"name": "Ada Okoro", "role": "SENCO"},
    "pathway": "p", "priority": "routine", "reason": {"code": "X"},
    "consent": {"status": "given", "role": "parent_with_pr", "scope": ["referral", "family_messages"]},
    "lawful_basis": "public_task_care"}"#;

fn referral() -> Referral {
    serde_json::from_str(REFERRAL).unwrap()
}

/// What a test changes.
struct Case {
    tables: String,
    content: Referral,
    notice: Notice,
    withdrawn: BTreeSet<ConsentScope>,
    standing: LegState,
    day: Date,
}

impl Case {
    fn new() -> Self {
        Self {
            tables: each(),
            content: referral(),
            notice: Notice::of(
                LegId::from_bytes([1; 16]),
                LegState::Accepted,
                Some(date(2026, 3, 9)),
            ),
            withdrawn: BTreeSet::new(),
            standing: LegState::Accepted,
            day: TODAY,
        }
    }

    fn decide(&self) -> Result<FamilyMessage, Untold> {
        let directory = with(&format!("{NOTIFY}{}", self.tables)).unwrap();
        let (endpoint, service) = ("families".parse().unwrap(), "health".parse().unwrap());
        decide(&Ask {
            directory: &directory,
            day: self.day,
            pathway: &self.content.pathway,
            service: Some(&service),
            standing: self.standing,
            endpoint: &endpoint,
            reference: &Reference::of(ReferralId::from_bytes([9; 16])),
            notice: &self.notice,
            tried: &self.notice.tried,
            content: &self.content,
            withdrawn: &self.withdrawn,
        })
    }

    /// The way and the address, or why nobody.
    fn told(&self) -> Result<(Way, Vec<String>), Untold> {
        let message = self.decide()?;
        let to = message.to.into_iter().map(Personal::into_inner);
        Ok((message.way, to.collect()))
    }
}

/// What is told once a referral is changed.
fn told(change: impl FnOnce(&mut Referral)) -> Result<(Way, Vec<String>), Untold> {
    let mut case = Case::new();
    change(&mut case.content);
    case.told()
}

fn one(way: Way, to: &str) -> (Way, Vec<String>) {
    (way, vec![to.to_owned()])
}

#[test]
fn the_ladder_goes_from_email_to_text_to_letter_and_then_to_a_person() {
    let mut case = Case::new();
    let mut seen = Vec::new();
    while let Ok((way, to)) = case.told() {
        seen.push((way, to.join(", ")));
        case.notice.tried.push(way);
    }
    let text = |s: &str| s.to_owned();
    assert_eq!(
        seen,
        [
            (Way::Email, text("ife@family.example")),
            (Way::Sms, text("07700900123")),
            (Way::Letter, text("Ife Oduya, 4 Lower Lane, SS1 1AA")),
        ]
    );
    assert_eq!(case.told(), Err(Untold::Exhausted));
    assert!(Untold::Exhausted.needs_a_person());
}

#[test]
fn a_wish_comes_first_and_who_wishes_to_be_rung_up_is_left_to_a_person() {
    let wish = |channel| told(|r| r.contacts[0].channel = channel);
    assert_eq!(wish(Channel::Sms), Ok(one(Way::Sms, "07700900123")));
    assert_eq!(wish(Channel::Letter).unwrap().0, Way::Letter);
    assert_eq!(wish(Channel::Phone), Err(Untold::NoWay));
}

#[test]
fn nobody_is_written_to_who_is_not_recorded_as_safe() {
    for safety in [
        SafeToContact::No,
        SafeToContact::WithCare,
        SafeToContact::Unknown,
    ] {
        let told = told(|r| r.contacts[0].safe_to_contact = safety);
        assert_eq!(told, Err(Untold::NobodySafe), "{safety}");
    }
    assert_eq!(told(|r| r.contacts.clear()), Err(Untold::NobodySafe));
    let no_right = told(|r| r.contacts[0].parental_responsibility = false);
    assert_eq!(no_right, Err(Untold::NobodySafe));
    let professional = told(|r| r.contacts[0].role = ContactRole::Professional);
    assert_eq!(professional, Err(Untold::NobodySafe));
}

#[test]
fn a_second_parent_is_written_to_when_the_first_is_not_safe_but_no_letter_goes_to_that_home() {
    let mut case = Case::new();
    let mut second = case.content.contacts[0].clone();
    second.email = Some("second@family.example".into());
    case.content.contacts[0].safe_to_contact = SafeToContact::No;
    case.content.contacts.push(second);
    assert_eq!(case.told(), Ok(one(Way::Email, "second@family.example")));
    case.notice.tried = vec![Way::Email, Way::Sms];
    assert_eq!(case.told(), Err(Untold::Exhausted), "no letter");
}

#[test]
fn what_failed_for_one_person_is_not_told_to_the_next() {
    let mut case = Case::new();
    let mut second = case.content.contacts[0].clone();
    second.email = Some("second@family.example".into());
    case.content.contacts.push(second);
    case.notice.tried = Way::ALL.to_vec();
    assert_eq!(case.told(), Err(Untold::Exhausted));
}

#[test]
fn without_consent_to_messages_nothing_is_sent_and_nobody_is_alarmed() {
    let none = told(|r| r.consent.scope = vec![ConsentScope::Referral]);
    assert_eq!(none, Err(Untold::NoConsent));
    assert_eq!(
        told(|r| r.consent.status = ConsentStatus::NotSought),
        Err(Untold::NoConsent)
    );
    let objects = told(|r| {
        r.consent.role = ConsentGiver::YoungPerson;
        r.consent.scope = vec![ConsentScope::Referral];
    });
    assert_eq!(objects, Err(Untold::Objection));
    let mut case = Case::new();
    case.withdrawn.insert(ConsentScope::FamilyMessages);
    assert_eq!(case.told(), Err(Untold::NoConsent));
    for why in [Untold::NoConsent, Untold::Objection, Untold::EnteredInError] {
        assert!(!why.needs_a_person(), "{why}");
    }
}

#[test]
fn from_sixteen_the_young_person_is_told_and_a_parent_only_where_they_said_so() {
    let mut case = Case::new();
    case.content.child.date_of_birth = date(2010, 3, 2).into();
    assert_eq!(case.told(), Ok(one(Way::Sms, "+447700900456")));
    case.content.child.date_of_birth = date(2010, 3, 3).into();
    assert_eq!(
        case.told(),
        Ok(one(Way::Email, "ife@family.example")),
        "the day before"
    );
    case.content.child.date_of_birth = date(2010, 3, 2).into();
    case.content.consent.role = ConsentGiver::YoungPerson;
    assert_eq!(case.told(), Ok(one(Way::Email, "ife@family.example")));
    case.content.contacts.pop();
    case.content.consent.role = ConsentGiver::Parent;
    assert_eq!(case.told(), Err(Untold::NobodySafe));
}

#[test]
fn language_and_format_are_kept_or_a_person_is_asked() {
    let easy = template("easy", "email", "format = \"easy_read\"");
    let welsh = template("welsh", "sms", "language = \"cy-GB\"");
    let mut case = Case::new();
    case.content.contacts[0].format = Format::EasyRead;
    assert_eq!(
        case.told(),
        Err(Untold::NoWay),
        "standard print is not Easy Read"
    );
    case.tables = format!("{}{easy}{welsh}", each());
    assert_eq!(case.decide().unwrap().template.as_str(), "easy");
    case.content.contacts[0].format = Format::Standard;
    case.content.child.language = Some("cy".to_owned());
    assert_eq!(case.decide().unwrap().template.as_str(), "welsh");
    case.content.child.interpreter_required = true;
    assert_eq!(case.decide().unwrap().template.as_str(), "welsh");
    case.content.child.language = Some("so".to_owned());
    assert_eq!(case.told(), Err(Untold::NoWay));
    case.content.child.language = None;
    assert_eq!(
        case.told(),
        Err(Untold::NoWay),
        "an interpreter, of an unknown language"
    );
}

#[test]
fn the_newest_version_that_holds_is_sent_with_the_fields_that_it_names() {
    let mut case = Case::new();
    let second = template(
        "email",
        "email",
        "fields = [\"service\", \"next_step_by\", \"contact\"]",
    )
    .replace("version = 1", "version = 2");
    let third =
        template("email", "email", "valid_from = 2027-01-01").replace("version = 1", "version = 3");
    case.tables = format!("{}{second}{third}", each());
    let message = case.decide().unwrap();
    assert_eq!((message.template.as_str(), message.version), ("email", 2));
    let fields: Vec<(&str, String)> = message
        .fields
        .into_iter()
        .map(|(name, value)| (name, value.into_inner()))
        .collect();
    let text = |name, value: &str| (name, value.to_owned());
    assert_eq!(
        fields,
        [
            text("contact", "Ife Oduya"),
            text("next_step_by", "9 March 2026"),
            text("service", "Clinic")
        ]
    );
    case.notice.due = None;
    assert_eq!(case.decide().unwrap().version, 1, "the day is not known");
}

#[test]
fn what_was_entered_in_error_and_what_has_no_template_is_not_told() {
    let mut case = Case::new();
    case.standing = LegState::EnteredInError;
    assert_eq!(case.told(), Err(Untold::EnteredInError));
    let mut case = Case::new();
    case.notice.state = LegState::Declined;
    case.standing = LegState::Declined;
    assert_eq!(case.told(), Err(Untold::NoTemplate));
    let mut case = Case::new();
    case.tables = template("email", "email", "pathways = \"q\"");
    assert_eq!(case.told(), Err(Untold::NoTemplate));
}

#[test]
fn what_is_no_longer_so_is_not_told_where_the_new_state_is_told_by_itself() {
    let mut case = Case::new();
    case.standing = LegState::InAssessment;
    assert!(case.told().is_ok(), "nothing else is told of it");
    case.tables += &template("declined", "email", "").replace("accepted", "declined");
    case.standing = LegState::Declined;
    assert_eq!(case.told(), Err(Untold::MovedOn));
    assert!(!Untold::MovedOn.needs_a_person());
}

#[test]
fn only_numbers_that_take_texts_and_addresses_that_can_be_mailed_are_used() {
    for number in [
        "07700 900123",
        "+44 7700 900123",
        "447700900123",
        "+33 6 12 34 56 78",
    ] {
        assert!(mobile(number).is_some(), "{number}");
    }
    for number in [
        "01632 960001",
        "+44 1632 960001",
        "0770090012",
        "school office",
        "",
    ] {
        assert_eq!(mobile(number), None, "{number}");
    }
    let email = |text: &str| told(|r| r.contacts[0].email = Some(text.into())).unwrap().0;
    assert_eq!(email("none"), Way::Sms);
    assert_eq!(email("two words@family.example"), Way::Sms);
    let long = told(|r| {
        r.contacts[0].channel = Channel::Letter;
        r.child.address.as_mut().unwrap().lines = vec!["line".into(); 6];
    });
    assert_eq!(
        long.unwrap().0,
        Way::Email,
        "an address too long for a letter"
    );
}

#[test]
fn a_way_that_failed_may_be_tried_again_once_the_details_are_other() {
    let notice = Notice::of(LegId::from_bytes([1; 16]), LegState::Accepted, None);
    let (first, second) = (BodyId::from_bytes([1; 16]), BodyId::from_bytes([2; 16]));
    let later = notice
        .after(Some(Way::Email), first)
        .after(Some(Way::Sms), first);
    assert_eq!(later.tried_on(first), [Way::Email, Way::Sms]);
    assert_eq!(later.tried_on(second), []);
    assert_eq!(later.after(None, second).tried_on(second), []);
    let stored = serde_json::to_vec(&later).unwrap();
    assert_eq!(serde_json::from_slice::<Notice>(&stored).unwrap(), later);
}

#[test]
fn no_message_shows_whom_it_is_for() {
    let shown = format!("{:?}", Case::new().decide().unwrap());
    assert!(
        !shown.contains("family.example") && !shown.contains("Oduya"),
        "{shown}"
    );
}

fn findings(tables: &str) -> Vec<(String, &'static str)> {
    let tables = format!("{NOTIFY}{tables}");
    let found: Vec<Finding> = match with(&tables) {
        Ok(directory) => check(&directory, TODAY),
        Err(findings) => findings,
    };
    found
        .into_iter()
        .filter(|f| f.severity == Severity::Error && f.code != "gap")
        .map(|f| (f.place.to_string(), f.code))
        .collect()
}

#[test]
fn templates_are_checked_with_file_and_line() {
    let at = |line: usize, code| vec![(format!("rules.toml:{line}"), code)];
    assert_eq!(findings(&each()), []);
    let other = template("other", "email", "");
    for (tables, expected) in [
        (
            template("t", "sms", "fields = \"contact\""),
            at(6, "template-field"),
        ),
        (
            template("t", "email", "fields = \"diagnosis\""),
            at(13, "invalid-table"),
        ),
        (
            template("t", "email", "fields = \"next_step_by\"")
                .replace("\"accepted\"", "\"declined\""),
            at(6, "template-field"),
        ),
        (
            template("t", "email", "").replace("\"families\"", "\"la-box\""),
            at(6, "template-endpoint"),
        ),
        (
            template("t", "email", "").replace("\"families\"", "\"nowhere\""),
            at(9, "unresolved"),
        ),
        (
            template("t", "email", "").replace("t-remote", "t remote"),
            at(10, "invalid-id"),
        ),
        (
            template("t", "email", "language = \"\""),
            at(13, "invalid-id"),
        ),
        (
            template(
                "t",
                "email",
                "valid_from = 2026-02-02\nvalid_to = 2026-02-01",
            ),
            at(6, "never-valid"),
        ),
        (
            template("t", "email", "").replace("version = 1", "version = 0"),
            at(8, "limit"),
        ),
        (
            format!("{}{other}", template("t", "email", "")),
            at(14, "ambiguous-template"),
        ),
        (format!("{other}{other}"), at(14, "duplicate")),
    ] {
        assert_eq!(findings(&tables), expected, "{tables}");
    }
    let agency = "[[agency]]\nid = \"B1\"\nname = \"B\"\nsector = \"health\"\nreturn_endpoint = \"b-families\"\n\
                  [[endpoint]]\nid = \"b-families\"\nagency = \"B1\"\nadapter = \"notify\"\n";
    assert_eq!(findings(agency), at(6, "family-endpoint"));
}
