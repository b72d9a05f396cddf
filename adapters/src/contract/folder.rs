//! A far side that is a folder: it takes what stands in its outbox, and says nothing until it is asked to. Over SFTP it
//! is the folder that a server shows.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use waymark_core::directory::{AdapterKind, Endpoint};

use super::{Answers, FarSide, Received, Script, sample, wire_id};
use crate::file::{MANIFEST_SUFFIX, Manifest};

/// Messages that its outbox may hold before it is full.
const WAITING_MAX: usize = 3;

/// The folder.
#[derive(Debug)]
pub struct FolderSide {
    folder: PathBuf,
    endpoint: Endpoint,
    impostor: Option<Endpoint>,
    unreachable: Endpoint,
    wrong: Vec<(Endpoint, String)>,
    received: Mutex<Vec<Received>>,
}

/// An endpoint of the file adapter with these settings.
///
/// # Panics
/// When they are no TOML.
pub fn endpoint(settings: &str) -> Endpoint {
    Endpoint {
        adapter: AdapterKind::File,
        settings: settings.parse().expect("the settings of a test are TOML"),
        ..sample::endpoint()
    }
}

impl FolderSide {
    /// Makes the far side of an endpoint whose folder, here, is `folder`. `settings` are those of its transport.
    ///
    /// # Panics
    /// When the settings are no TOML.
    pub fn new(folder: &Path, settings: &str, impostor: Option<&str>, unreachable: &str) -> Self {
        let own = endpoint(&format!("waiting_max = {WAITING_MAX}\n{settings}"));
        let with = |key: &str, value: toml::Value| {
            let mut changed = own.clone();
            changed.settings.insert(key.to_owned(), value);
            (changed, format!("settings.{key}"))
        };
        let wrong = vec![
            with("directory", "../outside".into()),
            with("directory", "/etc".into()),
            with("every_s", 0.into()),
            with("payload", "xml".into()),
            with("waiting_max", 0.into()),
            with("colour", "red".into()),
        ];
        Self {
            folder: folder.to_owned(),
            impostor: impostor.map(endpoint),
            unreachable: endpoint(unreachable),
            endpoint: own,
            wrong,
            received: Mutex::default(),
        }
    }

    fn path(&self, sub: &str, name: &str) -> PathBuf {
        self.folder.join(sub).join(name)
    }

    fn names(&self, sub: &str) -> Vec<String> {
        let entries = fs::read_dir(self.folder.join(sub)).into_iter().flatten();
        let mut names: Vec<String> = entries
            .flatten()
            .filter_map(|e| e.file_name().into_string().ok())
            .collect();
        names.sort();
        names
    }

    /// Takes what stands in the outbox: the manifest says which files.
    fn sweep(&self) {
        let mut received = self.received.lock().unwrap_or_else(PoisonError::into_inner);
        for name in self.names("outbox") {
            let Ok(line) = fs::read(self.path("outbox", &name)) else {
                continue;
            };
            if !name.ends_with(MANIFEST_SUFFIX) {
                continue;
            }
            if let Ok(manifest) = serde_json::from_slice::<Manifest>(&line) {
                let mut bytes = line;
                for file in &manifest.files {
                    let path = self.path("outbox", file.name.as_str());
                    bytes.extend(fs::read(&path).expect("a manifest's files are there before it"));
                    fs::remove_file(&path).expect("the folder is the test's own");
                }
                received.push(Received {
                    wire_id: manifest.id.to_string(),
                    bytes,
                });
            }
            fs::remove_file(self.path("outbox", &name)).expect("the folder is the test's own");
        }
    }

    fn write(&self, sub: &str, name: &str, bytes: &[u8]) {
        fs::create_dir_all(self.folder.join(sub)).expect("the folder is the test's own");
        fs::write(self.path(sub, name), bytes).expect("the folder is the test's own");
    }
}

#[async_trait]
impl FarSide for FolderSide {
    fn endpoint(&self) -> Endpoint {
        self.endpoint.clone()
    }

    fn impostor(&self) -> Option<Endpoint> {
        self.impostor.clone()
    }

    fn unreachable(&self) -> Endpoint {
        self.unreachable.clone()
    }

    fn wrong_settings(&self) -> Vec<(Endpoint, String)> {
        self.wrong.clone()
    }

    fn hints(&self) -> bool {
        false
    }

    fn answers(&self) -> Answers {
        Answers::Later
    }

    fn play(&self, script: Script) {
        self.sweep();
        for sub in ["receipts", "rejected"] {
            for name in self.names(sub) {
                fs::remove_file(self.path(sub, &name)).expect("the folder is the test's own");
            }
        }
        let id = wire_id();
        match script {
            Script::Take | Script::Silent => {}
            Script::Duplicate => self.write("receipts", &format!("{id}.receipt"), b""),
            Script::Later => {
                for n in 0..WAITING_MAX {
                    self.write("outbox", &format!("EARLIER{n}{MANIFEST_SUFFIX}"), b"waits");
                }
            }
            Script::Refuse => {
                let words = sample::PERSONAL_WORDS.join(" ");
                let refusal = serde_json::json!({ "code": "NOT_OURS", "text": words });
                let name = format!("{id}.rejected.json");
                self.write("rejected", &name, refusal.to_string().as_bytes());
            }
        }
    }

    fn received(&self) -> Vec<Received> {
        self.sweep();
        self.received
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}
