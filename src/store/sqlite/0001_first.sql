-- Times are milliseconds since 1970-01-01T00:00:00Z. What is sealed is so by the vault, bound to
-- its table and key.

-- One row: proves at start that a master key is one that this database was sealed under.
CREATE TABLE installation (
    only_one INTEGER PRIMARY KEY CHECK (only_one = 1),
    sealed_check BLOB NOT NULL
);

-- Changes of master keys, and how far each has come.
CREATE TABLE rekeyings (
    -- The id of the key that everything is to be sealed under, in hex.
    key_id TEXT PRIMARY KEY,
    asked_at INTEGER NOT NULL,
    rewritten INTEGER NOT NULL,
    unreadable INTEGER NOT NULL,
    done_at INTEGER
) WITHOUT ROWID;

CREATE TABLE callers (
    name TEXT PRIMARY KEY,
    created_at INTEGER NOT NULL,
    live_operations INTEGER NOT NULL DEFAULT 0,
    default_connection TEXT,
    -- Of callbacks whose registration names none.
    default_format TEXT NOT NULL DEFAULT 'envelope'
) WITHOUT ROWID;

CREATE TABLE api_keys (
    digest BLOB PRIMARY KEY,
    id TEXT NOT NULL,
    caller TEXT NOT NULL REFERENCES callers (name),
    label TEXT,
    -- Some of `register`, `read` and `manage`, in this order, with a space between.
    scopes TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    -- Late by some minutes at the most.
    last_used_at INTEGER
) WITHOUT ROWID;
CREATE UNIQUE INDEX api_keys_by_caller ON api_keys (caller, id);

-- Which apps sign in as which caller, by tokens of Microsoft Entra.
CREATE TABLE sign_ins (
    tenant TEXT NOT NULL,
    app TEXT NOT NULL,
    caller TEXT NOT NULL REFERENCES callers (name),
    created_at INTEGER NOT NULL,
    PRIMARY KEY (tenant, app)
) WITHOUT ROWID;
CREATE INDEX sign_ins_by_caller ON sign_ins (caller);

CREATE TABLE signing_secrets (
    caller TEXT NOT NULL REFERENCES callers (name),
    id INTEGER NOT NULL,
    sealed_secret BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    PRIMARY KEY (caller, id)
) WITHOUT ROWID;

-- What a caller wants on all of its callbacks.
CREATE TABLE extra_headers (
    caller TEXT NOT NULL REFERENCES callers (name),
    name TEXT NOT NULL,
    sealed_value BLOB NOT NULL,
    PRIMARY KEY (caller, name)
) WITHOUT ROWID;

-- Ed25519, for those callers that have asked for it.
CREATE TABLE signing_keys (
    caller TEXT NOT NULL REFERENCES callers (name),
    id INTEGER NOT NULL,
    public_key TEXT NOT NULL,
    sealed_key BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    PRIMARY KEY (caller, id)
) WITHOUT ROWID;

CREATE TABLE connections (
    caller TEXT NOT NULL REFERENCES callers (name),
    name TEXT NOT NULL,
    tenant TEXT NOT NULL,
    client_id TEXT NOT NULL,
    -- How it proves itself: the word of a kind of proof; `shared` where it is another caller's, and
    -- `withdrawn` where it was.
    kind TEXT NOT NULL,
    -- A client secret, or a certificate with its key; null where the proof is the machine's.
    sealed_proof BLOB,
    -- Where the token of another issuer is.
    token_file TEXT,
    -- Of a certificate: SHA-256 in hex, and when it expires.
    thumbprint TEXT,
    proof_expires_at INTEGER,
    -- Whose it is, and that caller's name for it, where it is shared.
    shared_by TEXT,
    shared_name TEXT,
    -- When the user signed in on whose behalf it asks. What is sealed then is a refresh token, which is
    -- another one after each use.
    signed_in_at INTEGER,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (caller, name)
) WITHOUT ROWID;

CREATE TABLE lanes (
    lane INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    allowance INTEGER NOT NULL,
    failures INTEGER NOT NULL,
    paused_until INTEGER,
    -- Busy slots, as `token@busy_until` with a space between.
    slots TEXT NOT NULL,
    -- When a step was last handed out here, by which lanes take turns.
    served_at INTEGER NOT NULL,
    -- A claim need not look here before this; null while nothing waits.
    ready_at INTEGER
);
CREATE INDEX lanes_by_readiness ON lanes (ready_at) WHERE ready_at IS NOT NULL;

