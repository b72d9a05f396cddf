//! Keys: what is sealed at rest, under which key, and how a value is looked up without being shown.
//!
//! AES-256-GCM with random nonces. Each body has a random data key, wrapped by its subject's key, wrapped by the
//! key-encryption key (KEK) of an epoch. What is sealed is bound to its place (table, row, column), so that it opens
//! nowhere else. Salts, which are random keys themselves, are sealed under the subject key directly.

use std::collections::BTreeMap;
use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use aws_lc_rs::{hmac, rand};
use waymark_core::id::SubjectId;
use waymark_core::port::StoreError;
use waymark_core::time::Timestamp;
use zeroize::Zeroizing;

use crate::error::internal;

mod keyring;
mod lane;

pub use keyring::{KEYRING_BYTES_MAX, Keyring, KeyringError};

/// Bytes of every key.
pub(crate) const KEY_BYTES: usize = 32;

/// First byte of everything sealed: the format.
const FORMAT: u8 = 1;
const NONCE_BYTES: usize = 12;
const TAG_BYTES: usize = 16;
const HEADER_BYTES: usize = 1 + NONCE_BYTES;

/// Where a sealed value lives: it opens nowhere else.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    /// The table.
    pub(crate) table: &'static str,
    /// The row's key.
    pub(crate) row: &'a [u8],
    /// The column.
    pub(crate) column: &'static str,
}

impl Place<'_> {
    fn aad(&self) -> Vec<u8> {
        let mut out = b"waymark/seal/v1\0".to_vec();
        for part in [self.table.as_bytes(), self.column.as_bytes()] {
            out.extend_from_slice(part);
            out.push(0);
        }
        out.extend_from_slice(self.row);
        out
    }

    /// What to say when a value does not open here.
    pub(crate) fn corrupt(&self) -> StoreError {
        StoreError::Corrupt {
            table: self.table,
            column: self.column,
            row: hex::encode(self.row),
        }
    }
}

/// A key of one row or one subject.
#[derive(Clone)]
pub(crate) struct DataKey(Zeroizing<[u8; KEY_BYTES]>);

impl DataKey {
    /// Makes a random key.
    pub(crate) fn generate() -> Result<Self, StoreError> {
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        rand::fill(key.as_mut_slice()).map_err(internal)?;
        Ok(Self(key))
    }

    /// Seals bytes for their place.
    pub(crate) fn seal(&self, place: Place<'_>, plain: &[u8]) -> Result<Vec<u8>, StoreError> {
        seal(&self.cipher()?, place, plain)
    }

    /// Opens what was sealed for a place.
    pub(crate) fn open(&self, place: Place<'_>, sealed: &[u8]) -> Result<Vec<u8>, StoreError> {
        open(&self.cipher()?, place, sealed)
    }

    /// Wraps another key for its place.
    pub(crate) fn wrap(&self, place: Place<'_>, key: &Self) -> Result<Vec<u8>, StoreError> {
        self.seal(place, key.0.as_slice())
    }

    /// Unwraps a key.
    pub(crate) fn unwrap(&self, place: Place<'_>, wrapped: &[u8]) -> Result<Self, StoreError> {
        Self::from_bytes(place, self.open(place, wrapped)?)
    }

    fn from_bytes(place: Place<'_>, bytes: Vec<u8>) -> Result<Self, StoreError> {
        let bytes = Zeroizing::new(bytes);
        let key = <[u8; KEY_BYTES]>::try_from(bytes.as_slice()).map_err(|_| place.corrupt())?;
        Ok(Self(Zeroizing::new(key)))
    }

    fn cipher(&self) -> Result<RandomizedNonceKey, StoreError> {
        RandomizedNonceKey::new(&AES_256_GCM, self.0.as_slice()).map_err(internal)
    }
}

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DataKey([secret])")
    }
}

/// A subject with its key unwrapped.
#[derive(Clone, Debug)]
pub(crate) struct Subject {
    /// Its id.
    pub(crate) id: SubjectId,
    /// Its key.
    pub(crate) key: DataKey,
}

/// A subject's key as stored.
#[derive(Clone, Debug)]
pub(crate) struct WrappedKey {
    /// The key, wrapped by the KEK.
    pub(crate) wrapped: Vec<u8>,
    /// The KEK's epoch.
    pub(crate) epoch: i64,
}

