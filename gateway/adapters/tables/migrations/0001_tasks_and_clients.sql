-- rank: 0 queued, 1 processing, 2 final. A row's rank never falls.
CREATE TABLE tasks (
    task_id        uuid PRIMARY KEY,           -- UUIDv7: sorted by creation
    client_id      text NOT NULL,
    workflow       text NOT NULL,
    priority       smallint NOT NULL,
    status         text NOT NULL,
    rank           smallint NOT NULL,
    progress       real NOT NULL,
    attempts       integer NOT NULL,
    created_at     timestamptz NOT NULL,
    started_at     timestamptz,
    finished_at    timestamptz,
    callback_url   text,
    result         jsonb,
    error          jsonb,
    final_event_id text
);
CREATE INDEX tasks_of_client ON tasks (client_id, task_id DESC);
CREATE INDEX tasks_by_status ON tasks (status, task_id DESC);

CREATE TABLE idempotency_keys (
    client_id   text NOT NULL,
    key         text NOT NULL,
    fingerprint bytea NOT NULL,
    task_id     uuid NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (client_id, key)
);

CREATE TABLE clients (
    client_id      text PRIMARY KEY,
    secret_hash    text NOT NULL,
    api_key_lookup bytea UNIQUE,
    api_key_hash   text,
    scopes         text[] NOT NULL,
    created_at     timestamptz NOT NULL DEFAULT now()
);
