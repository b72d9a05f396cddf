use insta::assert_snapshot;
use proptest::prelude::*;

use super::*;
use crate::directory::Validity;
use crate::directory::sample::{TODAY, directory, with};

fn facts(pathway: &str, age: i16) -> Facts {
    Facts {
        pathway: pathway.parse().unwrap(),
        needs: BTreeSet::new(),
        age,
        area: None,
        setting: None,
        priority: Priority::Routine,
        consent_status: ConsentStatus::Given,
        consent: ConsentScope::ALL.iter().copied().collect(),
        lawful_basis: LawfulBasis::PublicTaskCare,
        sender: "EE123456".parse().unwrap(),
        requested_service: None,
    }
}

fn services(decision: &Decision) -> Vec<&str> {
    decision
        .destinations
        .iter()
        .map(|d| d.service.as_str())
        .collect()
}

#[test]
fn every_service_of_the_rule_gets_the_referral() {
    let advice = facts("ehc-advice", 7);
    let decision = decide(&directory(), &advice, TODAY).unwrap();
    assert_eq!(
        services(&decision),
        ["health-advice", "education-advice", "social-care-advice"]
    );
    assert_eq!(decision.triage, None);
    let agencies: Vec<&str> = decision
        .destinations
        .iter()
        .map(|d| d.agency.as_str())
        .collect();
    assert_eq!(agencies, ["R1L", "LA882", "SC882"]);
}

#[test]
fn ages_0_and_25_are_decided_by_rules_and_those_outside_by_triage() {
    for (age, triage) in [
        (-1, Some(TriageReason::AgeOutOfRange)),
        (0, None),
        (25, None),
        (26, Some(TriageReason::AgeOutOfRange)),
    ] {
        let decision = decide(&directory(), &facts("autism-assessment", age), TODAY).unwrap();
        assert_eq!(decision.triage, triage, "age {age}");
        assert_eq!(
            services(&decision) == ["send-triage"],
            triage.is_some(),
            "age {age}"
        );
    }
}

#[test]
fn no_rule_means_triage_with_its_owner() {
    let decision = decide(&with("").unwrap(), &facts("p", 5), TODAY).unwrap();
    assert_eq!(decision.triage, Some(TriageReason::NoRule));
    assert_eq!(decision.rule, None);
    let [only] = decision.destinations.as_slice() else {
        panic!("one destination")
    };
    assert_eq!(
        (only.service.as_str(), only.owner.role.as_str()),
        ("triage", "Coordinator")
    );
    assert_eq!(only.rule, None);
}

#[test]
fn a_service_asked_for_by_name_does_not_steer() {
    let directory = with("[[rule]]\nid = \"r\"\nage = { max = 5 }\nto = [\"health\"]").unwrap();
    let mut asked = facts("p", 5);
    asked.requested_service = Some("school".parse().unwrap());
    assert_eq!(
        services(&decide(&directory, &asked, TODAY).unwrap()),
        ["health"]
    );
    asked.age = 6;
    assert_eq!(
        services(&decide(&directory, &asked, TODAY).unwrap()),
        ["triage"]
    );
}

#[test]
fn unknown_words_are_refused_with_the_known_ones() {
    let sample = directory();
    let refused = decide(&sample, &facts("dentistry", 5), TODAY).unwrap_err();
    assert_snapshot!(refused.violation(), @"pathway: is not taken by any service of this area: use one of adhd-assessment, autism-assessment, ehc-advice, hearing-assessment, mental-health, occupational-therapy, portage, specialist-teaching, speech-language");
    let mut asked = facts("ehc-advice", 5);
    asked.requested_service = Some("dentist".parse().unwrap());
    let refused = decide(&sample, &asked, TODAY).unwrap_err();
    assert_eq!(refused.violation().field, "requested_service");
}

