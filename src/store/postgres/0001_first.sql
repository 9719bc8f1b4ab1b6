-- Times are milliseconds since 1970-01-01T00:00:00Z. What is sealed is so by the vault, bound to
-- its table and key. What is compared or sorted by is in the "C" order whatever the database's is,
-- or pages of a list would depend on it.

-- One row: proves at start that a master key is one that this database was sealed under.
CREATE TABLE installation (
    only_one BOOLEAN PRIMARY KEY CHECK (only_one),
    sealed_check BYTEA NOT NULL
);

-- Changes of master keys, and how far each has come.
CREATE TABLE rekeyings (
    -- The id of the key that everything is to be sealed under, in hex.
    key_id TEXT COLLATE "C" PRIMARY KEY,
    asked_at BIGINT NOT NULL,
    rewritten BIGINT NOT NULL,
    unreadable BIGINT NOT NULL,
    done_at BIGINT
);

CREATE TABLE callers (
    name TEXT COLLATE "C" PRIMARY KEY,
    created_at BIGINT NOT NULL,
    default_connection TEXT COLLATE "C",
    -- Of callbacks whose registration names none.
    default_format TEXT NOT NULL DEFAULT 'envelope'
);

-- How many operations of a caller are not at rest: the sum of its shards, one of which may be below
-- zero. A single row would let only one transaction at a time register for a caller.
CREATE TABLE live_operations (
    caller TEXT COLLATE "C" NOT NULL REFERENCES callers (name) ON DELETE CASCADE,
    shard BIGINT NOT NULL,
    live BIGINT NOT NULL,
    PRIMARY KEY (caller, shard)
) WITH (fillfactor = 50);

CREATE TABLE api_keys (
    digest BYTEA PRIMARY KEY,
    id TEXT COLLATE "C" NOT NULL,
    caller TEXT COLLATE "C" NOT NULL REFERENCES callers (name),
    label TEXT,
    -- Some of `register`, `read` and `manage`, in this order, with a space between.
    scopes TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT,
    -- Late by some minutes at the most.
    last_used_at BIGINT
);
CREATE UNIQUE INDEX api_keys_by_caller ON api_keys (caller, id);

-- Which apps sign in as which caller, by tokens of Microsoft Entra.
CREATE TABLE sign_ins (
    tenant TEXT COLLATE "C" NOT NULL,
    app TEXT COLLATE "C" NOT NULL,
    caller TEXT COLLATE "C" NOT NULL REFERENCES callers (name),
    created_at BIGINT NOT NULL,
    PRIMARY KEY (tenant, app)
);
CREATE INDEX sign_ins_by_caller ON sign_ins (caller);

CREATE TABLE signing_secrets (
    caller TEXT COLLATE "C" NOT NULL REFERENCES callers (name),
    id BIGINT NOT NULL,
    sealed_secret BYTEA NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT,
    PRIMARY KEY (caller, id)
);

-- What a caller wants on all of its callbacks.
CREATE TABLE extra_headers (
    caller TEXT COLLATE "C" NOT NULL REFERENCES callers (name),
    name TEXT COLLATE "C" NOT NULL,
    sealed_value BYTEA NOT NULL,
    PRIMARY KEY (caller, name)
);

-- Ed25519, for those callers that have asked for it.
CREATE TABLE signing_keys (
    caller TEXT COLLATE "C" NOT NULL REFERENCES callers (name),
    id BIGINT NOT NULL,
    public_key TEXT NOT NULL,
    sealed_key BYTEA NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT,
    PRIMARY KEY (caller, id)
);

CREATE TABLE connections (
    caller TEXT COLLATE "C" NOT NULL REFERENCES callers (name),
    name TEXT COLLATE "C" NOT NULL,
    tenant TEXT NOT NULL,
    client_id TEXT NOT NULL,
    -- How it proves itself: the word of a kind of proof; `shared` where it is another caller's, and
    -- `withdrawn` where it was.
    kind TEXT NOT NULL,
    -- A client secret, or a certificate with its key; null where the proof is the machine's.
    sealed_proof BYTEA,
    -- Where the token of another issuer is.
    token_file TEXT,
    -- Of a certificate: SHA-256 in hex, and when it expires.
    thumbprint TEXT,
    proof_expires_at BIGINT,
    -- Whose it is, and that caller's name for it, where it is shared.
    shared_by TEXT COLLATE "C",
    shared_name TEXT COLLATE "C",
    -- When the user signed in on whose behalf it asks. What is sealed then is a refresh token, which is
    -- another one after each use.
    signed_in_at BIGINT,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (caller, name)
);

