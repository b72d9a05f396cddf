-- Portable types: whole numbers are 64-bit, times are milliseconds UTC, ids and digests are bytes, enums are text.
-- Tables that grow are partitioned by time: the first six bytes of a UUIDv7 are its time, so ranges of ids are
-- ranges of time. The gateway makes partitions ahead; a row in a default partition means that it did not.

-- Facts of this deployment, written once.
CREATE TABLE meta (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL
);

-- One child as the store knows it, under an id that sorts by time of making; its key is wrapped by the key-encryption key of an epoch.
CREATE TABLE subject (
    id BYTEA PRIMARY KEY,
    wrapped_key BYTEA NOT NULL,
    kek_epoch BIGINT NOT NULL,
    created_ms BIGINT NOT NULL
);

-- Keyed hashes that a subject is found by.
CREATE TABLE subject_key (
    kind TEXT NOT NULL,
    hash BYTEA NOT NULL,
    subject_id BYTEA NOT NULL,
    PRIMARY KEY (kind, hash)
);

-- Sealed bytes, each under a data key of its own, wrapped by the subject key.
CREATE TABLE body (
    id BYTEA NOT NULL,
    subject_id BYTEA NOT NULL,
    referral_id BYTEA,
    media_type TEXT NOT NULL,
    wrapped_key BYTEA NOT NULL,
    sealed BYTEA NOT NULL,
    PRIMARY KEY (id)
) PARTITION BY RANGE (id);
CREATE TABLE body_default PARTITION OF body DEFAULT;

-- What makes a message the same message; client retries are decided here alone.
CREATE TABLE message_key (
    hash BYTEA PRIMARY KEY,
    content_hash BYTEA NOT NULL,
    referral_id BYTEA NOT NULL,
    event_id BYTEA NOT NULL,
    created_ms BIGINT NOT NULL
);
CREATE INDEX message_key_created ON message_key (created_ms);

-- References of ours, each of one referral. They sort by time, so that new ones lie together.
CREATE TABLE reference (
    reference TEXT PRIMARY KEY,
    referral_id BYTEA NOT NULL
);

-- References of others that a referral is found by: the sender's, the receiver's; keyed hashes.
CREATE TABLE referral_key (
    kind TEXT NOT NULL,
    hash BYTEA NOT NULL,
    content_hash BYTEA,
    referral_id BYTEA NOT NULL,
    PRIMARY KEY (kind, hash)
);

-- One row a referral.
CREATE TABLE referral (
    id BYTEA NOT NULL,
    reference TEXT NOT NULL,
    sender TEXT NOT NULL,
    subject_id BYTEA NOT NULL,
    stream_id BYTEA NOT NULL,
    event_id BYTEA NOT NULL,
    version BIGINT NOT NULL,
    content_body BYTEA NOT NULL,
    original_body BYTEA,
    pathway TEXT NOT NULL,
    priority TEXT NOT NULL,
    safeguarding BIGINT NOT NULL,
    consent_withdrawn BIGINT NOT NULL,
    release_number BIGINT NOT NULL,
    accepted_ms BIGINT NOT NULL,
    leg_count BIGINT NOT NULL,
    delivery_count BIGINT NOT NULL,
    traceparent TEXT,
    PRIMARY KEY (id)
) PARTITION BY RANGE (id);
CREATE TABLE referral_default PARTITION OF referral DEFAULT;
CREATE INDEX referral_sender ON referral (sender, id);
CREATE INDEX referral_subject ON referral (subject_id, id);

-- Where each stream of the log stands.
CREATE TABLE log_stream (
    stream_id BYTEA PRIMARY KEY,
    next_seq BIGINT NOT NULL,
    prev_leaf BYTEA
);