-- Which receivers have agreed to callbacks: by the name of the lane that each is, which need not be
-- there.
CREATE TABLE handshakes (
    lane TEXT PRIMARY KEY,
    -- What it was asked: `graph`, or `cloudEvents` and by whom.
    form TEXT NOT NULL,
    agreed_at INTEGER NOT NULL,
    -- Attempts a minute that it takes; null for any number. It holds on the lane from then on.
    rate INTEGER
) WITHOUT ROWID;
CREATE INDEX handshakes_by_age ON handshakes (agreed_at);

CREATE TABLE operations (
    -- What other rows know it by that are many and should be short.
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    caller TEXT NOT NULL REFERENCES callers (name),
    graph_version TEXT NOT NULL,
    graph_id TEXT NOT NULL,
    -- Either a connection of the caller's, or a token that was handed in.
    connection TEXT,
    sealed_token BLOB,
    token_expires_at INTEGER,
    lane INTEGER NOT NULL,
    callback_url TEXT NOT NULL,
    callback_origin TEXT NOT NULL,
    client_state TEXT,
    -- Signs its callbacks in place of the caller's secrets, for as long as one can be resent.
    sealed_callback_secret BLOB,
    -- What its callbacks look like, and the trace that they are part of.
    format TEXT NOT NULL,
    traceparent TEXT,
    tracestate TEXT,
    -- Digest of Graph id, callback URL and client state: tells the same registration again.
    likeness BLOB NOT NULL,
    registered_at INTEGER NOT NULL,
    deadline INTEGER NOT NULL,
    polls INTEGER NOT NULL,
    callbacks INTEGER NOT NULL,
    -- Whether its caller is to hear when Graph first says `running`: unwanted, wanted or owed.
    running_notice TEXT NOT NULL,
    state TEXT NOT NULL,
    -- watching
    next_poll_at INTEGER,
    troubles INTEGER,
    rejections INTEGER,
    refusals INTEGER,
    -- blocked; and why, where it ended as unauthorized
    refusal TEXT,
    blocked_since INTEGER,
    blocked_until INTEGER,
    earliest_poll_at INTEGER,
    -- How often the caller was reminded that a credential is needed.
    reminders INTEGER,
    -- settled, cancelled
    outcome TEXT,
    rested_at INTEGER,
    -- The operation as Graph last sent it, byte for byte.
    last_body BLOB
);
CREATE UNIQUE INDEX operations_alike ON operations (caller, likeness) WHERE rested_at IS NULL;
CREATE INDEX operations_by_caller ON operations (caller, id);
CREATE INDEX operations_by_state ON operations (caller, state, id);
CREATE INDEX operations_at_rest ON operations (rested_at) WHERE rested_at IS NOT NULL;
CREATE INDEX operations_by_connection ON operations (caller, connection)
    WHERE rested_at IS NULL AND connection IS NOT NULL;
-- Under which master key what is sealed.
CREATE INDEX operations_by_token_key ON operations (substr(sealed_token, 1, 8), id)
    WHERE sealed_token IS NOT NULL;
CREATE INDEX operations_by_callback_secret_key
    ON operations (substr(sealed_callback_secret, 1, 8), id)
    WHERE sealed_callback_secret IS NOT NULL;

-- What is to happen by itself, a narrow row for each operation and callback that is not at rest.
-- Derived from their states, and kept in step with them by every transaction. Narrow, because a
-- claim writes a page or two of this table and its indexes for each step, and a page that holds more
-- steps is in memory more often.
CREATE TABLE steps (
    operation INTEGER NOT NULL REFERENCES operations (number) ON DELETE CASCADE,
    -- Which callback of the operation's; 0 for the operation itself.
    callback INTEGER NOT NULL,
    lane INTEGER NOT NULL,
    -- While the step is claimed, the end of the lease.
    due_at INTEGER,
    lapse_at INTEGER NOT NULL,
    -- Of the newest claim, while it is not spent.
    token INTEGER,
    PRIMARY KEY (operation, callback)
) WITHOUT ROWID;
CREATE INDEX steps_by_lane ON steps (lane, due_at);
CREATE INDEX steps_by_lapse ON steps (lapse_at);

