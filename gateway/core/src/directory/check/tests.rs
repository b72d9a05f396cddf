use insta::assert_snapshot;

use super::*;
use crate::directory::sample::{TODAY, with};

fn found(tables: &str) -> Vec<Finding> {
    check(&with(tables).unwrap(), TODAY)
}

/// Findings as text, without those about tests where a case is about something else.
fn report(tables: &str) -> String {
    let about = found(tables)
        .into_iter()
        .filter(|f| !matches!(f.code, "no-tests" | "untested-rule"));
    about.map(|f| f.to_string()).collect::<Vec<_>>().join("\n")
}

fn codes(tables: &str) -> Vec<&'static str> {
    found(tables).iter().map(|f| f.code).collect()
}

fn rule(id: &str, rest: &str) -> String {
    format!("[[rule]]\nid = \"{id}\"\n{rest}\n")
}

/// Takes everything, so that a case has no gaps.
fn all() -> String {
    rule("all", "to = [\"health\", \"school\"]")
}

#[test]
fn a_rule_behind_a_wider_one_is_unreachable() {
    let tables = rule(
        "wide",
        "pathway = \"p\"\nage = { max = 17 }\nto = \"health\"",
    ) + &rule(
        "narrow",
        "pathway = \"p\"\nage = { min = 5, max = 17 }\nneed = \"ASD\"\nto = \"school\"",
    ) + &all();
    assert_snapshot!(report(&tables), @r#"
    rules.toml:6: error unreachable-rule: rule narrow can never fire: wide (rules.toml:1) takes everything that it would: move it up, narrow what stands before it, or remove it
    "#);
}

#[test]
fn a_rule_behind_several_that_together_are_wider_is_unreachable() {
    let tables = rule("young", "age = { max = 9 }\nto = \"health\"")
        + &rule("old", "age = { min = 10 }\nto = \"health\"")
        + &rule("late", "need = \"ASD\"\nto = \"school\"");
    assert_snapshot!(report(&tables), @r#"
    rules.toml:9: error unreachable-rule: rule late can never fire: young (rules.toml:1), old (rules.toml:5) together take everything that it would: move it up, narrow what stands before it, or remove it
    "#);
}

#[test]
fn a_rule_that_only_several_needs_or_days_reach_is_not_unreachable() {
    for (first, second) in [
        ("need = [\"ASD\", \"HI\"]", "need = [\"ASD\", \"VI\"]"),
        ("need = \"ASD\"", ""),
        ("valid_to = 2026-12-31", "valid_from = 2026-06-01"),
        ("valid_from = 2026-06-01", ""),
        (
            "consent = \"share_health\"",
            "consent = \"share_education\"",
        ),
        (
            "consent = [\"share_health\", \"share_education\"]",
            "consent = \"share_education\"",
        ),
        ("priority = [\"routine\", \"soon\", \"urgent\"]", ""),
        ("sender = [\"LA1\", \"H1\"]", ""),
        ("area = [\"SS1\"]", "area = [\"SS1\", \"SS2\"]"),
        ("setting = [\"primary\"]", ""),
        ("age = { max = 24 }", ""),
    ] {
        let tables = rule("first", &format!("{first}\nto = \"health\""))
            + &rule("second", &format!("{second}\nto = \"health\""));
        assert!(
            !codes(&tables).contains(&"unreachable-rule"),
            "{first} / {second}"
        );
    }
}

#[test]
fn a_rule_within_another_by_any_predicate_is_unreachable() {
    for (first, second) in [
        ("need = [\"ASD\", \"HI\"]", "need = \"ASD\""),
        (
            "valid_from = 2026-01-01",
            "valid_from = 2026-06-01\nvalid_to = 2026-07-01",
        ),
        (
            "consent = \"share_education\"",
            "consent = [\"share_health\", \"share_education\"]",
        ),
        (
            "priority = [\"routine\", \"soon\", \"urgent\", \"immediate\"]",
            "",
        ),
        ("sender = [\"LA1\", \"H1\"]", "sender = \"H1\""),
        ("area = [\"SS1\", \"SS2\"]", "area = \"SS1\""),
        (
            "setting = [\"primary\", \"special\"]",
            "setting = \"special\"",
        ),
        ("pathway = [\"p\", \"q\"]", ""),
    ] {
        let tables = rule("first", &format!("{first}\nto = \"health\""))
            + &rule("second", &format!("{second}\nto = \"health\""));
        assert!(
            codes(&tables).contains(&"unreachable-rule"),
            "{first} / {second}"
        );
    }
}

#[test]
fn rules_that_compete_are_named_with_an_example() {
    let tables = rule("autism", "pathway = \"p\"\nneed = \"ASD\"\nto = \"health\"")
        + &rule("hearing", "pathway = \"p\"\nneed = \"HI\"\nto = \"school\"")
        + &all();
    assert_snapshot!(report(&tables), @r#"
    rules.toml:6: warning overlapping-rules: rules autism (rules.toml:1) and hearing (rules.toml:6) both fit and send to different services, e.g. pathway p, age 0, need ASD and HI, priority routine, setting unknown, area elsewhere, sender anybody; autism decides because it comes first: make them exclude each other, or keep the order and add a test that shows it is meant
    "#);
}

#[test]
fn rules_that_agree_or_nest_or_exclude_each_other_do_not_compete() {
    for (first, second) in [
        (
            "need = \"ASD\"\nto = [\"health\", \"school\"]",
            "need = \"HI\"\nto = [\"school\", \"health\"]",
        ),
        (
            "age = { max = 4 }\nneed = \"ASD\"\nto = \"health\"",
            "age = { max = 4 }\nto = \"school\"",
        ),
        (
            "age = { max = 4 }\nto = \"health\"",
            "age = { min = 5 }\nto = \"school\"",
        ),
        (
            "valid_to = 2026-05-31\nneed = \"ASD\"\nto = \"health\"",
            "valid_from = 2026-06-01\nneed = \"HI\"\nto = \"school\"",
        ),
        (
            "pathway = \"p\"\nneed = \"ASD\"\nto = \"health\"",
            "pathway = \"q\"\nto = \"school\"",
        ),
    ] {
        let tables = rule("first", first) + &rule("second", second) + &all();
        assert!(
            !codes(&tables).contains(&"overlapping-rules"),
            "{first} / {second}"
        );
    }
}

#[test]
fn overlaps_are_listed_up_to_their_limit() {
    // Fifteen rules of one need each overlap in 105 pairs where destinations alternate.
    let needs = crate::referral::NeedType::ALL;
    let pair = |n: usize| {
        if n.is_multiple_of(2) {
            "\"health\""
        } else {
            "\"school\""
        }
    };
    let of = |areas: usize| -> String {
        needs
            .iter()
            .zip(0..)
            .flat_map(|(need, n)| {
                (0..areas).map(move |a| {
                    rule(
                        &format!("r{n}-{a}"),
                        &format!("need = \"{need}\"\narea = \"SS{a}\"\nto = {}", pair(n)),
                    )
                })
            })
            .collect::<String>()
            + &all()
    };
    let count = |tables: &str| {
        codes(tables)
            .iter()
            .filter(|c| **c == "overlapping-rules")
            .count()
    };
    assert_eq!(count(&of(2)), 7 * 7 * 2);
    assert_eq!(count(&of(3)), rules::OVERLAPS_MAX + 1);
}

#[test]
fn a_gap_is_shown_by_an_example() {
    let tables = rule(
        "young",
        "pathway = \"p\"\nage = { max = 17 }\nto = [\"health\", \"school\"]",
    ) + &rule(
        "urgent",
        "pathway = \"p\"\npriority = [\"urgent\", \"immediate\"]\nto = [\"health\", \"school\"]",
    ) + &rule(
        "q",
        "pathway = \"q\"\narea = [\"SS1\", \"SS2\"]\nto = [\"health\", \"school\"]",
    );
    assert_snapshot!(report(&tables), @r#"
    base.toml:45: warning coverage-gap: some referrals for pathway p fit no rule and go to triage, e.g. pathway p, age 18, need OTH, priority routine, setting unknown, area elsewhere, sender anybody: add a rule for them, or leave them to triage knowingly
    base.toml:45: warning coverage-gap: some referrals for pathway q fit no rule and go to triage, e.g. pathway q, age 0, need OTH, priority routine, setting unknown, area elsewhere, sender anybody: add a rule for them, or leave them to triage knowingly
    "#);
}

#[test]
fn a_gap_opens_on_the_day_that_a_rule_ends() {
    assert!(!codes(&rule("r", "valid_to = 2026-03-02\nto = \"health\"")).contains(&"coverage-gap"));
    assert!(codes(&rule("r", "valid_to = 2026-03-01\nto = \"health\"")).contains(&"coverage-gap"));
}

#[test]
fn what_is_wrong_between_services_and_rules_is_named() {
    let tables = rule("typo", "pathway = \"pp\"\nto = \"health\"")
        + &rule("wrong", "pathway = \"p\"\nto = \"other\"")
        + &rule("later", "pathway = \"q\"\nto = \"ended\"")
        + r#"
[[service]]
id = "other"
name = "Other"
agency = "H1"
pathways = ["q"]
endpoint = "la-box"
owner_role = "Lead"
[[service]]
id = "ended"
name = "Ended"
agency = "H1"
pathways = ["q"]
endpoint = "h-box"
owner_role = "Lead"
valid_to = 2026-03-01
"#;
    assert_snapshot!(report(&tables), @r#"
    rules.toml:1: error pathway-not-offered: rule typo is for pathway pp, which no service takes: correct the pathway or add it to a service
    rules.toml:5: error service-does-not-take: rule wrong sends pathway p to other, which does not take it: correct `to`, or add the pathway to the service
    rules.toml:14: error endpoint-of-another-agency: service other is of H1, its endpoint la-box is of LA1: name an endpoint of the same agency: the recipient is bound by both
    base.toml:26: warning pathway-not-routed: service school takes pathway p, but no rule sends it there: add a rule, or take the pathway from the service
    base.toml:26: warning pathway-not-routed: service school takes pathway q, but no rule sends it there: add a rule, or take the pathway from the service
    base.toml:45: warning pathway-not-routed: service health takes pathway p, but no rule sends it there: add a rule, or take the pathway from the service
    base.toml:45: warning pathway-not-routed: service health takes pathway q, but no rule sends it there: add a rule, or take the pathway from the service
    rules.toml:9: warning destination-not-valid: rule later sends to ended, which does not hold on 2026-03-02: until it does, these referrals go to triage: end the rule or correct the service's days
    rules.toml:14: warning pathway-not-routed: service other takes pathway q, but no rule sends it there: add a rule, or take the pathway from the service
    rules.toml:21: warning expired: service ended ended on 2026-03-01: remove it once nothing refers to it
    "#);
}

#[test]
fn two_agencies_never_have_one_folder_or_one_within_the_others() {
    let folder = |id: &str, agency: &str, directory: &str, more: &str| {
        format!(
            "[[endpoint]]\nid = \"{id}\"\nagency = \"{agency}\"\nadapter = \"file\"\n\
             settings = {{ directory = \"{directory}\"{more} }}\n"
        )
    };
    let clash = |one: &str, two: &str, more: &str| {
        let tables = all() + &folder("one", "LA1", one, more) + &folder("two", "H1", two, more);
        codes(&tables)
            .iter()
            .filter(|c| **c == "shared-folder")
            .count()
    };
    assert_eq!(clash("agencies/a", "agencies/a", ""), 2);
    assert_eq!(clash("agencies", "agencies/a", ""), 1);
    assert_eq!(clash("agencies/a", "agencies/ab", ""), 0);
    assert_eq!(clash("in", "in", ", host = \"sftp.example\""), 0);
    let own = all() + &folder("one", "H1", "a", "") + &folder("two", "H1", "a/b", "");
    assert!(
        !codes(&own).contains(&"shared-folder"),
        "one agency may have several"
    );
}

#[test]
fn a_mesh_mailbox_is_bound_and_its_messages_are_taken_in() {
    let endpoint = "[[endpoint]]\nid = \"mesh\"\nagency = \"H1\"\nadapter = \"mesh\"\nsettings = { to = \"X26ABC2\" }\n";
    let identity = "[[identity]]\nname = \"mesh:X26ABC2\"\nagency = \"H1\"\n";
    let found = |more: &str| {
        let all = codes(&(all() + more));
        ["mailbox-of-nobody", "mailbox-not-collected"].map(|code| all.contains(&code))
    };
    assert_eq!(found(&format!("{endpoint}{identity}")), [false, false]);
    assert_eq!(found(endpoint), [true, false]);
    assert_eq!(found(identity), [false, true]);
}

#[test]
fn what_is_wrong_between_agencies_and_endpoints_is_named() {
    let tables = all()
        + r#"
[[agency]]
id = "MUTE"
name = "Nothing speaks for it"
sector = "voluntary"
return_endpoint = "la-box"
valid_to = 2026-08-31
[[endpoint]]
id = "old"
agency = "MUTE"
adapter = "mailbox"
settings = { url = "https://example.org" }
valid_to = 2026-03-01
[[endpoint]]
id = "loose"
agency = "H1"
adapter = "grpc"
[[service]]
id = "on-old"
name = "On an endpoint that ended"
agency = "MUTE"
pathways = []
endpoint = "old"
owner_role = "Lead"
[[succession]]
from = "MUTE"
to = "H1"
on = 2026-09-01
[[succession]]
from = "H1"
to = "MUTE"
on = 2026-09-01
"#;
    assert_snapshot!(report(&tables), @r#"
    rules.toml:5: error endpoint-of-another-agency: agency MUTE is told at endpoint la-box, which is of LA1: name an endpoint of its own
    rules.toml:21: error not-valid: service on-old holds on 2026-03-02, its endpoint old does not: correct the days of one of them
    rules.toml:28: error succession-circle: the successions of agency MUTE lead round in a circle: remove one of them
    rules.toml:32: error succession-circle: the successions of agency H1 lead round in a circle: remove one of them
    rules.toml:5: warning agency-without-identity: nothing can speak for agency MUTE on 2026-03-02: add an [[identity]] for the channel that it uses
    rules.toml:11: warning expired: endpoint old ended on 2026-03-01: remove it once nothing refers to it
    rules.toml:11: warning unused-settings: mailbox old has settings, which a mailbox does not read: remove them
    rules.toml:17: warning unused-endpoint: nothing is sent to endpoint loose: name it in a service or as a return_endpoint, or remove it
    rules.toml:21: warning ends-early: agency MUTE ends on 2026-08-31, before service on-old does: end the service on the same day, or name what takes over
    rules.toml:21: warning no-pathways: service on-old takes no pathway: add pathways, or remove it
    "#);
}

#[test]
fn a_triage_service_that_ended_is_an_error() {
    let mut directory = with(&all()).unwrap();
    directory
        .endpoints
        .get_mut(&"la-box".parse().unwrap())
        .unwrap()
        .validity
        .valid_to = TODAY.yesterday().ok();
    assert!(
        check(&directory, TODAY)
            .iter()
            .any(|f| f.code == "triage-not-valid" && f.severity == Severity::Error)
    );
    directory
        .endpoints
        .get_mut(&"la-box".parse().unwrap())
        .unwrap()
        .validity
        .valid_to = Some(TODAY);
    assert!(
        !check(&directory, TODAY)
            .iter()
            .any(|f| f.code == "triage-not-valid")
    );
}

#[test]
fn failing_and_missing_tests_are_named() {
    let test = |name: &str, given: &str, expect: &str| {
        format!("[[test]]\nname = \"{name}\"\ngiven = {{ {given} }}\nexpect = {expect}\n")
    };
    let rules = rule("young", "age = { max = 17 }\nto = \"health\"")
        + &rule("old", "age = { min = 18 }\nto = [\"health\", \"school\"]");
    let tables = rules.clone()
        + &test("right", "pathway = \"p\", age = 3", "\"health\"")
        + &test("wrong service", "pathway = \"p\", age = 3", "[\"school\"]")
        + &test("no triage", "pathway = \"p\", age = 30", "[\"school\"]")
        + &test(
            "no consent",
            "pathway = \"p\", age = 20, consent = [\"share_health\"]",
            "[\"health\", \"school\"]",
        )
        + &test("refused", "pathway = \"x\", age = 3", "[]");
    let lines: Vec<String> = found(&tables).iter().map(ToString::to_string).collect();
    assert_snapshot!(lines.join("\n"), @r#"
    rules.toml:13: error failing-test: test "wrong service" fails: expected school, got health by rule young: correct the rules or the test
    rules.toml:17: error failing-test: test "no triage" fails: expected school, got triage alone by age_out_of_range: correct the rules or the test
    rules.toml:21: error failing-test: test "no consent" fails: expected health, school, got health by rule old and consent_not_covering: correct the rules or the test
    rules.toml:25: error failing-test: test "refused" fails: it is refused: pathway: is not taken by any service of this area: use one of p, q: correct the rules or the test
    rules.toml:5: warning untested-rule: no passing test shows rule old at work: add a [[test]] in which it fires
    "#);
    assert_eq!(codes(&rules), ["no-tests"]);
}

#[test]
fn a_test_is_run_on_its_own_day() {
    let tables = rule("r", "valid_from = 2026-09-01\nto = \"health\"")
        + "[[test]]\nname = \"in september\"\non = 2026-09-01\ngiven = { pathway = \"p\", age = 3 }\nexpect = \"health\"\n"
        + "[[test]]\nname = \"today\"\ngiven = { pathway = \"p\", age = 3 }\nexpect = []\n";
    assert!(!codes(&tables).contains(&"failing-test"));
}

#[test]
fn a_search_beyond_its_limit_proves_nothing() {
    // Every age, priority and day tells some rule apart, and the last rule takes everything.
    let answer = |days: i64| {
        let tables: String = (0..days)
            .map(|n| {
                let day = TODAY.saturating_add(jiff::Span::new().days(n));
                let priority = crate::referral::Priority::ALL[usize::try_from(n % 4).unwrap()];
                let when = format!(
                    "age_max = {}\npriority = \"{priority}\"\nvalid_from = {day}\nvalid_to = {day}",
                    n % 25
                );
                rule(&format!("r{n}"), &format!("{when}\nto = \"health\""))
            })
            .collect();
        let directory = with(&(tables + &all())).unwrap();
        let rules: Vec<_> = directory.rules.iter().collect();
        let pathways = std::collections::BTreeSet::from(["p".parse().unwrap()]);
        cover::uncovered(&cover::Region::of(rules.last().unwrap()), &rules, &pathways)
    };
    assert!(matches!(answer(200), cover::Answer::Covered));
    assert!(matches!(
        answer(i64::try_from(cover::STEPS_MAX / 100).unwrap()),
        cover::Answer::Unproven
    ));
}
