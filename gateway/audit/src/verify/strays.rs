//! Files that are there but not of the tree: beyond its end, under other names, or left from before.

use waymark_tlog::{Checkpoint, HASH_BYTES, TilePath, bundle_entries, bundle_width};

use crate::layout::{BUNDLE_BYTES_MAX, CHECKPOINT, CHECKPOINTS, KEYS, OPENINGS, RECEIPTS, TILE};
use crate::report::{Findings, Place, What};
use crate::tree::{ItemKind, Tree};

/// Directories below `tile/`: level, up to five index elements, and `.p`.
const DEPTH_MAX: usize = 8;

/// Names what does not belong below `tile/`; other unknown files are only noted.
pub(super) fn check(
    tree: &Tree,
    head: &Checkpoint,
    findings: &mut Findings,
    notes: &mut Vec<String>,
) {
    match tree.list("") {
        Err(error) => findings.unread(".", &error),
        Ok(items) => {
            let known = [CHECKPOINT, CHECKPOINTS, KEYS, OPENINGS, RECEIPTS, TILE];
            for item in items
                .into_iter()
                .filter(|item| !known.contains(&item.name.as_str()))
            {
                notes.push(format!(
                    "{} is not part of the tree and was not checked",
                    item.name
                ));
            }
        }
    }
    descend(tree, head.size(), TILE, 0, findings);
}

fn descend(tree: &Tree, size: u64, dir: &str, depth: usize, findings: &mut Findings) {
    let items = match tree.list(dir) {
        Ok(items) => items,
        Err(error) => return findings.unread(dir, &error),
    };
    for item in items {
        let path = format!("{dir}/{}", item.name);
        match item.kind {
            ItemKind::Directory if depth < DEPTH_MAX => {
                descend(tree, size, &path, depth + 1, findings);
            }
            ItemKind::File => check_file(tree, size, &path, findings),
            ItemKind::Directory | ItemKind::Other => {
                let detail = "this is not a file of the tree";
                findings.add(What::FileUnexpected, Place::file(path), detail);
            }
        }
    }
}

fn check_file(tree: &Tree, size: u64, path: &str, findings: &mut Findings) {
    let (width, full, whole) = match TilePath::parse(path) {
        Ok(TilePath::Hashes { id, width }) => {
            (width, id.width_at(size), id.path(id.width_at(size)))
        }
        Ok(TilePath::Entries { index, width }) => {
            let full = bundle_width(index, size);
            (width, full, waymark_tlog::bundle_path(index, full))
        }
        Err(error) => {
            return findings.add(What::FileUnexpected, Place::file(path), error.to_string());
        }
    };
    if width > full {
        let detail = format!("it lies beyond the end of the tree of {size} entries");
        findings.add(What::FileUnexpected, Place::file(path), detail);
    } else if width < full {
        check_earlier(tree, path, &whole, width, findings);
    }
}

/// A narrower file from an earlier checkpoint must be the beginning of the present one.
fn check_earlier(tree: &Tree, path: &str, whole: &str, width: usize, findings: &mut Findings) {
    let earlier = match tree.read(path, BUNDLE_BYTES_MAX) {
        Ok(earlier) => earlier,
        Err(error) => return findings.unread(path, &error),
    };
    // That the present file cannot be read was found before.
    let Ok(present) = tree.read(whole, BUNDLE_BYTES_MAX) else {
        return;
    };
    let end = if whole.starts_with("tile/entries/") {
        bundle_entries(&present)
            .take(width)
            .flatten()
            .last()
            .map_or(0, |(at, entry)| at + 2 + entry.len())
    } else {
        width * HASH_BYTES
    };
    if present.get(..end) != Some(earlier.as_slice()) {
        let same = earlier
            .iter()
            .zip(&present)
            .take(end)
            .take_while(|(a, b)| a == b)
            .count();
        let detail = format!("it is not the beginning of {whole}");
        findings.add(What::TileAltered, Place::file(path).byte(same), detail);
    }
}