/// The keys of this deployment, in use.
pub(crate) struct Seal {
    keks: BTreeMap<u32, RandomizedNonceKey>,
    current: u32,
    index: hmac::Key,
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seal")
            .field("current", &self.current)
            .finish_non_exhaustive()
    }
}

impl Seal {
    /// Readies a keyring for use.
    pub(crate) fn new(keyring: &Keyring) -> Result<Self, StoreError> {
        let mut keks = BTreeMap::new();
        for (epoch, key) in keyring.keks() {
            let cipher = RandomizedNonceKey::new(&AES_256_GCM, key).map_err(internal)?;
            keks.insert(epoch, cipher);
        }
        let index = hmac::Key::new(hmac::HMAC_SHA256, keyring.index());
        Ok(Self {
            keks,
            current: keyring.newest(),
            index,
        })
    }

    /// A keyed hash: HMAC-SHA256 under the index key over the domain and each part with its length.
    pub(crate) fn keyed(&self, domain: &'static str, parts: &[&[u8]]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.index);
        context.update(domain.as_bytes());
        context.update(&[0]);
        for part in parts {
            context.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            context.update(part);
        }
        let mut out = [0; 32];
        let tag = context.sign();
        for (to, from) in out.iter_mut().zip(tag.as_ref()) {
            *to = *from;
        }
        out
    }

    /// Makes a new subject: an id that says no more than when, and a random key, wrapped by the newest KEK.
    pub(crate) fn new_subject(&self, at: Timestamp) -> Result<(Subject, WrappedKey), StoreError> {
        let subject = Subject {
            id: SubjectId::from_bytes(sortable_id(at)?),
            key: DataKey::generate()?,
        };
        let wrapped = self.wrap(&subject)?;
        Ok((subject, wrapped))
    }

    /// A subject's key, wrapped by the newest KEK instead of the one it was wrapped by.
    pub(crate) fn wrap_anew(
        &self,
        id: SubjectId,
        key: &WrappedKey,
    ) -> Result<WrappedKey, StoreError> {
        self.wrap(&self.subject(id, key)?)
    }

    fn wrap(&self, subject: &Subject) -> Result<WrappedKey, StoreError> {
        let kek = self.kek(i64::from(self.current))?;
        let wrapped = seal(kek, subject_place(&subject.id), subject.key.0.as_slice())?;
        Ok(WrappedKey {
            wrapped,
            epoch: i64::from(self.current),
        })
    }

    /// The newest epoch.
    pub(crate) const fn epoch(&self) -> u32 {
        self.current
    }

    /// Unwraps a subject's key.
    pub(crate) fn subject(&self, id: SubjectId, key: &WrappedKey) -> Result<Subject, StoreError> {
        let place = subject_place(&id);
        let bytes = open(self.kek(key.epoch)?, place, &key.wrapped)?;
        let key = DataKey::from_bytes(place, bytes)?;
        Ok(Subject { id, key })
    }

    fn kek(&self, epoch: i64) -> Result<&RandomizedNonceKey, StoreError> {
        u32::try_from(epoch)
            .ok()
            .and_then(|epoch| self.keks.get(&epoch))
            .ok_or_else(|| internal(KeyringError::NoEpoch(epoch)))
    }
}

/// Random bytes for ids.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], StoreError> {
    let mut out = [0; N];
    rand::fill(&mut out).map_err(internal)?;
    Ok(out)
}

/// A random id that sorts by time (UUIDv7).
pub(crate) fn sortable_id(at: Timestamp) -> Result<[u8; 16], StoreError> {
    let ms = u64::try_from(at.as_ms()).unwrap_or(0);
    Ok(
        uuid::Builder::from_unix_timestamp_millis(ms, &random::<10>()?)
            .into_uuid()
            .into_bytes(),
    )
}

fn subject_place(id: &SubjectId) -> Place<'_> {
    Place {
        table: "subject",
        row: id.as_bytes(),
        column: "wrapped_key",
    }
}