-- One row a destination service, under the event that opened it.
CREATE TABLE leg (
    id BYTEA NOT NULL,
    referral_id BYTEA NOT NULL,
    event_id BYTEA NOT NULL,
    position BIGINT NOT NULL,
    service TEXT NOT NULL,
    agency TEXT NOT NULL,
    rule TEXT,
    triage TEXT,
    owner_agency TEXT NOT NULL,
    owner_role TEXT NOT NULL,
    state TEXT NOT NULL,
    clock TEXT,
    clock_started_ms BIGINT NOT NULL,
    next_action TEXT,
    first_clock TEXT NOT NULL,
    first_next_action TEXT NOT NULL,
    PRIMARY KEY (referral_id, id)
) PARTITION BY RANGE (referral_id);
CREATE TABLE leg_default PARTITION OF leg DEFAULT;
CREATE INDEX leg_agency ON leg (agency, referral_id);

-- One row a message for an endpoint.
CREATE TABLE delivery (
    id BYTEA NOT NULL,
    referral_id BYTEA NOT NULL,
    leg_id BYTEA,
    kind TEXT NOT NULL,
    endpoint_id TEXT NOT NULL,
    recipient TEXT NOT NULL,
    service TEXT,
    subject_id BYTEA NOT NULL,
    wire_id TEXT NOT NULL,
    version BIGINT NOT NULL,
    content_body BYTEA,
    note_body BYTEA,
    rendered_body BYTEA,
    state TEXT NOT NULL,
    evidence TEXT NOT NULL,
    parked TEXT,
    attempts BIGINT NOT NULL,
    failures BIGINT NOT NULL,
    soft_rejects BIGINT NOT NULL,
    unfinished BIGINT NOT NULL,
    due_ms BIGINT NOT NULL,
    deadline_ms BIGINT NOT NULL,
    evidence_due_ms BIGINT,
    urgent BIGINT NOT NULL,
    followed BIGINT NOT NULL,
    lane_seq BIGINT NOT NULL,
    queued_ms BIGINT NOT NULL,
    replaces BYTEA,
    receiver_reference TEXT,
    traceparent TEXT,
    PRIMARY KEY (id)
) PARTITION BY RANGE (id);
CREATE TABLE delivery_default PARTITION OF delivery DEFAULT;
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
    delivery_id BYTEA NOT NULL
);

-- One row for each (endpoint, subject) with live deliveries: the unit that is scheduled and leased. A leased lane is due at its lease's end.
CREATE TABLE lane (
    endpoint_id TEXT NOT NULL,
    subject_id BYTEA NOT NULL,
    head_id BYTEA NOT NULL,
    class BIGINT NOT NULL,
    due_ms BIGINT,
    queued_ms BIGINT NOT NULL,
    last_seq BIGINT NOT NULL,
    fence BIGINT NOT NULL,
    worker BYTEA,
    PRIMARY KEY (endpoint_id, subject_id)
);
CREATE INDEX lane_due ON lane (class, endpoint_id, due_ms) WHERE due_ms IS NOT NULL;
CREATE INDEX lane_queued ON lane (endpoint_id, queued_ms);

-- Attempts of a delivery.
CREATE TABLE attempt (
    delivery_id BYTEA NOT NULL,
    number BIGINT NOT NULL,
    opened_ms BIGINT NOT NULL,
    closed_ms BIGINT,
    outcome TEXT,
    why_code TEXT,
    why_text TEXT,
    fault TEXT,
    evidence TEXT,
    receipt_body BYTEA,
    PRIMARY KEY (delivery_id, number)
) PARTITION BY RANGE (delivery_id);
CREATE TABLE attempt_default PARTITION OF attempt DEFAULT;

-- What the parties are shown, under the id of its log entry.
CREATE TABLE event (
    id BYTEA NOT NULL,
    referral_id BYTEA NOT NULL,
    leg_id BYTEA,
    delivery_id BYTEA,
    at_ms BIGINT NOT NULL,
    kind TEXT NOT NULL,
    source TEXT NOT NULL,
    source_version BIGINT,
    state TEXT,
    reception TEXT,
    code TEXT NOT NULL,
    text_body BYTEA,
    delivery_state TEXT,
    evidence TEXT,
    PRIMARY KEY (id)
) PARTITION BY RANGE (id);
CREATE TABLE event_default PARTITION OF event DEFAULT;
CREATE INDEX event_referral ON event (referral_id, id);

