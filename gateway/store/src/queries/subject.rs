//! Subjects and bodies: the rows that keys hang on.

use waymark_core::id::{BodyId, EventId, ReferralId, SubjectId};
use waymark_core::personal::Payload;
use waymark_core::port::{NewBody, StoreError, SubjectKey};

use super::insert::{Connection, insert};
use super::row::{Fields, Row};
use super::write::{Write, opening_place, opening_row};
use crate::error::{internal, sql};
use crate::seal::{DataKey, Place, Seal, Subject, WrappedKey};

/// Bytes of a body above which it is sealed and opened on a thread of its own.
const INLINE_BYTES_MAX: usize = 128 * 1024;

/// The kind and keyed hash that a subject is found by; `None` for one that nothing may match.
pub(super) fn subject_hash(seal: &Seal, key: &SubjectKey) -> Option<(&'static str, [u8; 32])> {
    match key {
        SubjectKey::NhsNumber(number) => Some((
            "nhs",
            seal.keyed("subject_key.nhs", &[number.expose().as_bytes()]),
        )),
        SubjectKey::UpnAndBirth(text) => Some((
            "upn",
            seal.keyed("subject_key.upn", &[text.expose().as_bytes()]),
        )),
        SubjectKey::New => None,
    }
}

const SUBJECT: (&str, &str) = (
    "INSERT INTO subject (id, wrapped_key, kek_epoch, created_ms)",
    "",
);
const LOAD_SUBJECT: &str = "SELECT id, wrapped_key, kek_epoch FROM subject WHERE id = $1";

/// Stores new subjects.
pub(super) async fn insert_subjects(
    w: &mut Write,
    subjects: &[(SubjectId, WrappedKey, i64)],
) -> Result<(), StoreError> {
    insert(w.conn(), SUBJECT, subjects, |row, (id, key, at_ms)| {
        row.push_bind(id.as_bytes().as_slice())
            .push_bind(key.wrapped.as_slice())
            .push_bind(key.epoch)
            .push_bind(*at_ms);
    })
    .await?;
    Ok(())
}

/// A subject with its key; `None` once it was erased.
pub(super) async fn load_subject(
    conn: &mut Connection,
    seal: &Seal,
    id: SubjectId,
) -> Result<Option<Subject>, StoreError> {
    let row = sqlx::query(LOAD_SUBJECT)
        .bind(id.as_bytes().as_slice())
        .fetch_optional(conn)
        .await
        .map_err(sql)?;
    row.map(|row| read_subject(seal, &row)).transpose()
}

/// Reads a row of `subject`.
pub(super) fn read_subject(seal: &Seal, row: &Row) -> Result<Subject, StoreError> {
    let (id, key) = wrapped_key(row)?;
    seal.subject(id, &key)
}

/// The key that a row of `subject` holds.
pub(super) fn wrapped_key(row: &Row) -> Result<(SubjectId, WrappedKey), StoreError> {
    let row = Fields::new(row, "subject", "id");
    let key = WrappedKey {
        wrapped: row.bytes("wrapped_key")?,
        epoch: row.int("kek_epoch")?,
    };
    Ok((row.id("id", SubjectId::from_bytes)?, key))
}

/// A body sealed under a data key that is not wrapped yet: the costly part, done before any transaction.
#[derive(Debug)]
pub(super) struct SealedBody {
    /// Its id.
    pub(super) id: BodyId,
    media_type: String,
    key: DataKey,
    sealed: Vec<u8>,
}

/// Seals a body.
pub(super) async fn seal_body(body: NewBody) -> Result<SealedBody, StoreError> {
    on_thread_if_large(body.bytes.expose().len(), move || {
        let key = DataKey::generate()?;
        let sealed = key.seal(sealed_place(&body.id), body.bytes.expose())?;
        Ok(SealedBody {
            id: body.id,
            media_type: body.media_type,
            key,
            sealed,
        })
    })
    .await
}

/// Seals bodies.
pub(super) async fn seal_bodies(bodies: Vec<NewBody>) -> Result<Vec<SealedBody>, StoreError> {
    let mut sealed = Vec::with_capacity(bodies.len());
    for body in bodies {
        sealed.push(seal_body(body).await?);
    }
    Ok(sealed)
}

async fn on_thread_if_large<T: Send + 'static>(
    bytes: usize,
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    if bytes <= INLINE_BYTES_MAX {
        return work();
    }
    tokio::task::spawn_blocking(work).await.map_err(internal)?
}

const BODY: (&str, &str) = (
    "INSERT INTO body (id, subject_id, referral_id, media_type, wrapped_key, sealed)",
    "",
);

/// A body with its data key wrapped, ready to store.
pub(super) struct BodyRow<'a> {
    body: &'a SealedBody,
    subject: SubjectId,
    referral: Option<ReferralId>,
    wrapped: Vec<u8>,
}