#[test]
fn a_refusal_lists_at_most_its_limit() {
    let many: Vec<String> = (0..=LISTED_MAX).map(|n| format!("\"x{n}\"")).collect();
    let more = format!(
        "[[service]]\nid = \"more\"\nname = \"More\"\nagency = \"LA1\"\npathways = [{}]\nendpoint = \"la-box\"\nowner_role = \"Lead\"",
        many.join(",")
    );
    match decide(&with(&more).unwrap(), &facts("dentistry", 5), TODAY) {
        Err(Unroutable::UnknownPathway { known }) => assert_eq!(known.len(), LISTED_MAX),
        other => panic!("{other:?}"),
    }
}

#[test]
fn consent_decides_which_sectors_get_it_and_triage_gets_the_rest() {
    let sample = directory();
    let mut advice = facts("ehc-advice", 7);
    advice.consent.remove(&ConsentScope::ShareSocialCare);
    let decision = decide(&sample, &advice, TODAY).unwrap();
    assert_eq!(
        services(&decision),
        ["health-advice", "education-advice", "send-triage"]
    );
    assert_eq!(decision.triage, Some(TriageReason::ConsentNotCovering));
    assert_eq!(
        decision.withheld,
        [Withheld {
            service: "social-care-advice".parse().unwrap(),
            why: TriageReason::ConsentNotCovering
        }]
    );
    for basis in [
        LawfulBasis::Safeguarding,
        LawfulBasis::LegalObligation,
        LawfulBasis::VitalInterests,
    ] {
        advice.lawful_basis = basis;
        assert_eq!(
            decide(&sample, &advice, TODAY).unwrap().triage,
            None,
            "{basis}"
        );
    }
}

#[test]
fn withdrawn_consent_covers_nothing() {
    let mut advice = facts("autism-assessment", 7);
    for status in [
        ConsentStatus::Withheld,
        ConsentStatus::Withdrawn,
        ConsentStatus::NotSought,
    ] {
        advice.consent_status = status;
        assert_eq!(
            services(&decide(&directory(), &advice, TODAY).unwrap()),
            ["send-triage"],
            "{status}"
        );
    }
}

#[test]
fn consent_to_the_referral_alone_does_not_cover_health() {
    let mut asked = facts("autism-assessment", 7);
    asked.consent = BTreeSet::from([ConsentScope::Referral]);
    assert_eq!(
        decide(&directory(), &asked, TODAY).unwrap().triage,
        Some(TriageReason::ConsentNotCovering)
    );
}

#[test]
fn a_service_that_has_ended_is_replaced_by_a_person() {
    let rule = "[[rule]]\nid = \"r\"\nto = [\"health\", \"school\"]";
    let ended = Validity {
        valid_to: TODAY.yesterday().ok(),
        ..Validity::default()
    };
    for table in ["service", "endpoint", "agency"] {
        let mut directory = with(rule).unwrap();
        let validity = match table {
            "service" => directory
                .services
                .get_mut(&"health".parse().unwrap())
                .map(|s| &mut s.validity),
            "endpoint" => directory
                .endpoints
                .get_mut(&"h-box".parse().unwrap())
                .map(|e| &mut e.validity),
            _ => directory
                .agencies
                .get_mut(&"H1".parse().unwrap())
                .map(|a| &mut a.validity),
        };
        *validity.unwrap() = ended;
        let decision = decide(&directory, &facts("p", 5), TODAY).unwrap();
        assert_eq!(services(&decision), ["school", "triage"], "{table}");
        assert_eq!(
            decision.triage,
            Some(TriageReason::NoDestination),
            "{table}"
        );
    }
}

#[test]
fn triage_named_by_a_rule_gets_it_once() {
    let directory = with("[[rule]]\nid = \"r\"\nto = [\"triage\", \"health\"]").unwrap();
    let mut asked = facts("p", 5);
    asked.consent.remove(&ConsentScope::ShareHealth);
    let decision = decide(&directory, &asked, TODAY).unwrap();
    assert_eq!(services(&decision), ["triage"]);
    assert_eq!(decision.triage, Some(TriageReason::ConsentNotCovering));
}

