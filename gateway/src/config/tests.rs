use std::time::Duration;

use toml::{Table, Value};

use super::*;

const MINIMAL: &str = "[gateway]\nenvironment = \"test\"\n";

fn assemble(text: &str) -> Result<Config, ConfigError> {
    Config::assemble(text, "waymark.toml", &[])
}

fn with(variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let variables: Vec<(String, String)> = variables
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    Config::assemble(MINIMAL, "waymark.toml", &variables)
}

fn invalid_keys(text: &str) -> Vec<String> {
    match assemble(text) {
        Err(ConfigError::Invalid(violations)) => violations.into_iter().map(|v| v.field).collect(),
        other => panic!("not refused: {other:?}"),
    }
}

/// The default file with its examples switched on: a line `#key = value` or `#[table]`.
fn with_examples() -> String {
    DEFAULT_TOML
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(rest) if !rest.starts_with(' ') => rest,
            _ => line,
        })
        .collect::<Vec<_>>()
        .join("\n")
}

fn keys(prefix: &str, value: &Value, into: &mut Vec<String>) {
    match value {
        Value::Table(table) => {
            for (key, value) in table {
                keys(&format!("{prefix}.{key}"), value, into);
            }
        }
        Value::Array(items) if items.iter().any(Value::is_table) => {
            for item in items {
                keys(prefix, item, into);
            }
        }
        _ => into.push(prefix.to_owned()),
    }
}

#[test]
fn the_documented_defaults_are_the_defaults() {
    assert_eq!(assemble(DEFAULT_TOML).unwrap(), assemble(MINIMAL).unwrap());
}

#[test]
fn every_key_is_documented() {
    let text = with_examples();
    let config = assemble(&text).unwrap();
    let mut documented = Vec::new();
    keys(
        "",
        &Value::Table(toml::from_str::<Table>(&text).unwrap()),
        &mut documented,
    );
    let mut known = Vec::new();
    keys("", &Value::try_from(&config).unwrap(), &mut known);
    documented.sort();
    known.sort();
    assert_eq!(documented, known);
}

#[test]
fn an_unknown_key_is_refused_where_it_stands() {
    let refused =
        assemble("[gateway]\nenvironment = \"test\"\n[listen]\n  grcp = \"127.0.0.1:1\"\n")
            .unwrap_err();
    let text = refused.to_string();
    assert!(
        text.starts_with("waymark.toml:4:3: unknown field `grcp`"),
        "{text}"
    );
}

#[test]
fn a_wrong_value_is_refused_where_it_stands() {
    let refused = assemble("[gateway]\nenvironment = \"production\"\n")
        .unwrap_err()
        .to_string();
    assert!(refused.starts_with("waymark.toml:2:15: "), "{refused}");
    let refused = assemble(&format!("{MINIMAL}drain = \"soon\"\n"))
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains("waymark.toml:3:9: not a length of time"),
        "{refused}"
    );
}

#[test]
fn the_environment_must_be_stated() {
    assert!(
        assemble("")
            .unwrap_err()
            .to_string()
            .contains("missing field `gateway`")
    );
}

#[test]
fn variables_lie_over_the_file() {
    let config = with(&[
        ("WAYMARK_DATABASE_URL", "postgres://waymark:pw@db/waymark"),
        ("WAYMARK_LISTEN_GRPC", "0.0.0.0:9000"),
        ("WAYMARK_LIMITS_IN_FLIGHT", "7"),
        ("WAYMARK_TELEMETRY_SAMPLE_RATIO", "1.0"),
        ("WAYMARK_TELEMETRY_LOG_FILTER", "true"),
        ("WAYMARK_SOMETHING_ELSE", "left alone"),
        ("WAYMARK_SECRET_THERAPY_WEBHOOK", "left alone too"),
    ])
    .unwrap();
    assert_eq!(
        config.database.url.expose(),
        "postgres://waymark:pw@db/waymark"
    );
    assert_eq!(config.listen.grpc, ([0, 0, 0, 0], 9000).into());
    assert_eq!(config.limits.in_flight, 7);
    assert!((config.telemetry.sample_ratio - 1.0).abs() < f64::EPSILON);
    assert_eq!(config.telemetry.log_filter, "true");
}

