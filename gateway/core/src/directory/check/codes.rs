//! What is wrong with code maps that load: maps that nothing uses, tests that fail or are missing.

use std::collections::BTreeSet;

use super::Finding;
use crate::directory::{AdapterKind, Directory, Endpoint, Role};
use crate::id::CodeMapId;

pub(super) fn findings(directory: &Directory) -> Vec<Finding> {
    let mut findings = Vec::new();
    let endpoints = directory.endpoints.values().map(|e| &e.codes);
    let identities = directory.identities.values().map(|i| &i.codes);
    let used: BTreeSet<&CodeMapId> = endpoints
        .chain(identities)
        .filter_map(|codes| codes.id.as_ref())
        .collect();
    for id in directory.code_maps.keys() {
        let place = directory.place("code_map", id.as_str());
        if !used.contains(id) {
            findings.push(Finding::warning(
                "unused-code-map",
                place.clone(),
                format!("no endpoint and no identity names code map {id}"),
                "name it as code_map, or remove it",
            ));
        }
        if !directory.code_tests.iter().any(|t| t.map == *id) {
            findings.push(Finding::warning(
                "untested-code-map",
                place,
                format!("code map {id} has no tests"),
                "add [[code_test]] tables that state how typical codes go out and come in",
            ));
        }
    }
    findings.extend(read_in_two_ways(directory));
    for test in &directory.code_tests {
        let map = directory.code_maps.get(&test.map);
        if let Some(why) = map.and_then(|map| test.failure(map)) {
            findings.push(Finding::error(
                "failing-test",
                test.place.clone(),
                format!("code test \"{}\" fails: {why}", test.name),
                "correct the map or the test",
            ));
        }
    }
    findings
}

/// What a FHIR server tells comes by our asking it, read by its endpoint's map, and by its own calls, read by the map of
/// who calls: two maps would read one code as two things.
fn read_in_two_ways(directory: &Directory) -> impl Iterator<Item = Finding> {
    let fhir = |e: &&Endpoint| e.adapter == AdapterKind::Fhir;
    directory.endpoints.values().filter(fhir).flat_map(|e| {
        let calls = directory.identities.values().filter(|i| {
            i.agency == e.agency
                && i.roles.contains(&Role::Agency)
                && !NO_CALLERS.iter().any(|channel| i.name.starts_with(channel))
        });
        calls.filter(|i| i.codes.id != e.codes.id).map(|i| {
            Finding::warning(
                "code-maps-differ",
                directory.place("endpoint", e.id.as_str()),
                format!("endpoint {} and identity {} name different code maps", e.id, i.name),
                "name one code_map in both: what is told by a call and what is asked for are read alike then",
            )
        })
    })
}

/// How names of identities begin that are no certificate's.
const NO_CALLERS: [&str; 4] = ["mllp:", "webhook:", "file:", "mesh:"];

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;

    use crate::directory::sample::{TODAY, with};
    use crate::directory::{Directory, Finding, check, diff};
    use crate::leg::LegState;
    use crate::referral::{NeedType, Priority};

    const MAP: &str = r#"
