//! The gateway against software that we did not write: `tests/run --setup-only` installs it, and a test without it fails.
#![expect(
    clippy::indexing_slicing,
    reason = "JSON that a peer wrote is read by name, and what is not there fails the test"
)]

use std::path::Path;

use anyhow::Context as _;
use tempfile::TempDir;
use waymark::clock::SystemClock;
use waymark_core::audit::EntryKind;
use waymark_core::directory::SourceFile;
use waymark_core::port::Store;
use waymark_core::time::Clock as _;
use waymark_tests::build::Maker;
use waymark_tests::gateway::Gateway;

mod agency;
mod client;
mod corpus;
mod fhir;
mod file;
mod mesh;
mod mllp;
mod mllp_in;
mod notify;
mod rate;
mod strict;
mod webhook;

/// A certificate, its key and the authority, as files that a peer reads.
struct Papers {
    folder: TempDir,
}

impl Papers {
    /// Papers of the deployment's authority that prove a URI.
    fn of(gateway: &Gateway, uri: &str) -> anyhow::Result<Self> {
        let (folder, issued) = (tempfile::tempdir()?, gateway.issue(uri)?);
        std::fs::write(folder.path().join("cert"), issued.cert_pem.as_bytes())?;
        std::fs::write(folder.path().join("key"), issued.key_pem.as_bytes())?;
        std::fs::write(folder.path().join("ca"), gateway.ca()?)?;
        Ok(Self { folder })
    }

    fn path(&self, name: &str) -> String {
        shown(&self.folder.path().join(name))
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// Changes a text that the directory's files must hold.
fn changed(files: &mut [SourceFile], from: &str, to: &str) {
    let mut found = false;
    for file in files {
        found |= file.text.contains(from);
        file.text = file.text.replace(from, to);
    }
    assert!(found, "the area's files hold {from}");
}

/// Reads what is stored as the bytes of deliveries.
struct Bodies {
    maker: Maker,
}

impl Bodies {
    fn new() -> Self {
        let mut maker = Maker::default();
        // Ids hold their time, and these must differ from those of another reader.
        maker.now = SystemClock.now();
        Self { maker }
    }

    /// The bytes that every attempt of a delivery carries.
    async fn of(&mut self, store: &dyn Store, wire_id: &str) -> anyhow::Result<Vec<u8>> {
        let view = store
            .delivery_by_wire_id(&wire_id.parse()?)
            .await?
            .context("the delivery")?;
        let entry = self.maker.entry(EntryKind::AdminRead, view.stream);
        let body = store
            .read_body(view.rendered.context("a rendered body")?, entry)
            .await?;
        Ok(body.context("the body")?.expose().to_vec())
    }
}

/// A message without the frame that MLLP puts around it.
fn unframed(bytes: &[u8]) -> &[u8] {
    let inner = bytes.strip_prefix(b"\x0b").unwrap_or(bytes);
    inner.strip_suffix(b"\x1c\r").unwrap_or(inner)
}