#[test]
fn a_wrong_variable_is_named_and_its_value_is_not() {
    let refused = with(&[("WAYMARK_LIMITS_IN_FLIGHT", "hunter2")])
        .unwrap_err()
        .to_string();
    assert!(
        refused.starts_with("environment variable WAYMARK_LIMITS_IN_FLIGHT: "),
        "{refused}"
    );
    assert!(!refused.contains("hunter2"), "{refused}");
    let refused = with(&[("WAYMARK_LISTEN_GRCP", "127.0.0.1:1")])
        .unwrap_err()
        .to_string();
    assert!(
        refused.starts_with("environment variable WAYMARK_LISTEN_GRCP: unknown field `grcp`"),
        "{refused}"
    );
}

#[test]
fn a_password_in_the_file_is_refused_and_never_shown() {
    let text = format!(
        "{MINIMAL}[database]\nurl = \"postgres://waymark:hunter2@db/waymark?sslmode=require\"\n"
    );
    let refused = assemble(&text).unwrap_err();
    assert!(
        matches!(&refused, ConfigError::Invalid(v) if v.iter().any(|v| v.field == "database.url"))
    );
    let config: Config = toml::from_str(&text).unwrap();
    for shown in [
        format!("{config:?}"),
        refused.to_string(),
        toml::to_string(&config).unwrap(),
    ] {
        assert!(
            !shown.contains("hunter2") && !shown.contains("sslmode"),
            "{shown}"
        );
    }
}

#[test]
fn limits_hold_at_their_edges() {
    let longest = |text: &str| format!("{MINIMAL}[directory]\nrefresh = \"{text}\"\n");
    assert!(assemble(&longest("4s")).is_ok());
    assert_eq!(invalid_keys(&longest("4001ms")), ["directory.refresh"]);
    let most = |count: u32| format!("{MINIMAL}[limits]\nstream_in_flight = {count}\n");
    assert!(assemble(&most(limits::STREAM_IN_FLIGHT_MAX)).is_ok());
    assert_eq!(
        invalid_keys(&most(limits::STREAM_IN_FLIGHT_MAX + 1)),
        ["limits.stream_in_flight"]
    );
    assert_eq!(invalid_keys(&most(0)), ["limits.stream_in_flight"]);
    let lease = |text: &str| format!("{MINIMAL}[delivery]\nlease = \"{text}\"\n");
    assert!(assemble(&lease("2s")).is_ok());
    assert_eq!(invalid_keys(&lease("1999ms")), ["delivery.lease"]);
}

#[test]
fn every_fault_is_named_at_once() {
    let text = format!(
        "{MINIMAL}[limits]\nin_flight = 0\n[telemetry]\nsample_ratio = 1.5\notlp_endpoint = \"db\"\n"
    );
    assert_eq!(
        invalid_keys(&text),
        [
            "limits.in_flight",
            "telemetry.sample_ratio",
            "telemetry.otlp_endpoint"
        ]
    );
}

fn mllp(name: &str, address: &str, tls: bool) -> String {
    format!(
        "[[listen.mllp]]\nname = \"{name}\"\naddress = \"{address}\"\ntls = {tls}\n\
         assume = {{ pathway = \"autism-assessment\" }}\n"
    )
}

#[test]
fn plain_mllp_stands_on_a_private_interface_alone() {
    let one = |address: &str, tls| format!("{MINIMAL}{}", mllp("r1l", address, tls));
    assert!(assemble(&one("10.0.0.5:2575", false)).is_ok());
    assert!(assemble(&one("0.0.0.0:2575", true)).is_ok());
    assert_eq!(
        invalid_keys(&one("0.0.0.0:2575", false)),
        ["listen.mllp[0].tls"]
    );
    assert_eq!(
        invalid_keys(&one("192.0.2.1:2575", false)),
        ["listen.mllp[0].tls"]
    );
}

#[test]
fn two_listeners_share_neither_name_nor_address() {
    let two = format!(
        "{MINIMAL}{}{}",
        mllp("r1l", "127.0.0.1:8443", true),
        mllp("r1l", "127.0.0.1:0", true)
    );
    assert_eq!(invalid_keys(&two), ["listen.mllp[1].name", "listen.mllp"]);
}

