//! Documents, which wait under a subject of their own until a referral takes them along, and the reading of bodies.

use waymark_core::audit::EntryDraft;
use waymark_core::id::{AgencyId, BodyId, DocumentId, EventId, ReferralId, StreamId, SubjectId};
use waymark_core::personal::{Payload, Personal};
use waymark_core::port::{
    ConflictKey, DocumentView, NewDocument, ReferralChange, StoreError, Uploaded,
};
use waymark_core::time::Timestamp;

use super::change::READ_MESSAGE;
use super::keys::POINT_MESSAGE;
use super::row::{Fields, Row};
use super::subject::{
    BodyRow, insert_bodies, insert_subjects, load_subject, open_body, reseal_openings, seal_body,
    wrapped_place,
};
use super::write::{Write, append_entry};
use super::{Backend, keys};
use crate::error::{Fault, internal, sql, unavailable};
use crate::seal::{Place, Seal, Subject};

/// Untaken documents answered, at most.
pub(super) const UNTAKEN_MAX: u32 = 100;

/// Reads a body. The entry that says so is committed before the body is opened (ruling 18).
pub(super) async fn read_body(
    store: &Backend,
    body: BodyId,
    entry: EntryDraft,
) -> Result<Option<Payload>, StoreError> {
    let mut w = store.begin().await?;
    let there = sqlx::query("SELECT id FROM body WHERE id = $1")
        .bind(body.as_bytes().as_slice())
        .fetch_optional(w.conn())
        .await
        .map_err(sql)?;
    if there.is_none() {
        return Ok(None);
    }
    append_entry(&mut w, entry, &[], None).await?;
    w.commit().await?;
    let mut conn = store.read().await?;
    Ok(open_body(&mut conn, store.seal(), body)
        .await?
        .map(|opened| opened.bytes))
}

const PUT: &str = "INSERT INTO document (id, sender, referral_id, body_id, media_type, sealed_sha256, size_bytes, \
     stream_id, event_id, created_ms) VALUES ($1, $2, NULL, $3, $4, $5, $6, $7, $8, $9)";

/// Keeps a document. The same upload again, after an answer was lost, is the document kept before.
pub(super) async fn put(store: &Backend, document: NewDocument) -> Result<Uploaded, StoreError> {
    let NewDocument {
        id,
        sender,
        message_key,
        body,
        sha256,
        at,
        entry,
        openings,
    } = document;
    store.has_room()?;
    let size = i64::try_from(body.bytes.expose().len()).map_err(internal)?;
    let media_type = body.media_type.clone();
    let body = seal_body(body).await?;
    let (subject, wrapped) = store.seal().new_subject(at)?;
    let sealed = subject
        .key
        .seal(sha256_place(&id), sha256.expose().as_bytes())?;
    let (hash, content) = keys::message(store.seal(), &message_key);
    let mut w = store.begin().await?;
    if let Some(earlier) = claim(&mut w, (&hash, &content), (id, entry.event), at).await? {
        return Ok(Uploaded {
            id: earlier,
            repeated: true,
        });
    }
    sqlx::query(PUT)
        .bind(id.as_bytes().as_slice())
        .bind(sender.as_str())
        .bind(body.id.as_bytes().as_slice())
        .bind(media_type)
        .bind(sealed)
        .bind(size)
        .bind(entry.stream.as_bytes().as_slice())
        .bind(entry.event.as_bytes().as_slice())
        .bind(at.as_ms())
        .execute(w.conn())
        .await
        .map_err(sql)?;
    let body = BodyRow::new(&body, &subject, None)?;
    append_entry(&mut w, entry, &openings, Some(&subject)).await?;
    insert_subjects(&mut w, &[(subject.id, wrapped, at.as_ms())]).await?;
    insert_bodies(&mut w, &[body]).await?;
    w.commit().await?;
    Ok(Uploaded {
        id,
        repeated: false,
    })
}