fn seal(
    cipher: &RandomizedNonceKey,
    place: Place<'_>,
    plain: &[u8],
) -> Result<Vec<u8>, StoreError> {
    let mut out = Vec::with_capacity(HEADER_BYTES + plain.len() + TAG_BYTES);
    out.push(FORMAT);
    out.extend_from_slice(&[0; NONCE_BYTES]);
    out.extend_from_slice(plain);
    let (header, body) = out.split_at_mut(HEADER_BYTES);
    let (nonce, tag) = cipher
        .seal_in_place_separate_tag(Aad::from(place.aad()), body)
        .map_err(internal)?;
    for (to, from) in header.iter_mut().skip(1).zip(nonce.as_ref()) {
        *to = *from;
    }
    out.extend_from_slice(tag.as_ref());
    Ok(out)
}

fn open(
    cipher: &RandomizedNonceKey,
    place: Place<'_>,
    sealed: &[u8],
) -> Result<Vec<u8>, StoreError> {
    let (header, body) = sealed
        .split_at_checked(HEADER_BYTES)
        .ok_or_else(|| place.corrupt())?;
    let Some((&FORMAT, nonce)) = header.split_first() else {
        return Err(place.corrupt());
    };
    let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| place.corrupt())?;
    let mut body = body.to_vec();
    let plain = cipher
        .open_in_place(nonce, Aad::from(place.aad()), &mut body)
        .map_err(|_| place.corrupt())?
        .len();
    body.truncate(plain);
    Ok(body)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn place<'a>(row: &'a [u8], column: &'static str) -> Place<'a> {
        Place {
            table: "body",
            row,
            column,
        }
    }

    fn seal() -> Seal {
        Seal::new(&Keyring::generate().unwrap()).unwrap()
    }

    proptest! {
        #[test]
        fn what_is_sealed_opens_in_its_place_alone(plain in proptest::collection::vec(any::<u8>(), 0..200), row in any::<[u8; 16]>()) {
            let key = DataKey::generate().unwrap();
            let sealed = key.seal(place(&row, "sealed"), &plain).unwrap();
            prop_assert_eq!(key.open(place(&row, "sealed"), &sealed).unwrap(), plain);
            let mut other = row;
            other[3] ^= 1;
            prop_assert!(key.open(place(&other, "sealed"), &sealed).is_err());
            prop_assert!(key.open(place(&row, "wrapped_key"), &sealed).is_err());
            prop_assert!(DataKey::generate().unwrap().open(place(&row, "sealed"), &sealed).is_err());
        }

        #[test]
        fn no_bytes_open_and_none_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let key = DataKey::generate().unwrap();
            let corrupt = matches!(key.open(place(&[7], "sealed"), &bytes), Err(StoreError::Corrupt { table: "body", column: "sealed", .. }));
            prop_assert!(corrupt);
        }
    }

    #[test]
    fn the_same_bytes_are_sealed_differently_each_time() {
        let key = DataKey::generate().unwrap();
        let once = key.seal(place(&[1], "sealed"), b"x").unwrap();
        assert_ne!(once, key.seal(place(&[1], "sealed"), b"x").unwrap());
    }

    #[test]
    fn a_subject_opens_under_its_own_id_and_epoch_alone() {
        let seal = seal();
        let (subject, wrapped) = seal.new_subject(Timestamp::from_ms(1)).unwrap();
        let again = seal.subject(subject.id, &wrapped).unwrap();
        assert_eq!(again.key.0, subject.key.0);
        let (other, _) = seal.new_subject(Timestamp::from_ms(1)).unwrap();
        assert!(seal.subject(other.id, &wrapped).is_err());
        let later = WrappedKey {
            epoch: wrapped.epoch + 1,
            ..wrapped
        };
        assert!(matches!(
            seal.subject(subject.id, &later),
            Err(StoreError::Internal(_))
        ));
    }

    #[test]
    fn keyed_hashes_tell_domains_parts_and_keyrings_apart() {
        let seal = seal();
        let hash = seal.keyed("a", &[b"xy", b"z"]);
        assert_eq!(hash, seal.keyed("a", &[b"xy", b"z"]));
        assert_ne!(hash, seal.keyed("a", &[b"x", b"yz"]));
        assert_ne!(hash, seal.keyed("b", &[b"xy", b"z"]));
        assert_ne!(hash, self::seal().keyed("a", &[b"xy", b"z"]));
    }

    #[test]
    fn debug_shows_no_key() {
        let key = DataKey::generate().unwrap();
        assert_eq!(format!("{key:?}"), "DataKey([secret])");
        assert_eq!(format!("{:?}", seal()), "Seal { current: 1, .. }");
    }
}
