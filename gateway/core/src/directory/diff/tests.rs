use insta::assert_snapshot;

use super::*;
use crate::directory::sample::{directory, with};

fn report(old: &Directory, new: &Directory) -> String {
    diff(old, new)
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn a_directory_does_not_differ_from_itself() {
    assert_eq!(diff(&directory(), &directory()), []);
}

#[test]
fn moving_a_table_to_another_line_is_no_difference() {
    let rule = "[[rule]]\nid = \"r\"\nto = \"health\"";
    assert_eq!(
        diff(&with(rule).unwrap(), &with(&format!("\n\n{rule}")).unwrap()),
        []
    );
}

#[test]
fn differences_name_the_fields_that_changed() {
    let old = with(
        r#"
[[rule]]
id = "kept"
age_max = 4
need = ["ASD", "HI"]
to = "health"
[[rule]]
id = "gone"
to = "school"
[[endpoint]]
id = "hook"
agency = "H1"
adapter = "webhook"
settings = { url = "https://a" }
"#,
    )
    .unwrap();
    let new = with(
        r#"
[[rule]]
id = "kept"
age_max = 5
need = ["ASD", "HI"]
valid_to = 2026-08-31
to = ["health", "school"]
[[rule]]
id = "new"
pathway = "p"
to = "school"
[[endpoint]]
id = "hook"
agency = "H1"
adapter = "webhook"
deadline = "5m"
settings = { url = "https://b" }
"#,
    )
    .unwrap();
    assert_snapshot!(report(&old, &new), @r#"
    ~ endpoint hook: deadline = 72h; settings = { url = "https://a" } -> deadline = 5m; settings = { url = "https://b" }
    - rule gone: to = school
    ~ rule kept: age_max = 4; to = health; valid_to = (none) -> age_max = 5; to = health, school; valid_to = 2026-08-31
    + rule new: pathway = p; to = school
    "#);
}

#[test]
fn another_order_of_rules_is_one_difference() {
    let rule = |id: &&str| format!("[[rule]]\nid = \"{id}\"\nto = \"health\"\n");
    let rules = |ids: &[&str]| with(&ids.iter().map(rule).collect::<String>()).unwrap();
    assert_snapshot!(report(&rules(&["a", "b"]), &rules(&["b", "a"])), @r#"
    ~ order of rules: a, b -> b, a
    "#);
    let added: Vec<String> = diff(&rules(&["a", "b"]), &rules(&["x", "a", "b"]))
        .into_iter()
        .map(|c| c.what)
        .collect();
    assert_eq!(added, ["rule x"]);
}