/// Claims the key of an upload, whose row names the document in place of a referral; answers the document that the same
/// upload made before.
async fn claim(
    w: &mut Write,
    (hash, content): (&[u8; 32], &[u8; 32]),
    (id, event): (DocumentId, EventId),
    at: Timestamp,
) -> Result<Option<DocumentId>, StoreError> {
    if keys::claim_message(w, (hash, content), (id.as_bytes(), event), at).await? {
        return Ok(None);
    }
    let row = sqlx::query(READ_MESSAGE)
        .bind(hash.as_slice())
        .fetch_optional(w.conn())
        .await
        .map_err(sql)?;
    let row = row.ok_or_else(|| unavailable(Fault::Missing("a message key")))?;
    let row = Fields::new(&row, "message_key", "hash");
    let earlier = row.id("referral_id", DocumentId::from_bytes)?;
    if row.fixed::<32>("content_hash")? == *content {
        let there = sqlx::query(LOCK)
            .bind(earlier.as_bytes().as_slice())
            .fetch_optional(w.conn())
            .await
            .map_err(sql)?;
        if there.is_some() {
            return Ok(Some(earlier));
        }
        // It was forgotten, as nobody took it: it is kept anew.
        sqlx::query(POINT_MESSAGE)
            .bind(hash.as_slice())
            .bind(id.as_bytes().as_slice())
            .bind(event.as_bytes().as_slice())
            .execute(w.conn())
            .await
            .map_err(sql)?;
        Ok(None)
    } else {
        Err(StoreError::Conflict {
            key: ConflictKey::Message,
            existing: ReferralId::from_bytes(*earlier.as_bytes()),
        })
    }
}

const UNTAKEN: &str = "SELECT id, stream_id FROM document WHERE referral_id IS NULL AND created_ms < $1 \
     ORDER BY created_ms LIMIT $2";
const FORGET: &str = "DELETE FROM document WHERE id = $1 AND referral_id IS NULL";
const FORGET_BODY: &str = "DELETE FROM body WHERE id = $1";
const FORGET_SALTS: &str = "DELETE FROM log_opening WHERE event_id = $1";

/// Documents that no referral took and that were uploaded before a time, oldest first.
pub(super) async fn untaken(
    store: &Backend,
    before: Timestamp,
    limit: u32,
) -> Result<Vec<(DocumentId, StreamId)>, StoreError> {
    let rows = sqlx::query(UNTAKEN)
        .bind(before.as_ms())
        .bind(i64::from(limit.min(UNTAKEN_MAX)))
        .fetch_all(&mut *store.read().await?)
        .await
        .map_err(sql)?;
    rows.iter()
        .map(|row| {
            let row = Fields::new(row, "document", "id");
            Ok((
                row.id("id", DocumentId::from_bytes)?,
                row.id("stream_id", StreamId::from_bytes)?,
            ))
        })
        .collect()
}

/// Destroys a document that no referral took: its bytes, its keys and the salt of its commitment. Answers `false` where a
/// referral took it meanwhile.
pub(super) async fn forget(
    store: &Backend,
    id: DocumentId,
    entry: EntryDraft,
) -> Result<bool, StoreError> {
    let mut w = store.begin().await?;
    let row = sqlx::query(LOCK)
        .bind(id.as_bytes().as_slice())
        .fetch_optional(w.conn())
        .await
        .map_err(sql)?;
    let free = match &row {
        Some(row) => Fields::new(row, "document", "id").is_null("referral_id")?,
        None => false,
    };
    if !free {
        return Ok(false);
    }
    let (row, subject) = held(&mut w, store.seal(), id).await?;
    let row = Fields::new(&row, "document", "id");
    let body = row.id("body_id", BodyId::from_bytes)?;
    let uploaded = row.id("event_id", EventId::from_bytes)?;
    for (statement, key) in [
        (FORGET, id.as_bytes().as_slice()),
        (FORGET_BODY, body.as_bytes().as_slice()),
        (FORGET_SALTS, uploaded.as_bytes().as_slice()),
        (END_SUBJECT, subject.id.as_bytes().as_slice()),
    ] {
        sqlx::query(statement)
            .bind(key)
            .execute(w.conn())
            .await
            .map_err(sql)?;
    }
    append_entry(&mut w, entry, &[], None).await?;
    w.commit().await?;
    Ok(true)
}

