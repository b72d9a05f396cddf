//! Proof verification after RFC 9162 sections 2.1.3.2 and 2.1.4.2, which serve RFC 6962 trees too.
//!
//! A proof holds for a band of sizes that share a root, so size and root must always come from one
//! verified checkpoint: [`crate::TlogProof::verify`] sees to that.

use std::fmt;

use crate::hash::{Hash, node_hash};

/// Why a proof does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerifyError {
    /// The tree has no such entry.
    IndexOutsideTree {
        /// The index claimed.
        index: u64,
        /// Entries in the tree.
        size: u64,
    },
    /// The older tree is larger than the newer one.
    OldLargerThanNew {
        /// Size of the older tree.
        old: u64,
        /// Size of the newer tree.
        new: u64,
    },
    /// The proof has more or fewer hashes than the sizes demand.
    WrongLength,
    /// The proof leads to another root than that of the tree.
    RootMismatch,
    /// The proof leads to another root than that of the older tree.
    OldRootMismatch,
}

impl fmt::Display for VerifyError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::IndexOutsideTree { index, size } => {
                write!(out, "a tree of {size} entries has no entry {index}")
            }
            Self::OldLargerThanNew { old, new } => {
                write!(out, "a tree of {new} entries cannot extend one of {old}")
            }
            Self::WrongLength => out.write_str("the proof has the wrong number of hashes"),
            Self::RootMismatch => out.write_str("the proof does not lead to the root"),
            Self::OldRootMismatch => out.write_str("the proof does not lead to the older root"),
        }
    }
}

impl std::error::Error for VerifyError {}

/// Checks that the leaf stands at `index` in the tree with this size and root.
pub fn verify_inclusion(
    leaf: &Hash,
    index: u64,
    size: u64,
    proof: &[Hash],
    root: &Hash,
) -> Result<(), VerifyError> {
    if index >= size {
        return Err(VerifyError::IndexOutsideTree { index, size });
    }
    let mut walk = Walk {
        node: index,
        last: size - 1,
    };
    let mut hash = *leaf;
    for sibling in proof {
        hash = match walk.up()? {
            Side::Left => node_hash(sibling, &hash),
            Side::Right => node_hash(&hash, sibling),
        };
    }
    walk.at_root()?;
    if hash == *root {
        Ok(())
    } else {
        Err(VerifyError::RootMismatch)
    }
}

/// Checks that the newer tree begins with all entries of the older one.
pub fn verify_consistency(
    old_size: u64,
    old_root: &Hash,
    new_size: u64,
    new_root: &Hash,
    proof: &[Hash],
) -> Result<(), VerifyError> {
    if old_size > new_size {
        return Err(VerifyError::OldLargerThanNew {
            old: old_size,
            new: new_size,
        });
    }
    if old_size == 0 || old_size == new_size {
        let expected = if old_size == 0 {
            &Hash::EMPTY_ROOT
        } else {
            new_root
        };
        let same = if old_root == expected {
            Ok(())
        } else {
            Err(VerifyError::OldRootMismatch)
        };
        return if proof.is_empty() {
            same
        } else {
            Err(VerifyError::WrongLength)
        };
    }
    // A perfect older tree is a node of the newer one, and the proof leaves its root out.
    let (seed, rest) = if old_size.is_power_of_two() {
        (old_root, proof)
    } else {
        proof.split_first().ok_or(VerifyError::WrongLength)?
    };
    let skipped = (old_size - 1).trailing_ones();
    let mut walk = Walk {
        node: (old_size - 1) >> skipped,
        last: (new_size - 1) >> skipped,
    };
    let (mut old, mut new) = (*seed, *seed);
    for sibling in rest {
        match walk.up()? {
            Side::Left => {
                old = node_hash(sibling, &old);
                new = node_hash(sibling, &new);
            }
            Side::Right => new = node_hash(&new, sibling),
        }
    }
    walk.at_root()?;
    if old != *old_root {
        return Err(VerifyError::OldRootMismatch);
    }
    if new == *new_root {
        Ok(())
    } else {
        Err(VerifyError::RootMismatch)
    }
}

/// Place of a node in its row, and of the row's last node: `fn` and `sn` of RFC 9162.
struct Walk {
    node: u64,
    last: u64,
}

/// Where the sibling stands.
enum Side {
    Left,
    Right,
}

impl Walk {
    /// Goes up past the next sibling and says on which side that stands.
    fn up(&mut self) -> Result<Side, VerifyError> {
        if self.last == 0 {
            return Err(VerifyError::WrongLength);
        }
        let side = if self.node & 1 == 1 || self.node == self.last {
            // A last node without a right neighbour rises unchanged until it is a right child.
            let lifts = if self.node == 0 {
                0
            } else {
                self.node.trailing_zeros()
            };
            self.node >>= lifts;
            self.last >>= lifts;
            Side::Left
        } else {
            Side::Right
        };
        self.node >>= 1;
        self.last >>= 1;
        Ok(side)
    }

    fn at_root(&self) -> Result<(), VerifyError> {
        if self.last == 0 {
            Ok(())
        } else {
            Err(VerifyError::WrongLength)
        }
    }
}