-- Written by every claim and every commit, so pages have room for the next version of a row, and
-- what was is cleared away soon.
CREATE TABLE lanes (
    lane BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name TEXT COLLATE "C" NOT NULL UNIQUE,
    allowance BIGINT NOT NULL,
    failures BIGINT NOT NULL,
    paused_until BIGINT,
    -- Busy slots, as `token@busy_until` with a space between.
    slots TEXT NOT NULL,
    -- When a step was last handed out here, by which lanes take turns.
    served_at BIGINT NOT NULL,
    -- A claim need not look here before this; null while nothing waits.
    ready_at BIGINT
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX lanes_by_readiness ON lanes (ready_at) WHERE ready_at IS NOT NULL;

-- Which receivers have agreed to callbacks: by the name of the lane that each is, which need not be
-- there.
CREATE TABLE handshakes (
    lane TEXT COLLATE "C" PRIMARY KEY,
    -- What it was asked: `graph`, or `cloudEvents` and by whom.
    form TEXT NOT NULL,
    agreed_at BIGINT NOT NULL,
    -- Attempts a minute that it takes; null for any number. It holds on the lane from then on.
    rate BIGINT
);
CREATE INDEX handshakes_by_age ON handshakes (agreed_at);

-- A poll that finds nothing new changes no column that is indexed, so there is room on the page for
-- the row to stay where it is.
CREATE TABLE operations (
    -- What other rows know it by that are many and should be short.
    number BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id TEXT COLLATE "C" NOT NULL UNIQUE,
    -- Whoever registers looks for it, and callers are never removed: a reference would be checked for
    -- each row, which costs a fifth of what it does to keep one.
    caller TEXT COLLATE "C" NOT NULL,
    graph_version TEXT NOT NULL,
    graph_id TEXT NOT NULL,
    -- Either a connection of the caller's, or a token that was handed in.
    connection TEXT COLLATE "C",
    sealed_token BYTEA,
    token_expires_at BIGINT,
    lane BIGINT NOT NULL,
    callback_url TEXT NOT NULL,
    callback_origin TEXT NOT NULL,
    client_state TEXT,
    -- Signs its callbacks in place of the caller's secrets, for as long as one can be resent.
    sealed_callback_secret BYTEA,
    -- What its callbacks look like, and the trace that they are part of.
    format TEXT NOT NULL,
    traceparent TEXT,
    tracestate TEXT,
    -- Digest of Graph id, callback URL and client state: tells the same registration again.
    likeness BYTEA NOT NULL,
    registered_at BIGINT NOT NULL,
    deadline BIGINT NOT NULL,
    polls BIGINT NOT NULL,
    callbacks BIGINT NOT NULL,
    -- Whether its caller is to hear when Graph first says `running`: unwanted, wanted or owed.
    running_notice TEXT NOT NULL,
    state TEXT NOT NULL,
    -- watching
    next_poll_at BIGINT,
    troubles BIGINT,
    rejections BIGINT,
    refusals BIGINT,
    -- blocked; and why, where it ended as unauthorized
    refusal TEXT,
    blocked_since BIGINT,
    blocked_until BIGINT,
    earliest_poll_at BIGINT,
    -- How often the caller was reminded that a credential is needed.
    reminders BIGINT,
    -- settled, cancelled
    outcome TEXT,
    rested_at BIGINT,
    -- The operation as Graph last sent it, byte for byte.
    last_body BYTEA
) WITH (fillfactor = 85);
-- What is sealed is noise, which the server would try to compress each time.
ALTER TABLE operations ALTER COLUMN sealed_token SET STORAGE EXTERNAL,
    ALTER COLUMN sealed_callback_secret SET STORAGE EXTERNAL;
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
-- Derived from their states, and kept in step with them by every transaction. A claim changes no
-- column that is indexed.
CREATE TABLE steps (
    -- `operations.number`. Not a reference, which would write to the operation's row for each step: who
    -- plans one holds the operation, and one that is at rest is forgotten together with its steps.
    operation BIGINT NOT NULL,
    -- Which callback of the operation's; 0 for the operation itself.
    callback BIGINT NOT NULL,
    lane BIGINT NOT NULL,
    due_at BIGINT,
    -- After the end of the lease, while the step is claimed.
    lapse_at BIGINT NOT NULL,
    -- Of the newest claim, while it is not spent, and the end of its lease.
    token BIGINT,
    claimed_until BIGINT,
    PRIMARY KEY (operation, callback)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
-- In the order in which a claim takes them. With any other one the server would have to read and sort all
-- that is due on a lane, as it may skip any number of them.
CREATE INDEX steps_by_lane ON steps (lane, due_at, operation, callback);
CREATE INDEX steps_by_lapse ON steps (lapse_at);

CREATE TABLE callbacks (
    operation_id TEXT COLLATE "C" NOT NULL REFERENCES operations (id) ON DELETE CASCADE,
    number BIGINT NOT NULL,
    caller TEXT COLLATE "C" NOT NULL,
    notice TEXT NOT NULL,
    url TEXT NOT NULL,
    -- Scheme, host and port of the URL.
    origin TEXT NOT NULL,
    -- As they go into every attempt, one to a line.
    headers TEXT NOT NULL,
    -- Null once it was purged.
    body BYTEA,
    owed_at BIGINT NOT NULL,
    attempts BIGINT NOT NULL,
    state TEXT NOT NULL,
    -- pending
    tries BIGINT,
    next_attempt_at BIGINT,
    give_up_at BIGINT,
    -- undeliverable
    reason TEXT,
    -- delivered, undeliverable
    rested_at BIGINT,
    PRIMARY KEY (operation_id, number)
) WITH (fillfactor = 85);
CREATE INDEX callbacks_by_caller ON callbacks (caller, operation_id, number);
CREATE INDEX callbacks_by_state ON callbacks (caller, state, operation_id, number);
-- For the operator, who may look for those of all callers. They are few.
CREATE INDEX callbacks_undeliverable ON callbacks (operation_id, number)
    WHERE state = 'undeliverable';
CREATE INDEX callbacks_to_purge ON callbacks (rested_at)
    WHERE state = 'delivered' AND body IS NOT NULL;

CREATE TABLE attempts (
    operation_id TEXT COLLATE "C" NOT NULL,
    callback_number BIGINT NOT NULL,
    number BIGINT NOT NULL,
    at BIGINT NOT NULL,
    took_ms BIGINT NOT NULL,
    status BIGINT,
    failure TEXT,
    detail TEXT,
    answer BYTEA NOT NULL,
    PRIMARY KEY (operation_id, callback_number, number),
    FOREIGN KEY (operation_id, callback_number)
        REFERENCES callbacks (operation_id, number) ON DELETE CASCADE
);

CREATE TABLE idempotency_keys (
    caller TEXT COLLATE "C" NOT NULL,
    key TEXT COLLATE "C" NOT NULL,
    request_digest BYTEA NOT NULL,
    operation_id TEXT COLLATE "C" NOT NULL,
    -- Null where the first request found an operation that was there already.
    answer BYTEA,
    first_used_at BIGINT NOT NULL,
    PRIMARY KEY (caller, key)
);
CREATE INDEX idempotency_keys_by_age ON idempotency_keys (first_used_at);

-- Where a receiver has answered 410, and wants nothing any more until the caller says otherwise.
CREATE TABLE gone_destinations (
    caller TEXT COLLATE "C" NOT NULL,
    url TEXT COLLATE "C" NOT NULL,
    since BIGINT NOT NULL,
    PRIMARY KEY (caller, url)
);

-- Connections that were repaired, for which not all operations are watched again that were blocked.
CREATE TABLE wakings (
    caller TEXT COLLATE "C" NOT NULL,
    connection TEXT COLLATE "C" NOT NULL,
    asked_at BIGINT NOT NULL,
    PRIMARY KEY (caller, connection)
);

-- Bulk resends, and how far each has come. Whoever goes on with one changes callbacks and this row in
-- one transaction.
CREATE TABLE resends (
    id TEXT COLLATE "C" PRIMARY KEY,
    -- Null where the operator asked for it.
    asked_by TEXT COLLATE "C",
    asked_at BIGINT NOT NULL,
    -- Which callbacks are wanted; null where it does not matter.
    caller TEXT COLLATE "C",
    state TEXT NOT NULL,
    reason TEXT,
    origin TEXT,
    since BIGINT,
    until BIGINT,
    matched BIGINT NOT NULL,
    resent BIGINT NOT NULL,
    -- The last callback that was looked at in this walk, and how many were held back for another one.
    reached_operation_id TEXT COLLATE "C",
    reached_number BIGINT,
    held_back BIGINT NOT NULL,
    done_at BIGINT
);
CREATE INDEX resends_by_asker ON resends (asked_by, id);
CREATE INDEX resends_under_way ON resends (id) WHERE done_at IS NULL;
CREATE INDEX resends_done ON resends (done_at) WHERE done_at IS NOT NULL;

-- Who has changed what, from where, and what came of it. Never what anything consists of. A row is
-- there before its change is made.
CREATE TABLE audit (
    -- Begins with its time, so that later ones sort behind earlier ones.
    id TEXT COLLATE "C" PRIMARY KEY,
    at BIGINT NOT NULL,
    -- `adminKey`; `apiKey` with its id; or `signIn` with the directory, whom in it, and by which app.
    via TEXT NOT NULL,
    key_id TEXT,
    tenant TEXT,
    subject TEXT,
    app TEXT,
    -- Whose things; null where it is about no caller in particular.
    caller TEXT COLLATE "C",
    method TEXT NOT NULL,
    resource TEXT NOT NULL,
    -- What it is about and what it has made, with a space between.
    names TEXT NOT NULL,
    address TEXT,
    -- The status that it was answered with; null where it may have been made, and may not.
    result BIGINT
);
CREATE INDEX audit_by_caller ON audit (caller, id);