const DESCRIBE: &str = "SELECT d.id, d.sender, d.referral_id, d.body_id, d.media_type, d.sealed_sha256, d.size_bytes, \
     d.stream_id, b.subject_id FROM document d JOIN body b ON b.id = d.body_id WHERE d.id = $1";

/// A document's description; `None` once its keys were destroyed.
pub(super) async fn describe(
    store: &Backend,
    id: DocumentId,
) -> Result<Option<DocumentView>, StoreError> {
    let mut conn = store.read().await?;
    let row = sqlx::query(DESCRIBE)
        .bind(id.as_bytes().as_slice())
        .fetch_optional(&mut *conn)
        .await
        .map_err(sql)?;
    let Some(row) = row else { return Ok(None) };
    let row = Fields::new(&row, "document", "id");
    let subject = row.id("subject_id", SubjectId::from_bytes)?;
    let Some(subject) = load_subject(&mut conn, store.seal(), subject).await? else {
        return Ok(None);
    };
    Ok(Some(DocumentView {
        id,
        sender: row.code("sender")?,
        referral: row.opt_id("referral_id", ReferralId::from_bytes)?,
        body: row.id("body_id", BodyId::from_bytes)?,
        media_type: row.text("media_type")?,
        sha256: sha256(&row, id, &subject)?,
        size_bytes: row.int("size_bytes")?,
        stream: row.id("stream_id", StreamId::from_bytes)?,
    }))
}

/// The bytes of a document of one referral.
pub(super) async fn of_referral(
    store: &Backend,
    referral: ReferralId,
    id: DocumentId,
) -> Result<Option<Payload>, StoreError> {
    let Some(document) = describe(store, id).await? else {
        return Ok(None);
    };
    if document.referral != Some(referral) {
        return Ok(None);
    }
    let mut conn = store.read().await?;
    let opened = open_body(&mut conn, store.seal(), document.body).await?;
    Ok(opened.map(|opened| opened.bytes))
}

fn sha256_place(id: &DocumentId) -> Place<'_> {
    Place {
        table: "document",
        row: id.as_bytes(),
        column: "sealed_sha256",
    }
}

fn sha256(
    row: &Fields<'_>,
    id: DocumentId,
    subject: &Subject,
) -> Result<Personal<String>, StoreError> {
    let bytes = subject
        .key
        .open(sha256_place(&id), &row.bytes("sealed_sha256")?)?;
    String::from_utf8(bytes)
        .map(Personal::new)
        .map_err(|_| row.corrupt("sealed_sha256"))
}

const LOCK: &str = locked!("SELECT id, sender, referral_id FROM document WHERE id = $1");
const HELD: &str = "SELECT d.id, d.body_id, d.sealed_sha256, d.event_id, b.subject_id, b.wrapped_key \
     FROM document d JOIN body b ON b.id = d.body_id WHERE d.id = $1";

/// Whether a document is the sender's, free, and has this digest. Holds its row.
pub(super) async fn is_held(
    w: &mut Write,
    seal: &Seal,
    (id, digest): (DocumentId, &str),
    sender: &AgencyId,
) -> Result<bool, StoreError> {
    let row = sqlx::query(LOCK)
        .bind(id.as_bytes().as_slice())
        .fetch_optional(w.conn())
        .await
        .map_err(sql)?;
    let Some(row) = row else { return Ok(false) };
    let row = Fields::new(&row, "document", "id");
    if !row.is_null("referral_id")? || row.code::<AgencyId>("sender")? != *sender {
        return Ok(false);
    }
    let (row, subject) = held(w, seal, id).await?;
    let row = Fields::new(&row, "document", "id");
    Ok(sha256(&row, id, &subject)?.expose() == digest)
}

