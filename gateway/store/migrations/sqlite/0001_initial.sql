-- Portable types: whole numbers are 64-bit, times are milliseconds UTC, ids and digests are bytes, enums are text.
-- Rows lie under their own key (WITHOUT ROWID) unless they are long: one tree to write where a table with an index would
-- be two. Ids begin with their time, so that what is new is written to few pages; keyed hashes alone lie at random.

-- Facts of this deployment, written once.
CREATE TABLE meta (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT;

-- One child as the store knows it, under an id that sorts by time of making; its key is wrapped by the key-encryption key of an epoch.
CREATE TABLE subject (
    id BLOB PRIMARY KEY,
    wrapped_key BLOB NOT NULL,
    kek_epoch INTEGER NOT NULL,
    created_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Keyed hashes that a subject is found by.
CREATE TABLE subject_key (
    kind TEXT NOT NULL,
    hash BLOB NOT NULL,
    subject_id BLOB NOT NULL,
    PRIMARY KEY (kind, hash)
) STRICT, WITHOUT ROWID;

-- Sealed bytes, each under a data key of its own, wrapped by the subject key.
CREATE TABLE body (
    id BLOB NOT NULL,
    subject_id BLOB NOT NULL,
    referral_id BLOB,
    media_type TEXT NOT NULL,
    wrapped_key BLOB NOT NULL,
    sealed BLOB NOT NULL,
    PRIMARY KEY (id)
) STRICT;

-- What makes a message the same message; client retries are decided here alone.
CREATE TABLE message_key (
    hash BLOB PRIMARY KEY,
    content_hash BLOB NOT NULL,
    referral_id BLOB NOT NULL,
    event_id BLOB NOT NULL,
    created_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX message_key_created ON message_key (created_ms);

-- References of ours, each of one referral. They sort by time, so that new ones lie together.
CREATE TABLE reference (
    reference TEXT PRIMARY KEY,
    referral_id BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- References of others that a referral is found by: the sender's, the receiver's; keyed hashes.
CREATE TABLE referral_key (
    kind TEXT NOT NULL,
    hash BLOB NOT NULL,
    content_hash BLOB,
    referral_id BLOB NOT NULL,
    PRIMARY KEY (kind, hash)
) STRICT, WITHOUT ROWID;

-- One row a referral.
CREATE TABLE referral (
    id BLOB NOT NULL,
    reference TEXT NOT NULL,
    sender TEXT NOT NULL,
    subject_id BLOB NOT NULL,
    stream_id BLOB NOT NULL,
    event_id BLOB NOT NULL,
    version INTEGER NOT NULL,
    content_body BLOB NOT NULL,
    original_body BLOB,
    pathway TEXT NOT NULL,
    priority TEXT NOT NULL,
    safeguarding INTEGER NOT NULL,
    consent_withdrawn INTEGER NOT NULL,
    release_number INTEGER NOT NULL,
    accepted_ms INTEGER NOT NULL,
    leg_count INTEGER NOT NULL,
    delivery_count INTEGER NOT NULL,
    traceparent TEXT,
    PRIMARY KEY (id)
) STRICT, WITHOUT ROWID;
CREATE INDEX referral_sender ON referral (sender, id);
CREATE INDEX referral_subject ON referral (subject_id, id);

-- Where each stream of the log stands.
CREATE TABLE log_stream (
    stream_id BLOB PRIMARY KEY,
    next_seq INTEGER NOT NULL,
    prev_leaf BLOB
) STRICT, WITHOUT ROWID;

-- One row a destination service, under the event that opened it.
CREATE TABLE leg (
    id BLOB NOT NULL,
    referral_id BLOB NOT NULL,
    event_id BLOB NOT NULL,
    position INTEGER NOT NULL,
    service TEXT NOT NULL,
    agency TEXT NOT NULL,
    rule TEXT,
    triage TEXT,
    owner_agency TEXT NOT NULL,
    owner_role TEXT NOT NULL,
    state TEXT NOT NULL,
    clock TEXT,
    clock_started_ms INTEGER NOT NULL,
    next_action TEXT,
    first_clock TEXT NOT NULL,
    first_next_action TEXT NOT NULL,
    PRIMARY KEY (referral_id, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX leg_agency ON leg (agency, referral_id);

-- One row a message for an endpoint.
CREATE TABLE delivery (
    id BLOB NOT NULL,
    referral_id BLOB NOT NULL,
    leg_id BLOB,
    kind TEXT NOT NULL,
    endpoint_id TEXT NOT NULL,
    recipient TEXT NOT NULL,
    service TEXT,
    subject_id BLOB NOT NULL,
    wire_id TEXT NOT NULL,
    version INTEGER NOT NULL,
    content_body BLOB,
    note_body BLOB,
    rendered_body BLOB,
    state TEXT NOT NULL,
    evidence TEXT NOT NULL,
    parked TEXT,
    attempts INTEGER NOT NULL,
    failures INTEGER NOT NULL,
    soft_rejects INTEGER NOT NULL,
    unfinished INTEGER NOT NULL,
    due_ms INTEGER NOT NULL,
    deadline_ms INTEGER NOT NULL,
    evidence_due_ms INTEGER,
    urgent INTEGER NOT NULL,
    followed INTEGER NOT NULL,
    lane_seq INTEGER NOT NULL,
    queued_ms INTEGER NOT NULL,
    replaces BLOB,
    receiver_reference TEXT,
    traceparent TEXT,
    PRIMARY KEY (id)
) STRICT, WITHOUT ROWID;
CREATE INDEX delivery_referral ON delivery (referral_id, id);
CREATE INDEX delivery_lane ON delivery (endpoint_id, subject_id, lane_seq) WHERE state IN ('queued', 'attempting', 'retry_wait', 'unknown', 'held', 'awaiting_evidence');
CREATE INDEX delivery_state ON delivery (state, id);
CREATE INDEX delivery_endpoint ON delivery (endpoint_id, id);
CREATE INDEX delivery_news ON delivery (endpoint_id, id) WHERE state = 'awaiting_evidence' OR (state = 'done' AND followed = 1);
CREATE INDEX delivery_evidence ON delivery (state, evidence_due_ms) WHERE state = 'awaiting_evidence';
CREATE INDEX delivery_urgent ON delivery (state, urgent, id) WHERE state = 'queued' AND urgent = 1;

-- Wire ids, unique in the deployment.
CREATE TABLE wire (
    wire_id TEXT PRIMARY KEY,
    delivery_id BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- One row for each (endpoint, subject) with live deliveries: the unit that is scheduled and leased. A leased lane is due at its lease's end.
CREATE TABLE lane (
    endpoint_id TEXT NOT NULL,
    subject_id BLOB NOT NULL,
    head_id BLOB NOT NULL,
    class INTEGER NOT NULL,
    due_ms INTEGER,
    queued_ms INTEGER NOT NULL,
    last_seq INTEGER NOT NULL,
    fence INTEGER NOT NULL,
    worker BLOB,
    PRIMARY KEY (endpoint_id, subject_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX lane_due ON lane (class, endpoint_id, due_ms) WHERE due_ms IS NOT NULL;
CREATE INDEX lane_queued ON lane (endpoint_id, queued_ms);

-- Attempts of a delivery.
CREATE TABLE attempt (
    delivery_id BLOB NOT NULL,
    number INTEGER NOT NULL,
    opened_ms INTEGER NOT NULL,
    closed_ms INTEGER,
    outcome TEXT,
    why_code TEXT,
    why_text TEXT,
    fault TEXT,
    evidence TEXT,
    receipt_body BLOB,
    PRIMARY KEY (delivery_id, number)
) STRICT, WITHOUT ROWID;

-- What the parties are shown, under the id of its log entry.
CREATE TABLE event (
    id BLOB NOT NULL,
    referral_id BLOB NOT NULL,
    leg_id BLOB,
    delivery_id BLOB,
    at_ms INTEGER NOT NULL,
    kind TEXT NOT NULL,
    source TEXT NOT NULL,
    source_version INTEGER,
    state TEXT,
    reception TEXT,
    code TEXT NOT NULL,
    text_body BLOB,
    delivery_state TEXT,
    evidence TEXT,
    PRIMARY KEY (id)
) STRICT, WITHOUT ROWID;
CREATE INDEX event_referral ON event (referral_id, id);

-- Versions of a source seen for a leg.
CREATE TABLE status_key (
    leg_id BLOB NOT NULL,
    source TEXT NOT NULL,
    version INTEGER NOT NULL,
    PRIMARY KEY (leg_id, source, version)
) STRICT, WITHOUT ROWID;

-- Uploaded documents.
CREATE TABLE document (
    id BLOB PRIMARY KEY,
    sender TEXT NOT NULL,
    referral_id BLOB,
    body_id BLOB NOT NULL,
    media_type TEXT NOT NULL,
    sealed_sha256 BLOB NOT NULL,
    size_bytes INTEGER NOT NULL,
    stream_id BLOB NOT NULL,
    event_id BLOB NOT NULL,
    created_ms INTEGER NOT NULL
) STRICT;
CREATE INDEX document_untaken ON document (created_ms) WHERE referral_id IS NULL;

-- Alarms; at most one open for (kind, subject).
CREATE TABLE alarm (
    id BLOB PRIMARY KEY,
    kind TEXT NOT NULL,
    subject TEXT NOT NULL,
    owner TEXT NOT NULL,
    role TEXT NOT NULL,
    text TEXT NOT NULL,
    opened_ms INTEGER NOT NULL,
    resolved_ms INTEGER
) STRICT;
CREATE UNIQUE INDEX alarm_open ON alarm (kind, subject) WHERE resolved_ms IS NULL;
CREATE INDEX alarm_opened ON alarm (opened_ms);

-- Counters kept by every transition, in shards.
CREATE TABLE counter (
    name TEXT NOT NULL,
    shard INTEGER NOT NULL,
    value INTEGER NOT NULL,
    PRIMARY KEY (name, shard)
) STRICT, WITHOUT ROWID;

-- Releases of the directory.
CREATE TABLE directory_release (
    number INTEGER PRIMARY KEY,
    bundle TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    applied_by TEXT NOT NULL,
    note TEXT NOT NULL,
    event_id BLOB NOT NULL
) STRICT;

-- Log entries that wait for the sequencer.
CREATE TABLE log_outbox (
    id INTEGER PRIMARY KEY,
    event_id BLOB NOT NULL UNIQUE,
    kind INTEGER NOT NULL,
    at_ms INTEGER NOT NULL,
    entry BLOB NOT NULL
) STRICT;

-- Log entries, verbatim.
CREATE TABLE log_entry (
    idx INTEGER NOT NULL,
    event_id BLOB NOT NULL,
    entry BLOB NOT NULL,
    leaf BLOB NOT NULL,
    PRIMARY KEY (idx)
) STRICT;

-- Where an event stands in the log.
CREATE TABLE log_event (
    event_id BLOB PRIMARY KEY,
    idx INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Tiles of the tree; only the rightmost of a level changes.
CREATE TABLE log_tile (
    level INTEGER NOT NULL,
    n INTEGER NOT NULL,
    data BLOB NOT NULL,
    PRIMARY KEY (level, n)
) STRICT;

-- The head of the log: one row.
CREATE TABLE log_state (
    id INTEGER PRIMARY KEY,
    size INTEGER NOT NULL,
    root BLOB NOT NULL,
    accepted INTEGER NOT NULL
) STRICT;

-- Signed checkpoints.
CREATE TABLE log_checkpoint (
    size INTEGER PRIMARY KEY,
    note TEXT NOT NULL,
    at_ms INTEGER NOT NULL
) STRICT;

-- Salts of commitments, sealed; erasable.
CREATE TABLE log_opening (
    event_id BLOB NOT NULL,
    tag INTEGER NOT NULL,
    subject_id BLOB,
    sealed BLOB NOT NULL,
    PRIMARY KEY (event_id, tag)
) STRICT, WITHOUT ROWID;

-- The empty log: the root of no entries is SHA-256 of nothing.
INSERT INTO log_state (id, size, root, accepted) VALUES (1, 0, X'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855', 0);