-- Versions of a source seen for a leg.
CREATE TABLE status_key (
    leg_id BYTEA NOT NULL,
    source TEXT NOT NULL,
    version BIGINT NOT NULL,
    PRIMARY KEY (leg_id, source, version)
);

-- Uploaded documents.
CREATE TABLE document (
    id BYTEA PRIMARY KEY,
    sender TEXT NOT NULL,
    referral_id BYTEA,
    body_id BYTEA NOT NULL,
    media_type TEXT NOT NULL,
    sealed_sha256 BYTEA NOT NULL,
    size_bytes BIGINT NOT NULL,
    stream_id BYTEA NOT NULL,
    event_id BYTEA NOT NULL,
    created_ms BIGINT NOT NULL
);
CREATE INDEX document_untaken ON document (created_ms) WHERE referral_id IS NULL;

-- Alarms; at most one open for (kind, subject).
CREATE TABLE alarm (
    id BYTEA PRIMARY KEY,
    kind TEXT NOT NULL,
    subject TEXT NOT NULL,
    owner TEXT NOT NULL,
    role TEXT NOT NULL,
    text TEXT NOT NULL,
    opened_ms BIGINT NOT NULL,
    resolved_ms BIGINT
);
CREATE UNIQUE INDEX alarm_open ON alarm (kind, subject) WHERE resolved_ms IS NULL;
CREATE INDEX alarm_opened ON alarm (opened_ms);

-- Counters kept by every transition, in shards.
CREATE TABLE counter (
    name TEXT NOT NULL,
    shard BIGINT NOT NULL,
    value BIGINT NOT NULL,
    PRIMARY KEY (name, shard)
);

-- Releases of the directory.
CREATE TABLE directory_release (
    number BIGINT PRIMARY KEY,
    bundle TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    at_ms BIGINT NOT NULL,
    applied_by TEXT NOT NULL,
    note TEXT NOT NULL,
    event_id BYTEA NOT NULL
);

-- Log entries that wait for the sequencer.
CREATE TABLE log_outbox (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    event_id BYTEA NOT NULL UNIQUE,
    kind BIGINT NOT NULL,
    at_ms BIGINT NOT NULL,
    entry BYTEA NOT NULL
);

-- Log entries, verbatim.
CREATE TABLE log_entry (
    idx BIGINT NOT NULL,
    event_id BYTEA NOT NULL,
    entry BYTEA NOT NULL,
    leaf BYTEA NOT NULL,
    PRIMARY KEY (idx)
) PARTITION BY RANGE (idx);
CREATE TABLE log_entry_default PARTITION OF log_entry DEFAULT;

-- Where an event stands in the log.
CREATE TABLE log_event (
    event_id BYTEA PRIMARY KEY,
    idx BIGINT NOT NULL
);

-- Tiles of the tree; only the rightmost of a level changes.
CREATE TABLE log_tile (
    level BIGINT NOT NULL,
    n BIGINT NOT NULL,
    data BYTEA NOT NULL,
    PRIMARY KEY (level, n)
);

-- The head of the log: one row.
CREATE TABLE log_state (
    id BIGINT PRIMARY KEY,
    size BIGINT NOT NULL,
    root BYTEA NOT NULL,
    accepted BIGINT NOT NULL
);

-- Signed checkpoints.
CREATE TABLE log_checkpoint (
    size BIGINT PRIMARY KEY,
    note TEXT NOT NULL,
    at_ms BIGINT NOT NULL
);

-- Salts of commitments, sealed; erasable.
CREATE TABLE log_opening (
    event_id BYTEA NOT NULL,
    tag BIGINT NOT NULL,
    subject_id BYTEA,
    sealed BYTEA NOT NULL,
    PRIMARY KEY (event_id, tag)
) PARTITION BY RANGE (event_id);
CREATE TABLE log_opening_default PARTITION OF log_opening DEFAULT;

-- The empty log: the root of no entries is SHA-256 of nothing.
INSERT INTO log_state (id, size, root, accepted) VALUES (1, 0, '\xe3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855', 0);