#[test]
fn each_predicate_can_keep_a_rule_from_firing() {
    let mut asked = facts("p", 5);
    asked.needs = BTreeSet::from([NeedType::Autism]);
    asked.area = Some("ss1".to_owned());
    asked.setting = Some(SettingKind::Primary);
    asked.sender = "H1".parse().unwrap();
    asked.consent.remove(&ConsentScope::FamilyMessages);
    for (predicate, fits, not) in [
        ("pathway", "pathway = \"p\"", "pathway = \"q\""),
        ("need", "need = [\"ASD\", \"HI\"]", "need = \"HI\""),
        ("age", "age = { min = 5, max = 5 }", "age_min = 6"),
        ("age", "age_max = 5", "age_max = 4"),
        ("area", "area = \"SS1\"", "area = [\"SS2\"]"),
        ("setting", "setting = \"primary\"", "setting = \"special\""),
        (
            "priority",
            "priority = [\"routine\"]",
            "priority = [\"urgent\"]",
        ),
        (
            "consent",
            "consent = [\"share_health\"]",
            "consent = [\"share_health\", \"family_messages\"]",
        ),
        ("sender", "sender = \"H1\"", "sender = \"LA1\""),
        ("validity", "valid_to = 2026-03-02", "valid_to = 2026-03-01"),
        (
            "validity",
            "valid_from = 2026-03-02",
            "valid_from = 2026-03-03",
        ),
    ] {
        let rule =
            |given: &str| with(&format!("[[rule]]\nid = \"r\"\nto = \"health\"\n{given}")).unwrap();
        assert_eq!(
            decide(&rule(fits), &asked, TODAY).unwrap().triage,
            None,
            "{fits}"
        );
        let explained = explain(&rule(not), &asked, TODAY);
        assert_eq!(
            explained.decision.unwrap().triage,
            Some(TriageReason::NoRule),
            "{not}"
        );
        let missed: Vec<&str> = explained.rules[0]
            .mismatches
            .iter()
            .map(|m| m.predicate)
            .collect();
        assert_eq!(missed, [predicate], "{not}");
    }
}