const REFERRAL_OF: &str = "SELECT id, referral_id FROM document WHERE id = $1";

/// Gives the documents of changed content to its referral, those that it has already aside.
pub(super) async fn take_along(
    w: &mut Write,
    seal: &Seal,
    change: &ReferralChange,
    subject: &Subject,
) -> Result<(), StoreError> {
    for (id, digest) in &change.documents {
        let row = sqlx::query(REFERRAL_OF)
            .bind(id.as_bytes().as_slice())
            .fetch_optional(w.conn())
            .await
            .map_err(sql)?;
        let row = row.ok_or(StoreError::Document(*id))?;
        let of =
            Fields::new(&row, "document", "id").opt_id("referral_id", ReferralId::from_bytes)?;
        if of == Some(change.referral) {
            let (row, subject) = held(w, seal, *id).await?;
            let row = Fields::new(&row, "document", "id");
            if sha256(&row, *id, &subject)?.expose() != digest {
                return Err(StoreError::Document(*id));
            }
        } else if is_held(w, seal, (*id, digest), &change.event.source).await? {
            attach(w, seal, *id, change.referral, subject).await?;
        } else {
            return Err(StoreError::Document(*id));
        }
    }
    Ok(())
}

async fn held(w: &mut Write, seal: &Seal, id: DocumentId) -> Result<(Row, Subject), StoreError> {
    let missing = || internal(Fault::Missing("a document's body or key"));
    let row = sqlx::query(HELD)
        .bind(id.as_bytes().as_slice())
        .fetch_optional(w.conn())
        .await
        .map_err(sql)?
        .ok_or_else(missing)?;
    let subject = Fields::new(&row, "document", "id").id("subject_id", SubjectId::from_bytes)?;
    let subject = load_subject(w.conn(), seal, subject)
        .await?
        .ok_or_else(missing)?;
    Ok((row, subject))
}

const MOVE_BODY: &str =
    "UPDATE body SET subject_id = $2, referral_id = $3, wrapped_key = $4 WHERE id = $1";
const ATTACH: &str = "UPDATE document SET referral_id = $2, sealed_sha256 = $3 WHERE id = $1";
const END_SUBJECT: &str = "DELETE FROM subject WHERE id = $1";

/// Gives a document that [`is_held`] to a referral: its keys now hang on the referral's subject, and the subject that
/// it had of its own ends. The body itself is not sealed anew.
pub(super) async fn attach(
    w: &mut Write,
    seal: &Seal,
    id: DocumentId,
    referral: ReferralId,
    subject: &Subject,
) -> Result<(), StoreError> {
    let (row, own) = held(w, seal, id).await?;
    let row = Fields::new(&row, "document", "id");
    let body = row.id("body_id", BodyId::from_bytes)?;
    let key = own
        .key
        .unwrap(wrapped_place(&body), &row.bytes("wrapped_key")?)?;
    let wrapped = subject.key.wrap(wrapped_place(&body), &key)?;
    let digest = sha256(&row, id, &own)?;
    let sealed = subject
        .key
        .seal(sha256_place(&id), digest.expose().as_bytes())?;
    sqlx::query(MOVE_BODY)
        .bind(body.as_bytes().as_slice())
        .bind(subject.id.as_bytes().as_slice())
        .bind(referral.as_bytes().as_slice())
        .bind(wrapped)
        .execute(w.conn())
        .await
        .map_err(sql)?;
    sqlx::query(ATTACH)
        .bind(id.as_bytes().as_slice())
        .bind(referral.as_bytes().as_slice())
        .bind(sealed)
        .execute(w.conn())
        .await
        .map_err(sql)?;
    reseal_openings(w, row.id("event_id", EventId::from_bytes)?, &own, subject).await?;
    sqlx::query(END_SUBJECT)
        .bind(own.id.as_bytes().as_slice())
        .execute(w.conn())
        .await
        .map_err(sql)?;
    Ok(())
}
