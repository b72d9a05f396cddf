//! Directories for tests.

use jiff::civil::{Date, date};

use super::{Directory, Finding, SourceFile};

/// The day on which tests ask.
pub(crate) const TODAY: Date = date(2026, 3, 2);

/// The sample directory that the project ships.
pub(crate) fn files() -> Vec<SourceFile> {
    macro_rules! shipped {
        ($($name:literal)*) => {vec![$(file($name, include_str!(concat!("../../../../deploy/directory/", $name))),)*]};
    }
    shipped!("agencies.toml" "area.toml" "rules.toml" "services.toml" "tests.toml")
}

/// The sample directory, loaded.
pub(crate) fn directory() -> Directory {
    Directory::load(&files()).expect("the sample directory loads")
}

/// One file.
pub(crate) fn file(path: &str, text: &str) -> SourceFile {
    SourceFile {
        path: path.to_owned(),
        text: text.to_owned(),
    }
}

/// A directory of three services (`triage` of LA1, `health` and `school` for pathways `p` and `q`) and these
/// further tables, which stand in `rules.toml`.
pub(crate) fn with(tables: &str) -> Result<Directory, Vec<Finding>> {
    Directory::load(&[file("base.toml", BASE), file("rules.toml", tables)])
}

const BASE: &str = r#"
[area]
id = "test"
name = "Test"
environment = "test"
triage = "triage"

[[agency]]
id = "LA1"
name = "Council"
sector = "education"
[[identity]]
name = "la"
agency = "LA1"
[[endpoint]]
id = "la-box"
agency = "LA1"
adapter = "mailbox"
[[service]]
id = "triage"
name = "Triage"
agency = "LA1"
pathways = []
endpoint = "la-box"
owner_role = "Coordinator"
[[service]]
id = "school"
name = "Teaching"
agency = "LA1"
pathways = ["p", "q"]
endpoint = "la-box"
owner_role = "Lead"

[[agency]]
id = "H1"
name = "Hospital"
sector = "health"
[[identity]]
name = "hospital"
agency = "H1"
[[endpoint]]
id = "h-box"
agency = "H1"
adapter = "mailbox"
[[service]]
id = "health"
name = "Clinic"
agency = "H1"
pathways = ["p", "q"]
endpoint = "h-box"
owner_role = "Lead"
"#;