#[test]
fn facts_carry_no_name_or_number() {
    let text = serde_json::to_value(facts("p", 5)).unwrap();
    let fields: Vec<&String> = text.as_object().unwrap().keys().collect();
    assert_eq!(
        fields,
        [
            "age",
            "area",
            "consent",
            "consent_status",
            "lawful_basis",
            "needs",
            "pathway",
            "priority",
            "requested_service",
            "sender",
            "setting"
        ]
    );
    assert!(
        serde_json::from_str::<Facts>(r#"{"pathway":"p","age":1,"sender":"x","name":"Ada"}"#)
            .is_err()
    );
}

#[test]
fn explanation_says_why_each_rule_did_not_fire() {
    let mut asked = facts("adhd-assessment", 12);
    asked.priority = Priority::Urgent;
    asked.consent.remove(&ConsentScope::ShareHealth);
    assert_snapshot!(explain(&directory(), &asked, TODAY), @r#"
    on 2026-03-02
    to send-triage of LA882 through send-mailbox, by rule adhd-6-to-17-urgent
    not to community-paediatrics: consent does not cover sharing with this sector
    rules, in the order in which they are tried:
      1. autism-under-5 (rules.toml:5): pathway is adhd-assessment, the rule asks for autism-assessment; age is 12, the rule asks for 0 to 4
      2. autism-5-to-17 (rules.toml:11): pathway is adhd-assessment, the rule asks for autism-assessment
      3. autism-18-to-25 (rules.toml:17): pathway is adhd-assessment, the rule asks for autism-assessment; age is 12, the rule asks for 18 to 25
      4. adhd-under-6 (rules.toml:23): age is 12, the rule asks for 0 to 5
      5. adhd-6-to-17-urgent (rules.toml:29): fired
      6. adhd-6-to-17 (rules.toml:36): priority is urgent, the rule asks for one of routine, soon
      7. adhd-18-to-25 (rules.toml:43): age is 12, the rule asks for 18 to 25
      8. speech-language-in-area (rules.toml:49): pathway is adhd-assessment, the rule asks for speech-language; area is unknown, the rule asks for one of SS0, SS1, SS2, SS3, SS9
      9. speech-language-elsewhere (rules.toml:55): pathway is adhd-assessment, the rule asks for speech-language
      10. specialist-teaching-sensory (rules.toml:60): pathway is adhd-assessment, the rule asks for specialist-teaching; need is none, the rule asks for one of HI, VI, MSI
      11. specialist-teaching-schools (rules.toml:66): pathway is adhd-assessment, the rule asks for specialist-teaching; setting is unknown, the rule asks for one of early_years, primary, secondary, special
      12. specialist-teaching-elsewhere (rules.toml:72): pathway is adhd-assessment, the rule asks for specialist-teaching
      13. ehc-advice (rules.toml:77): pathway is adhd-assessment, the rule asks for ehc-advice
      14. mental-health (rules.toml:82): pathway is adhd-assessment, the rule asks for mental-health
      15. occupational-therapy (rules.toml:87): pathway is adhd-assessment, the rule asks for occupational-therapy
      16. hearing-assessment (rules.toml:92): pathway is adhd-assessment, the rule asks for hearing-assessment
      17. portage-under-5 (rules.toml:97): pathway is adhd-assessment, the rule asks for portage; age is 12, the rule asks for 0 to 4
      18. portage-from-5 (rules.toml:103): pathway is adhd-assessment, the rule asks for portage
    "#);
}

/// Values few enough that rules and referrals meet.
fn some_facts() -> impl Strategy<Value = Facts> {
    let pick = |list: &'static [&'static str]| proptest::sample::select(list);
    let needs =
        proptest::collection::btree_set(proptest::sample::select(&NeedType::ALL[..3]), 0..3);
    let scopes = proptest::collection::btree_set(proptest::sample::select(ConsentScope::ALL), 0..5);
    (
        (
            pick(&["p", "q"]),
            needs,
            -1i16..28,
            proptest::option::of(pick(&["SS1", "SS2", "CM1"])),
        ),
        proptest::option::of(proptest::sample::select(&SettingKind::ALL[..3])),
        proptest::sample::select(Priority::ALL),
        (
            proptest::sample::select(ConsentStatus::ALL),
            scopes,
            proptest::sample::select(LawfulBasis::ALL),
        ),
        pick(&["LA1", "H1", "anybody"]),
    )
        .prop_map(
            |(
                (pathway, needs, age, area),
                setting,
                priority,
                (consent_status, consent, lawful_basis),
                sender,
            )| {
                Facts {
                    pathway: pathway.parse().unwrap(),
                    needs,
                    age,
                    area: area.map(ToOwned::to_owned),
                    setting,
                    priority,
                    consent_status,
                    consent,
                    lawful_basis,
                    sender: sender.parse().unwrap(),
                    requested_service: None,
                }
            },
        )
}

/// A rule as it is written, with a few predicates of few values.
fn some_rule() -> impl Strategy<Value = String> {
    let maybe = |lines: &'static [&'static str]| {
        proptest::option::weighted(0.35, proptest::sample::select(lines))
            .prop_map(Option::unwrap_or_default)
    };
    (
        maybe(&[
            "pathway = \"p\"",
            "pathway = \"q\"",
            "pathway = [\"p\", \"q\"]",
        ]),
        maybe(&[
            "need = \"ASD\"",
            "need = [\"ASD\", \"SLCN\"]",
            "need = \"SPLD\"",
        ]),
        maybe(&[
            "age_max = 4",
            "age_min = 5",
            "age = { min = 5, max = 17 }",
            "age = { min = 4, max = 6 }",
        ]),
        maybe(&["area = \"SS1\"", "area = [\"SS1\", \"SS2\"]"]),
        maybe(&[
            "setting = \"primary\"",
            "setting = [\"early_years\", \"primary\"]",
        ]),
        maybe(&[
            "priority = \"urgent\"",
            "priority = [\"routine\", \"soon\"]",
            "priority = [\"urgent\", \"immediate\"]",
        ]),
        maybe(&[
            "consent = \"share_health\"",
            "consent = [\"share_health\", \"share_education\"]",
        ]),
        maybe(&["sender = \"LA1\"", "sender = [\"LA1\", \"H1\"]"]),
        (
            maybe(&[
                "valid_from = 2026-03-02",
                "valid_from = 2026-03-03",
                "valid_to = 2026-03-02",
                "valid_to = 2026-03-01",
            ]),
            proptest::sample::select(
                &[
                    "to = \"health\"",
                    "to = \"school\"",
                    "to = [\"school\", \"health\"]",
                ][..],
            ),
        ),
    )
        .prop_map(|(a, b, c, d, e, f, g, h, (i, to))| [a, b, c, d, e, f, g, h, i, to].join("\n"))
}