#[test]
fn paths_are_beside_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("waymark.toml");
    std::fs::write(
        &path,
        format!("{MINIMAL}[tls]\ncert = \"/etc/waymark/server.pem\"\n"),
    )
    .unwrap();
    let config = Config::load(&path).unwrap();
    assert_eq!(config.tls.cert, Path::new("/etc/waymark/server.pem"));
    assert_eq!(config.tls.key, folder.path().join("tls/server.key"));
    assert_eq!(
        config.database.url.expose(),
        format!("sqlite://{}", folder.path().join("waymark.db").display())
    );
}

#[test]
fn a_database_url_comes_from_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("waymark.toml");
    std::fs::write(&path, format!("{MINIMAL}[database]\nurl_file = \"url\"\n")).unwrap();
    std::fs::write(folder.path().join("url"), "postgres://u:p@db/waymark\n").unwrap();
    let url = Config::load(&path).unwrap().database_url().unwrap();
    assert_eq!(url.expose(), "postgres://u:p@db/waymark");
    assert_eq!(url.to_string(), "postgres://u:…@db/waymark");
}

#[test]
fn a_secret_comes_from_the_environment_before_its_file() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("therapy-webhook"), "from the file\n").unwrap();
    let none = Secrets::new(folder.path().to_owned(), BTreeMap::new());
    assert_eq!(
        none.find("therapy-webhook").unwrap().expose(),
        "from the file"
    );
    let variables = overlay::secret_variables(vec![(
        "WAYMARK_SECRET_THERAPY_WEBHOOK".to_owned(),
        "from the environment".to_owned(),
    )]);
    let both = Secrets::new(folder.path().to_owned(), variables);
    assert_eq!(
        both.find("therapy-webhook").unwrap().expose(),
        "from the environment"
    );
    assert!(!format!("{both:?}").contains("from the"), "{both:?}");
}

#[test]
fn a_missing_secret_says_where_it_was_looked_for() {
    let secrets = Secrets::new("/nowhere".into(), BTreeMap::new());
    let missing = secrets.find("therapy-webhook").unwrap_err().to_string();
    assert!(
        missing.contains("WAYMARK_SECRET_THERAPY_WEBHOOK")
            && missing.contains("/nowhere/therapy-webhook")
    );
    for name in ["", "../waymark.toml", ".hidden", "a/b", &"a".repeat(65)] {
        assert!(
            matches!(secrets.find(name), Err(SecretError::Name { .. })),
            "{name}"
        );
    }
}

#[test]
fn a_secret_over_the_limit_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let most = usize::try_from(SECRET_BYTES_MAX).unwrap();
    let secrets = Secrets::new(folder.path().to_owned(), BTreeMap::new());
    std::fs::write(folder.path().join("s"), "x".repeat(most)).unwrap();
    assert!(secrets.find("s").is_ok());
    std::fs::write(folder.path().join("s"), "x".repeat(most + 1)).unwrap();
    assert!(matches!(secrets.find("s"), Err(SecretError::Size { .. })));
}

#[test]
fn a_log_key_reads_back_and_a_damaged_one_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.key");
    let text = log_key_text("waymark.example/southmere/test", &[7; 32]).unwrap();
    std::fs::write(&path, &*text).unwrap();
    let key = load_log_key(&path).unwrap();
    assert_eq!(key.name(), "waymark.example/southmere/test");
    let expected = waymark_tlog::note::SigningKey::from_seed(key.name(), [7; 32]).unwrap();
    assert_eq!(key.vkey(), expected.vkey());

    std::fs::write(&path, text.replace("southmere", "northmere")).unwrap();
    assert!(matches!(
        load_log_key(&path),
        Err(LogKeyError::KeyId { .. })
    ));
    std::fs::write(&path, "PRIVATE+KEY+x").unwrap();
    let refused = load_log_key(&path).unwrap_err();
    assert!(matches!(refused, LogKeyError::Malformed { .. }));
}

#[test]
fn lengths_of_time_read_back_as_written() {
    for text in ["30s", "250ms", "72h"] {
        let length: Lasting = serde_json::from_value(text.into()).unwrap();
        assert_eq!(serde_json::to_value(length).unwrap(), text);
    }
    assert!(serde_json::from_value::<Lasting>("0s".into()).is_err());
    assert_eq!(Lasting::new(Duration::from_secs(90)).to_string(), "1m 30s");
}