[[code_map]]
id = "trust-x"
[code_map.priority]
routine = { code = "N", system = "HL70280", display = "Normal" }
urgent = { code = "U", system = "HL70280" }
[code_map.reason]
suspected-adhd = { code = "F90" }
[code_map.need]
ASD = { code = "AUT", system = "LOCAL" }
[code_map.status]
accepted = { code = "ACC", system = "LOCAL" }
"#;

    const USE: &str = "[[identity]]\nname = \"mllp:x\"\nagency = \"H1\"\ncode_map = \"trust-x\"\n";

    fn tables(more: &str) -> String {
        format!("{MAP}{USE}{more}")
    }

    fn lines<'f>(findings: impl IntoIterator<Item = &'f Finding>) -> String {
        let about = findings
            .into_iter()
            .filter(|f| !matches!(f.code, "pathway-not-routed" | "coverage-gap"));
        about
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("\n")
    }

    fn loaded(tables: &str) -> Directory {
        with(tables).unwrap()
    }

    #[test]
    fn a_map_is_read_both_ways_by_who_names_it() {
        let directory = loaded(&tables(""));
        let codes = &directory.identities["mllp:x"].codes;
        assert_eq!(codes.priority_of("hl70280", "N"), Some(Priority::Routine));
        assert_eq!(codes.priority_of("", "U"), Some(Priority::Urgent));
        assert_eq!(codes.priority_of("OTHER", "U"), None);
        assert_eq!(codes.reason_of("any", "F90"), Some("suspected-adhd"));
        assert_eq!(codes.need_of("LOCAL", "AUT"), NeedType::parse("ASD"));
        assert_eq!(codes.status_of("LOCAL", "ACC"), Some(LegState::Accepted));
        assert_eq!(codes.priority[&Priority::Routine].display, "Normal");
    }

    #[test]
    fn passing_tests_of_both_directions_leave_no_finding() {
        let tests = r#"
[[code_test]]
name = "routine goes out as N"
code_map = "trust-x"
list = "priority"
given = "routine"
expect = { code = "N", system = "HL70280" }
[[code_test]]
name = "ACC comes in as accepted"
code_map = "trust-x"
list = "status"
given = { code = "ACC", system = "LOCAL" }
expect = "accepted"
"#;
        assert_eq!(lines(&check(&loaded(&tables(tests)), TODAY)), "");
    }

    #[test]
    fn failing_tests_and_maps_without_use_or_tests_are_named_with_file_and_line() {
        let tests = r#"
[[code_test]]
name = "soon goes out as S"
code_map = "trust-x"
list = "priority"
given = "soon"
expect = { code = "S" }
[[code_test]]
name = "U comes in as routine"
code_map = "trust-x"
list = "priority"
given = { code = "U" }
expect = "routine"
[[code_map]]
id = "spare"
"#;
        assert_snapshot!(lines(&check(&loaded(&tables(tests)), TODAY)), @r#"
        rules.toml:18: error failing-test: code test "soon goes out as S" fails: soon goes out as nothing: the map does not have it, expected S: correct the map or the test
        rules.toml:24: error failing-test: code test "U comes in as routine" fails: U is read as urgent, expected routine: correct the map or the test
        rules.toml:30: warning untested-code-map: code map spare has no tests: add [[code_test]] tables that state how typical codes go out and come in
        rules.toml:30: warning unused-code-map: no endpoint and no identity names code map spare: name it as code_map, or remove it
        "#);
    }

    #[test]
    fn a_fhir_server_whose_calls_and_answers_would_be_read_by_two_maps_is_named() {
        let more = r#"
[[code_test]]
name = "routine goes out as N"
code_map = "trust-x"
list = "priority"
given = "routine"
expect = { code = "N", system = "HL70280" }
[[agency]]
id = "F1"
name = "A FHIR server's"
sector = "health"
return_endpoint = "f"
[[endpoint]]
id = "f"
agency = "F1"
adapter = "fhir"
code_map = "trust-x"
[[identity]]
name = "mllp:f"
agency = "F1"
[[identity]]
name = "waymark:test:agency:F1"
agency = "F1"
"#;
        let alike = format!("{more}code_map = \"trust-x\"\n");
        assert_eq!(lines(&check(&loaded(&tables(&alike)), TODAY)), "");
        assert_snapshot!(lines(&check(&loaded(&tables(more)), TODAY)), @r"
        rules.toml:29: warning code-maps-differ: endpoint f and identity waymark:test:agency:F1 name different code maps: name one code_map in both: what is told by a call and what is asked for are read alike then
        ");
    }

    #[test]
    fn ambiguous_unknown_and_empty_codes_are_refused_with_file_and_line() {
        let bad = r#"
[[code_map]]
id = "bad"
[code_map.priority]
routine = { code = "R" }
urgent = { code = "R", system = "HL70280" }
later = { code = "L" }
[code_map.need]
ASD = { code = "" }
[code_map.status]
accepted = { code = "A", system = "ONE" }
waiting = { code = "A", system = "TWO" }
[[code_test]]
name = "from text to text"
code_map = "bad"
list = "need"
given = "ASD"
expect = "ASD"
[[code_test]]
name = "of no map"
code_map = "nowhere"
list = "need"
given = "NOPE"
expect = { code = "X" }
[[endpoint]]
id = "e"
agency = "H1"
adapter = "mailbox"
code_map = "missing"
"#;
        assert_snapshot!(lines(&with(bad).unwrap_err()), @r"
        rules.toml:6: error ambiguous-code: priority urgent has the same code as routine, at rules.toml:5: inward it could mean either: give each its own code, or leave one to the adapter's default
        rules.toml:7: error unknown-code: later is not a priority of the canonical list: use a code of the list in the referral's own words
        rules.toml:9: error invalid-code: the code of need ASD is empty or too long: use 1 to 64 characters for a code, at most 199 for system and display
        rules.toml:13: error invalid-code-test: a test of codes goes from one side to the other: write one of given and expect as text (canonical), the other as a table
        rules.toml:21: error unresolved: code_map names code_map nowhere, which is not in the directory: declare it in a [[code_map]] table or name another
        rules.toml:23: error unknown-code: NOPE is not a need of the canonical list: use a code of the list in the referral's own words
        rules.toml:29: error unresolved: code_map names code_map missing, which is not in the directory: declare it in a [[code_map]] table or name another
        ");
    }

    #[test]
    fn differences_of_maps_and_of_who_names_them_are_shown() {
        let (old, new) = (
            loaded(MAP),
            loaded(&tables("").replace("code = \"U\"", "code = \"X\"")),
        );
        let changes: Vec<String> = diff(&old, &new).iter().map(ToString::to_string).collect();
        assert_snapshot!(changes.join("\n"), @r"
        ~ code_map trust-x: priority = routine = N (HL70280) (Normal), urgent = U (HL70280) -> priority = routine = N (HL70280) (Normal), urgent = X (HL70280)
        + identity mllp:x: agency = H1; code_map = trust-x; roles = agency
        ");
    }
}