fn some_rules() -> impl Strategy<Value = Directory> {
    proptest::collection::vec(some_rule(), 0..7).prop_map(|rules| {
        let tables = rules
            .iter()
            .zip(1..)
            .map(|(rule, n)| format!("[[rule]]\nid = \"r{n}\"\n{rule}\n"));
        with(&tables.collect::<String>()).unwrap()
    })
}

proptest! {
    #[test]
    fn decide_is_total_and_explain_agrees(directory in some_rules(), facts in some_facts()) {
        let decision = decide(&directory, &facts, TODAY).unwrap();
        prop_assert!(!decision.destinations.is_empty());
        let unique: BTreeSet<_> = decision.destinations.iter().map(|d| &d.service).collect();
        prop_assert_eq!(unique.len(), decision.destinations.len());
        prop_assert!(decision.rule.is_some() || decision.triage.is_some());
        // Nobody gets what consent does not cover; triage is asked instead.
        for d in decision.destinations.iter().filter(|d| d.rule.is_some()) {
            prop_assert!(facts.may_share(directory.agencies[&d.agency].sector.consent_scope()));
        }
        let explained = explain(&directory, &facts, TODAY);
        let fits: Vec<_> = explained.rules.iter().filter(|r| r.mismatches.is_empty()).collect();
        prop_assert_eq!(fits.first().map(|r| &r.rule), decision.rule.as_ref());
        for (report, number) in fits.iter().zip(0..) {
            prop_assert_eq!(report.verdict, if number == 0 { Verdict::Fired } else { Verdict::Passed });
        }
        prop_assert_eq!(explained.decision, Some(decision));
    }

    #[test]
    fn findings_about_rules_are_true(directory in some_rules(), facts in proptest::collection::vec(some_facts(), 64)) {
        let findings = crate::directory::check(&directory, TODAY);
        let gap = |p: &Pathway| findings.iter().any(|f| f.code == "coverage-gap" && f.message.contains(&format!("pathway {p} ")));
        for facts in &facts {
            for day in [TODAY.yesterday().unwrap(), TODAY, TODAY.tomorrow().unwrap()] {
                let decision = decide(&directory, facts, day).unwrap();
                if let Some(rule) = &decision.rule {
                    let dead = findings.iter().any(|f| f.code == "unreachable-rule" && f.place == directory.place("rule", rule.as_str()));
                    prop_assert!(!dead, "{rule} fired for {facts:?}");
                }
                let all_consent = facts.consent.len() == ConsentScope::ALL.len() && facts.consent_status == ConsentStatus::Given;
                if day == TODAY && all_consent && decision.triage == Some(TriageReason::NoRule) {
                    prop_assert!(gap(&facts.pathway), "{facts:?} fits no rule");
                }
            }
        }
    }
}