CREATE TABLE callbacks (
    operation_id TEXT NOT NULL REFERENCES operations (id) ON DELETE CASCADE,
    number INTEGER NOT NULL,
    caller TEXT NOT NULL,
    notice TEXT NOT NULL,
    url TEXT NOT NULL,
    -- Scheme, host and port of the URL.
    origin TEXT NOT NULL,
    -- As they go into every attempt, one to a line.
    headers TEXT NOT NULL,
    -- Null once it was purged.
    body BLOB,
    owed_at INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    state TEXT NOT NULL,
    -- pending
    tries INTEGER,
    next_attempt_at INTEGER,
    give_up_at INTEGER,
    -- undeliverable
    reason TEXT,
    -- delivered, undeliverable
    rested_at INTEGER,
    PRIMARY KEY (operation_id, number)
);
CREATE INDEX callbacks_by_caller ON callbacks (caller, operation_id, number);
CREATE INDEX callbacks_by_state ON callbacks (caller, state, operation_id, number);
-- For the operator, who may look for those of all callers. They are few.
CREATE INDEX callbacks_undeliverable ON callbacks (operation_id, number)
    WHERE state = 'undeliverable';
CREATE INDEX callbacks_to_purge ON callbacks (rested_at)
    WHERE state = 'delivered' AND body IS NOT NULL;

CREATE TABLE attempts (
    operation_id TEXT NOT NULL,
    callback_number INTEGER NOT NULL,
    number INTEGER NOT NULL,
    at INTEGER NOT NULL,
    took_ms INTEGER NOT NULL,
    status INTEGER,
    failure TEXT,
    detail TEXT,
    answer BLOB NOT NULL,
    PRIMARY KEY (operation_id, callback_number, number),
    FOREIGN KEY (operation_id, callback_number)
        REFERENCES callbacks (operation_id, number) ON DELETE CASCADE
);

CREATE TABLE idempotency_keys (
    caller TEXT NOT NULL,
    key TEXT NOT NULL,
    request_digest BLOB NOT NULL,
    operation_id TEXT NOT NULL,
    -- Null where the first request found an operation that was there already.
    answer BLOB,
    first_used_at INTEGER NOT NULL,
    PRIMARY KEY (caller, key)
) WITHOUT ROWID;
CREATE INDEX idempotency_keys_by_age ON idempotency_keys (first_used_at);

-- Where a receiver has answered 410, and wants nothing any more until the caller says otherwise.
CREATE TABLE gone_destinations (
    caller TEXT NOT NULL,
    url TEXT NOT NULL,
    since INTEGER NOT NULL,
    PRIMARY KEY (caller, url)
) WITHOUT ROWID;

-- Connections that were repaired, for which not all operations are watched again that were blocked.
CREATE TABLE wakings (
    caller TEXT NOT NULL,
    connection TEXT NOT NULL,
    asked_at INTEGER NOT NULL,
    PRIMARY KEY (caller, connection)
) WITHOUT ROWID;

-- Bulk resends, and how far each has come. Whoever goes on with one changes callbacks and this row in
-- one transaction.
CREATE TABLE resends (
    id TEXT PRIMARY KEY,
    -- Null where the operator asked for it.
    asked_by TEXT,
    asked_at INTEGER NOT NULL,
    -- Which callbacks are wanted; null where it does not matter.
    caller TEXT,
    state TEXT NOT NULL,
    reason TEXT,
    origin TEXT,
    since INTEGER,
    until INTEGER,
    matched INTEGER NOT NULL,
    resent INTEGER NOT NULL,
    -- The last callback that was looked at in this walk, and how many were held back for another one.
    reached_operation_id TEXT,
    reached_number INTEGER,
    held_back INTEGER NOT NULL,
    done_at INTEGER
) WITHOUT ROWID;
CREATE INDEX resends_by_asker ON resends (asked_by, id);
CREATE INDEX resends_under_way ON resends (id) WHERE done_at IS NULL;
CREATE INDEX resends_done ON resends (done_at) WHERE done_at IS NOT NULL;

-- Who has changed what, from where, and what came of it. Never what anything consists of. A row is
-- there before its change is made.
CREATE TABLE audit (
    -- Begins with its time, so that later ones sort behind earlier ones.
    id TEXT PRIMARY KEY,
    at INTEGER NOT NULL,
    -- `adminKey`; `apiKey` with its id; or `signIn` with the directory, whom in it, and by which app.
    via TEXT NOT NULL,
    key_id TEXT,
    tenant TEXT,
    subject TEXT,
    app TEXT,
    -- Whose things; null where it is about no caller in particular.
    caller TEXT,
    method TEXT NOT NULL,
    resource TEXT NOT NULL,
    -- What it is about and what it has made, with a space between.
    names TEXT NOT NULL,
    address TEXT,
    -- The status that it was answered with; null where it may have been made, and may not.
    result INTEGER
) WITHOUT ROWID;
CREATE INDEX audit_by_caller ON audit (caller, id);
