use std::time::Duration;

use insta::assert_snapshot;

use super::*;
use crate::delivery::Evidence;
use crate::directory::sample::{TODAY, directory, file, files, with};
use crate::directory::{AdapterKind, Environment};
use crate::referral::NeedType;

fn report(tables: &str) -> String {
    let findings = with(tables).expect_err("is refused");
    findings
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn the_sample_directory_loads_and_has_no_findings() {
    let sample = directory();
    assert_eq!(crate::directory::check(&sample, TODAY), []);
    assert_eq!(
        (
            sample.agencies.len(),
            sample.services.len(),
            sample.rules.len()
        ),
        (10, 12, 18)
    );
    assert_eq!(sample.area.environment, Environment::Test);
}

#[test]
fn an_endpoint_says_only_what_differs_from_the_defaults() {
    let sample = directory();
    let plain = &sample.endpoints[&"send-mailbox".parse().unwrap()];
    assert_eq!(plain.adapter, AdapterKind::Mailbox);
    assert_eq!(plain.releases_at, Evidence::ApplicationAck);
    assert_eq!(plain.deadline, Duration::from_hours(72));
    assert_eq!(plain.evidence_within, Duration::from_hours(24));
    assert_eq!(plain.attempt_timeout, Duration::from_secs(30));
    assert_eq!(plain.concurrency, 4);
    let table = "[[endpoint]]\nid = \"e\"\nagency = \"H1\"\nadapter = \"webhook\"\nreleases_at = \"sent\"\ndeadline = \"5m\"\nretry = { first = \"2s\", cap = \"1m\", panics_max = 1 }";
    let given = with(table).unwrap().endpoints[&"e".parse().unwrap()].clone();
    assert_eq!(
        (given.releases_at, given.deadline),
        (Evidence::Sent, Duration::from_mins(5))
    );
    assert_eq!(
        (
            given.retry.first_ms,
            given.retry.cap_ms,
            given.retry.panics_max
        ),
        (2_000, 60_000, 1)
    );
}

#[test]
fn every_fault_is_reported_with_its_file_and_line() {
    assert_snapshot!(report(r#"
[[agency]]
id = "LA1"
name = "Council again"
sector = "education"
[[service]]
id = "x"
name = "X"
agency = "NOBODY"
pathways = "p"
endpoint = "nowhere"
owner_role = ""
[[rule]]
id = "r"
need = ["ASD", "NOPE"]
to = ["health"]
[[rule]]
id = "s"
age = { min = 9, max = 5 }
valid_from = 2026-09-01
valid_to = "2026-08-31"
sender = "STRANGER"
to = ["health",
  "missing"]
[[rule]]
id = "t"
colour = "red"
to = "health"
[[rule]]
id = "u"
to = []
[[service]]
id = "y"
[[agencies]]
id = "Z"
[rule.more]
"#), @r#"
    rules.toml:2: error duplicate: agency LA1 is declared a second time, first at base.toml:8: remove or rename one of them
    rules.toml:9: error unresolved: agency names agency NOBODY, which is not in the directory: declare it in a [[agency]] table or name another
    rules.toml:11: error unresolved: endpoint names endpoint nowhere, which is not in the directory: declare it in a [[endpoint]] table or name another
    rules.toml:12: error no-owner: owner_role is empty, so nobody would own its open work: name the role that answers for it, e.g. "Intake coordinator"
    rules.toml:15: error invalid-table: [[rule]]: unknown variant `NOPE`, expected one of `ASD`, `SLCN`, `SPLD`, `MLD`, `SLD`, `PMLD`, `SEMH`, `HI`, `VI`, `MSI`, `PD`, `OTH`, `NSA`, `DS`: correct or remove it
    rules.toml:17: error age-range: rule s: ages 9 to 5 are not a part of 0 to 25, or are given twice: write age = { min = 5, max = 18 } with min up to max
    rules.toml:17: error never-valid: valid_from is after valid_to, so it never holds: correct one of the days
    rules.toml:22: error unresolved: sender names agency STRANGER, which is not in the directory: declare it in a [[agency]] table or name another
    rules.toml:24: error unresolved: to names service missing, which is not in the directory: declare it in a [[service]] table or name another
    rules.toml:27: error invalid-table: [[rule]]: unknown field `colour`, expected one of `id`, `order`, `pathway`, `need`, `age`, `age_min`, `age_max`, `area`, `setting`, `priority`, `consent`, `sender`, `to`, `valid_from`, `valid_to`: correct or remove it
    rules.toml:32: error invalid-table: [[service]]: missing field `name`: correct or remove it
    rules.toml:34: error unknown-table: `agencies` is not a table of a directory: use one of area, agency, identity, service, endpoint, rule, test, succession, code_map, code_test, template
    rules.toml:36: error invalid-table: [[rule]]: unknown field `more`, expected one of `id`, `order`, `pathway`, `need`, `age`, `age_min`, `age_max`, `area`, `setting`, `priority`, `consent`, `sender`, `to`, `valid_from`, `valid_to`: correct or remove it
    "#);
}

#[test]
fn tables_and_keys_that_are_not_known_are_refused() {
    assert_snapshot!(report("version = 1\n[agency]\nid = \"x\"\n[[agencies]]\nid = \"y\"\n[[area]]\nid = \"z\""), @r#"
    rules.toml:1: error unknown-key: `version` stands outside any table: put it into a table such as [area] or [[service]]
    rules.toml:2: error wrong-brackets: `agency` is not written so: write [[agency]]
    rules.toml:4: error unknown-table: `agencies` is not a table of a directory: use one of area, agency, identity, service, endpoint, rule, test, succession, code_map, code_test, template
    rules.toml:6: error wrong-brackets: `area` is not written so: write [area], once
    "#);
}

#[test]
fn what_is_not_toml_is_named_by_line() {
    assert_snapshot!(report("\n[[rule]\nid = \"r\"\n"), @r#"
    rules.toml:2: error syntax: unclosed array table, expected `]`: write it as TOML
    "#);
}

#[test]
fn a_table_that_does_not_parse_is_reported_once_and_not_where_it_is_named() {
    let text = report("[[service]]\nid = \"broken\"\n[[rule]]\nid = \"r\"\nto = [\"broken\"]");
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(
        text.starts_with("rules.toml:1: error invalid-table:"),
        "{text}"
    );
}

#[test]
fn an_area_is_needed_once() {
    let none = Directory::load(&[]).unwrap_err();
    assert_eq!(none.iter().map(|f| f.code).collect::<Vec<_>>(), ["no-area"]);
    let twice =
        report("[area]\nid = \"two\"\nname = \"Two\"\nenvironment = \"live\"\ntriage = \"triage\"");
    assert_eq!(
        twice,
        "rules.toml:1: error duplicate: a second [area], first at base.toml:2: remove one of them"
    );
}

#[test]
fn literal_secrets_are_refused_and_never_shown() {
    let endpoint = |settings: &str| {
        format!(
            "[[endpoint]]\nid = \"e\"\nagency = \"H1\"\nadapter = \"webhook\"\n[endpoint.settings]\n{settings}"
        )
    };
    for literal in [
        "signing_secret = \"hunter2\"",
        "password = \"hunter2\"",
        "api_key = \"hunter2\"",
        "token = 12345678",
        "Signing_Secret = \"hunter2\"",
        "previous = { secret = \"hunter2\" }",
        "secrets = [{ key = \"hunter2\" }]",
        "url = \"https://hunter2:hunter2@h/\"",
        "signing_secret = \"secret:\"",
        "signing_secret = \"secret:a/b\"",
        "signing_secret_name = \"a b\"",
    ] {
        let text = report(&endpoint(literal));
        assert!(
            text.contains("rules.toml:5: error literal-secret"),
            "{literal}: {text}"
        );
        assert!(
            !text.contains("hunter2") && !text.contains("12345678"),
            "{text}"
        );
    }
    let named =
        "signing_secret = \"secret:one\"\nold_secret_name = \"two\"\nurl = \"https://h/?a=b@c\"";
    let secrets = secret_names(&with(&endpoint(named)).unwrap());
    assert_eq!(secrets.keys().collect::<Vec<_>>(), ["one", "two"]);
    assert_eq!(secrets["one"].to_string(), "rules.toml:1");
}

#[test]
fn a_secret_name_holds_its_length_limit() {
    let endpoint = |length: usize| {
        let name = "a".repeat(length);
        with(&format!(
            "[[endpoint]]\nid = \"e\"\nagency = \"H1\"\nadapter = \"webhook\"\nsettings = {{ secret = \"secret:{name}\" }}"
        ))
    };
    assert!(endpoint(SECRET_NAME_LENGTH_MAX).is_ok());
    assert!(endpoint(SECRET_NAME_LENGTH_MAX + 1).is_err());
}

#[test]
fn the_sample_needs_the_secrets_of_its_adapters() {
    let names: Vec<String> = secret_names(&directory()).into_keys().collect();
    assert_eq!(
        names,
        [
            "mesh-key",
            "mesh-password",
            "notify-key",
            "notify-receipts",
            "therapy-callback",
            "therapy-webhook"
        ]
    );
}

#[test]
fn rules_stand_by_order_then_file_then_line() {
    let rule = |id: &str, more: &str| format!("[[rule]]\nid = \"{id}\"\n{more}\nto = \"health\"\n");
    let mut all = files();
    all.retain(|f| f.path != "rules.toml" && f.path != "tests.toml");
    let to = |text: String| text.replace("health", "community-paediatrics");
    all.push(file(
        "b.toml",
        &to(rule("b1", "") + &rule("b2", "order = 999")),
    ));
    all.push(file(
        "a.toml",
        &to(rule("a1", "order = 1001") + &rule("a2", "order = -1") + &rule("a3", "")),
    ));
    let ids = |files: &[SourceFile]| -> Vec<String> {
        Directory::load(files)
            .unwrap()
            .rules
            .iter()
            .map(|r| r.id.to_string())
            .collect()
    };
    assert_eq!(ids(&all), ["a2", "b2", "a3", "b1", "a1"]);
    all.reverse();
    assert_eq!(ids(&all), ["a2", "b2", "a3", "b1", "a1"]);
}

#[test]
fn one_value_and_an_array_of_one_are_the_same() {
    let rule = |need: &str| {
        with(&format!(
            "[[rule]]\nid = \"r\"\nneed = {need}\nto = \"health\""
        ))
        .unwrap()
        .rules
    };
    assert_eq!(rule("\"ASD\""), rule("[\"ASD\"]"));
    assert!(rule("\"ASD\"")[0].when.need.contains(&NeedType::Autism));
}

#[test]
fn a_test_without_a_sender_comes_from_the_triage_agency() {
    let test = "[[test]]\nname = \"t\"\ngiven = { pathway = \"p\", age = 3 }\nexpect = []";
    assert_eq!(with(test).unwrap().tests[0].given.sender.as_str(), "LA1");
}

#[test]
fn files_hold_their_limits() {
    let codes = |files: &[SourceFile]| -> Vec<&'static str> {
        Directory::load(files).map_or_else(|f| f.iter().map(|f| f.code).collect(), |_| Vec::new())
    };
    let mut many = files();
    many.extend((many.len()..FILES_MAX).map(|n| file(&format!("{n}.toml"), "")));
    assert_eq!(codes(&many), [""; 0]);
    many.push(file("last.toml", ""));
    assert_eq!(codes(&many), ["too-many-files", "no-area"]);

    let mut large = files();
    large.push(file("large.toml", &"#".repeat(FILE_BYTES_MAX)));
    assert_eq!(codes(&large), [""; 0]);
    large.last_mut().unwrap().text.push('#');
    assert_eq!(codes(&large), ["no-area", "file-too-large"]);

    let mut twice = files();
    twice.push(file("area.toml", ""));
    assert_eq!(codes(&twice), ["no-area", "duplicate-file"]);
}

#[test]
fn rules_and_entries_hold_their_limits() {
    let rule = |n: usize| format!("[[rule]]\nid = \"r{n}\"\nto = \"health\"\n");
    let rules = |count: usize| (0..count).map(rule).collect::<String>();
    assert!(with(&rules(RULES_MAX)).is_ok());
    assert!(report(&rules(RULES_MAX + 1)).contains("more than 2000 rules"));
    let base = 10;
    let agency =
        |n: usize| format!("[[agency]]\nid = \"A{n}\"\nname = \"\"\nsector = \"health\"\n");
    let agencies = |count: usize| (0..count).map(agency).collect::<String>();
    assert!(with(&agencies(ENTRIES_MAX - base)).is_ok());
    assert!(report(&agencies(ENTRIES_MAX - base + 1)).contains("too-many-entries"));
}

#[test]
fn endpoint_numbers_hold_their_limits() {
    let endpoint = |line: &str| {
        with(&format!(
            "[[endpoint]]\nid = \"e\"\nagency = \"H1\"\nadapter = \"grpc\"\n{line}"
        ))
        .is_ok()
    };
    for (edge, over) in [
        ("concurrency = 64", "concurrency = 65"),
        ("concurrency = 1", "concurrency = 0"),
        ("deadline = \"2160h\"", "deadline = \"2161h\""),
        ("evidence_within = \"2160h\"", "evidence_within = \"2161h\""),
        ("attempt_timeout = \"10m\"", "attempt_timeout = \"601s\""),
        ("releases_at = \"sent\"", "releases_at = \"none\""),
        ("valid_to = 2026-01-01", "valid_to = 2026-01-01T00:00:00Z"),
    ] {
        assert!(endpoint(edge), "{edge}");
        assert!(!endpoint(over), "{over}");
    }
}

#[test]
fn a_bundle_is_the_same_in_any_order_and_loads_the_same() {
    let mut shuffled = files();
    shuffled.reverse();
    let text = bundle(&files()).unwrap();
    assert_eq!(bundle(&shuffled).unwrap(), text);
    assert_eq!(
        Directory::load(&unbundle(&text).unwrap()).unwrap(),
        directory()
    );
    assert!(unbundle("{}").is_err());
}
