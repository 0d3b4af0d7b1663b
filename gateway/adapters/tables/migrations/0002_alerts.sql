-- COLLATE "C": one order of cameras whatever the database's locale is, and the quicker comparison.
CREATE TABLE alerts (
    alert_id      uuid PRIMARY KEY,            -- UUIDv7, by time of capture
    camera_id     text COLLATE "C" NOT NULL,
    label         text COLLATE "C" NOT NULL,
    score         double precision NOT NULL,
    x             double precision NOT NULL,   -- the box, as fractions of the picture
    y             double precision NOT NULL,
    width         double precision NOT NULL,
    height        double precision NOT NULL,
    zone          text,
    captured_at   timestamptz NOT NULL,
    created_at    timestamptz NOT NULL,
    model         text NOT NULL,
    model_version text NOT NULL,
    frame_key     text NOT NULL,
    image_key     text,                        -- null until the picture has been kept
    reviewed      boolean NOT NULL DEFAULT false
) WITH (
    -- a tenth of the default: the newest rows are what is counted, and only what was vacuumed can
    -- be counted in an index alone
    autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.02
);
-- Ascending although pages are newest first: an index is read backwards as quickly, and what is
-- added at its end fills pages instead of halving them.
CREATE INDEX alerts_by_time ON alerts (captured_at, alert_id) INCLUDE (camera_id, label);
CREATE INDEX alerts_of_camera ON alerts (camera_id, captured_at, alert_id) INCLUDE (label);
CREATE INDEX alerts_of_label ON alerts (label, captured_at, alert_id);
CREATE INDEX alerts_without_image ON alerts (created_at, alert_id) WHERE image_key IS NULL;
CREATE INDEX alerts_waiting_for_frame ON alerts (frame_key) WHERE image_key IS NULL;
-- Without it the planner takes every moment for an hour of its own, and sorts a million rows.
CREATE STATISTICS alerts_by_hour (ndistinct)
    ON date_bin('1 hour', captured_at, '2000-01-01 00:00+00'), camera_id, label FROM alerts;

-- Objects whose alert was deleted in the same transaction; they are removed next, then the row.
CREATE TABLE discarded_images (
    key text COLLATE "C" PRIMARY KEY
);

-- A process only ever raises its own count, and a sum is over all of them: what comes late or
-- twice changes nothing (a grow-only counter).
CREATE TABLE camera_counts (
    camera_id text COLLATE "C" NOT NULL,
    hour      timestamptz NOT NULL,
    name      text COLLATE "C" NOT NULL,
    source    text COLLATE "C" NOT NULL,
    count     bigint NOT NULL,
    PRIMARY KEY (camera_id, hour, name, source)
);