impl<'a> BodyRow<'a> {
    /// Wraps a body's data key under its subject's.
    pub(super) fn new(
        body: &'a SealedBody,
        subject: &Subject,
        referral: Option<ReferralId>,
    ) -> Result<Self, StoreError> {
        let wrapped = subject.key.wrap(wrapped_place(&body.id), &body.key)?;
        Ok(Self {
            body,
            subject: subject.id,
            referral,
            wrapped,
        })
    }
}

/// Stores bodies.
pub(super) async fn insert_bodies(w: &mut Write, rows: &[BodyRow<'_>]) -> Result<(), StoreError> {
    insert(w.conn(), BODY, rows, |row, b| {
        row.push_bind(b.body.id.as_bytes().as_slice())
            .push_bind(b.subject.as_bytes().as_slice())
            .push_bind(b.referral.as_ref().map(|id| id.as_bytes().as_slice()))
            .push_bind(b.body.media_type.as_str())
            .push_bind(b.wrapped.as_slice())
            .push_bind(b.body.sealed.as_slice());
    })
    .await?;
    Ok(())
}

/// Stores the bodies of one referral.
pub(super) async fn store_bodies(
    w: &mut Write,
    subject: &Subject,
    referral: ReferralId,
    bodies: &[SealedBody],
) -> Result<(), StoreError> {
    let rows: Vec<BodyRow<'_>> = bodies
        .iter()
        .map(|body| BodyRow::new(body, subject, Some(referral)))
        .collect::<Result<_, _>>()?;
    insert_bodies(w, &rows).await
}

/// A body, opened.
pub(super) struct OpenedBody {
    /// Media type.
    pub(super) media_type: String,
    /// Its bytes.
    pub(super) bytes: Payload,
}

const OPEN_BODY: &str = "SELECT b.id AS body_id, b.media_type, b.wrapped_key AS body_key, b.sealed, \
     s.id, s.wrapped_key, s.kek_epoch FROM body b JOIN subject s ON s.id = b.subject_id WHERE b.id = $1";

/// Opens a body; `None` when it is not there or its keys were destroyed.
pub(super) async fn open_body(
    conn: &mut Connection,
    seal: &Seal,
    id: BodyId,
) -> Result<Option<OpenedBody>, StoreError> {
    let row = sqlx::query(OPEN_BODY)
        .bind(id.as_bytes().as_slice())
        .fetch_optional(conn)
        .await
        .map_err(sql)?;
    let Some(row) = row else { return Ok(None) };
    let subject = read_subject(seal, &row)?;
    let fields = Fields::new(&row, "body", "body_id");
    let key = subject
        .key
        .unwrap(wrapped_place(&id), &fields.bytes("body_key")?)?;
    let sealed = fields.bytes("sealed")?;
    let bytes =
        on_thread_if_large(sealed.len(), move || key.open(sealed_place(&id), &sealed)).await?;
    Ok(Some(OpenedBody {
        media_type: fields.text("media_type")?,
        bytes: Payload::new(bytes),
    }))
}

fn sealed_place(id: &BodyId) -> Place<'_> {
    Place {
        table: "body",
        row: id.as_bytes(),
        column: "sealed",
    }
}

/// Where a body's wrapped data key lives.
pub(super) fn wrapped_place(id: &BodyId) -> Place<'_> {
    Place {
        table: "body",
        row: id.as_bytes(),
        column: "wrapped_key",
    }
}

const SALTS: &str =
    "SELECT event_id, tag, sealed FROM log_opening WHERE event_id = $1 ORDER BY tag LIMIT 64";
const RESEAL: &str =
    "UPDATE log_opening SET subject_id = $3, sealed = $4 WHERE event_id = $1 AND tag = $2";

/// Seals an entry's salts anew, under another subject.
pub(super) async fn reseal_openings(
    w: &mut Write,
    event: EventId,
    from: &Subject,
    to: &Subject,
) -> Result<(), StoreError> {
    let rows = sqlx::query(SALTS)
        .bind(event.as_bytes().as_slice())
        .fetch_all(w.conn())
        .await
        .map_err(sql)?;
    for row in &rows {
        let row = Fields::new(row, "log_opening", "event_id");
        let tag: i64 = row.int("tag")?;
        let key = opening_row(event, tag);
        let salt = from.key.open(opening_place(&key), &row.bytes("sealed")?)?;
        sqlx::query(RESEAL)
            .bind(event.as_bytes().as_slice())
            .bind(tag)
            .bind(to.id.as_bytes().as_slice())
            .bind(to.key.seal(opening_place(&key), &salt)?)
            .execute(w.conn())
            .await
            .map_err(sql)?;
    }
    Ok(())
}
