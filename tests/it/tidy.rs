//! House rules: the direction of dependence, the file budget, migrations in pairs, no forgotten test file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use waymark_tests::engine::root;

/// The most lines of a file; about 400 is the aim.
const LINES_MAX: usize = 600;

fn rust_files(folder: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder)
        .expect("a folder of the checkout")
        .flatten()
    {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') && name != "node_modules" {
            rust_files(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

fn all_rust() -> Vec<PathBuf> {
    let mut out = Vec::new();
    rust_files(&root(), &mut out);
    out.sort();
    out
}

#[test]
fn crates_depend_in_one_direction() {
    let metadata = std::process::Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--no-deps",
            "--format-version",
            "1",
            "--offline",
        ])
        .current_dir(root())
        .output()
        .expect("cargo answers");
    let metadata: serde_json::Value = serde_json::from_slice(&metadata.stdout).expect("JSON");
    let mut ours: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in metadata["packages"].as_array().expect("packages") {
        let names = package["dependencies"]
            .as_array()
            .expect("dependencies")
            .iter();
        let ordinary = names
            .filter(|d| d["kind"].is_null())
            .filter_map(|d| d["name"].as_str());
        ours.insert(
            package["name"].as_str().expect("a name").to_owned(),
            ordinary.map(ToOwned::to_owned).collect(),
        );
    }
    let allowed: &[(&str, &[&str])] = &[
        ("waymark-proto", &[]),
        ("waymark-tlog", &[]),
        ("waymark-core", &["waymark-tlog"]),
        ("waymark-audit", &["waymark-core", "waymark-tlog"]),
        ("waymark-store", &["waymark-core", "waymark-tlog"]),
        ("waymark-adapters", &["waymark-core", "waymark-proto"]),
        (
            "waymark",
            &[
                "waymark-adapters",
                "waymark-audit",
                "waymark-core",
                "waymark-proto",
                "waymark-store",
                "waymark-tlog",
            ],
        ),
    ];
    for (name, may) in allowed {
        let names = ours
            .get(*name)
            .expect("every crate stands in the workspace");
        let wrong: Vec<_> = names
            .iter()
            .filter(|d| d.starts_with("waymark") && !may.contains(&d.as_str()))
            .collect();
        assert!(wrong.is_empty(), "{name} names {wrong:?}");
    }
    let io = ["tokio", "sqlx", "tonic", "rustls", "hyper", "reqwest"];
    for pure in ["waymark-core", "waymark-tlog", "waymark-audit"] {
        let names = ours.get(pure).expect("every crate stands in the workspace");
        assert!(io.iter().all(|d| !names.contains(*d)), "{pure} does no I/O");
    }
}

#[test]
fn modules_of_the_gateway_depend_in_one_direction() {
    let source = root().join("gateway/src");
    // A module, and what it may not name.
    let rules: &[(&str, &[&str])] = &[
        (
            "grpc",
            &[
                "crate::delivery::Driver",
                "crate::app",
                "crate::cli",
                "waymark_store",
            ],
        ),
        (
            "service",
            &[
                "crate::grpc",
                "crate::app",
                "crate::cli",
                "waymark_proto",
                "waymark_store",
                "waymark_adapters",
            ],
        ),
        (
            "delivery",
            &[
                "crate::grpc",
                "crate::app",
                "crate::cli",
                "waymark_proto",
                "waymark_store",
                "waymark_adapters",
            ],
        ),
        ("app", &["crate::cli", "waymark_proto"]),
    ];
    for file in all_rust().iter().filter(|f| f.starts_with(&source)) {
        let within = file
            .strip_prefix(&source)
            .expect("beneath it")
            .display()
            .to_string();
        let text = std::fs::read_to_string(file).expect("readable");
        for (module, banned) in rules {
            if within == format!("{module}.rs") || within.starts_with(&format!("{module}/")) {
                for name in *banned {
                    assert!(!text.contains(name), "{within} names {name}");
                }
            }
        }
    }
}

#[test]
fn only_one_place_spawns_reads_time_or_reads_the_environment() {
    let source = root().join("gateway/src");
    for file in all_rust().iter().filter(|f| f.starts_with(&source)) {
        let within = file
            .strip_prefix(&source)
            .expect("beneath it")
            .display()
            .to_string();
        let text = std::fs::read_to_string(file).expect("readable");
        let allowed = |word: &str, place: &str| !text.contains(word) || within.starts_with(place);
        assert!(
            allowed("SystemTime::now", "clock"),
            "{within} reads the time"
        );
        assert!(allowed("tokio::spawn(", "lifecycle"), "{within} spawns");
    }
}

#[test]
fn files_keep_their_budget() {
    let long: Vec<String> = all_rust()
        .iter()
        .filter_map(|file| {
            let lines = std::fs::read_to_string(file)
                .expect("readable")
                .lines()
                .count();
            (lines > LINES_MAX).then(|| format!("{}: {lines} lines", file.display()))
        })
        .collect();
    assert!(long.is_empty(), "split these: {long:#?}");
}

#[test]
fn migrations_stand_in_pairs() {
    let names = |engine: &str| -> BTreeSet<String> {
        let folder = root().join("gateway/store/migrations").join(engine);
        let entries = std::fs::read_dir(folder).expect("migrations").flatten();
        entries
            .map(|e| e.file_name().to_string_lossy().into_owned())
            .collect()
    };
    assert_eq!(names("sqlite"), names("postgres"));
}

#[test]
fn no_test_file_is_forgotten() {
    let folder = root().join("tests/it");
    let main = std::fs::read_to_string(folder.join("main.rs")).expect("readable");
    for entry in std::fs::read_dir(&folder).expect("tests").flatten() {
        let path = entry.path();
        let stem = path
            .file_stem()
            .map(|s| s.to_string_lossy().into_owned())
            .unwrap_or_default();
        if stem != "main" && path.extension().is_some_and(|e| e == "rs") {
            assert!(
                main.contains(&format!("mod {stem};")),
                "tests/it/{stem}.rs is in no module"
            );
        }
    }
}

#[test]
fn nothing_committed_names_a_registry_s_host_or_this_machine() {
    let banned = [
        ["crates", ".io"].concat(),
        ["/work", "/main"].concat(),
        ["npmjs", ".org"].concat(),
        ["pypi", ".org"].concat(),
    ];
    let listed = std::process::Command::new("git")
        .args(["ls-files"])
        .current_dir(root())
        .output()
        .expect("git answers");
    for name in String::from_utf8_lossy(&listed.stdout)
        .lines()
        .filter(|n| !n.ends_with("Cargo.lock"))
    {
        let Ok(text) = std::fs::read_to_string(root().join(name)) else {
            continue;
        };
        for word in &banned {
            assert!(!text.contains(word.as_str()), "{name} names {word}");
        }
    }
}
