use super::*;

/// The long help of a command, as wide as here and everywhere.
fn help(path: &[&str]) -> String {
    let mut command = parser().term_width(100);
    command.build();
    let found = path.iter().fold(&mut command, |command, name| {
        command.find_subcommand_mut(name).unwrap()
    });
    found.render_long_help().to_string()
}

#[test]
fn the_parser_holds_together() {
    parser().debug_assert();
}

#[test]
fn every_command_shows_examples() {
    let parser = parser();
    for command in parser.get_subcommands() {
        let name = command.get_name();
        assert!(help(&[name]).contains("\nExamples:\n"), "{name}");
    }
}

#[test]
fn every_argument_says_what_it_is() {
    fn walk(command: &clap::Command, path: &str) {
        for argument in command.get_arguments() {
            assert!(
                argument.get_help().is_some(),
                "{path}: {}",
                argument.get_id()
            );
        }
        for inner in command.get_subcommands() {
            assert!(inner.get_about().is_some(), "{path} {}", inner.get_name());
            walk(inner, &format!("{path} {}", inner.get_name()));
        }
    }
    walk(&parser(), "waymark");
}

#[test]
fn the_commands_are_those_of_the_design() {
    let names: Vec<String> = parser()
        .get_subcommands()
        .map(|c| c.get_name().to_owned())
        .collect();
    assert_eq!(
        names,
        [
            "init",
            "serve",
            "worker",
            "demo",
            "migrate",
            "keys",
            "doctor",
            "config",
            "directory",
            "probe",
            "route",
            "send",
            "watch",
            "mailbox",
            "audit",
            "pki",
            "bench",
            "completions",
            "man"
        ]
    );
}

#[test]
fn the_format_may_stand_before_or_after_the_command() {
    for line in [
        ["waymark", "--output", "json", "doctor"],
        ["waymark", "doctor", "--output", "json"],
    ] {
        assert_eq!(Cli::try_parse_from(line).unwrap().output, Format::Json);
    }
    assert_eq!(
        Cli::try_parse_from(["waymark", "doctor"]).unwrap().output,
        Format::Human
    );
}

#[test]
fn what_cannot_go_together_is_refused() {
    for line in [
        &["waymark", "send"][..],
        &["waymark", "send", "--example", "r.json"],
        &["waymark", "send", "r.json", "--mllp-plain"],
        &["waymark", "send", "r.json", "--cert", "c.pem"],
        &["waymark", "route", "explain"],
        &[
            "waymark", "route", "explain", "r.json", "--sender", "EE123456",
        ],
        &["waymark", "mailbox", "receive", "--acknowledge"],
        &["waymark", "mailbox", "receive", "--credit", "101"],
        &["waymark", "directory", "apply", "area/"],
    ] {
        assert!(Cli::try_parse_from(line).is_err(), "{line:?}");
    }
}

#[test]
fn exit_codes_stand_in_the_help() {
    insta::assert_snapshot!(help(&[]).split_once("Exit codes:").unwrap().1, @r"

      0  done
      1  refused, or a check failed
      2  the command line or a configuration file is wrong
      3  the gateway or the database cannot be reached
    ");
}
