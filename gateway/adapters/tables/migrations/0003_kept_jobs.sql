-- The job that a task waits for, until it ends: what its queue loses is sent again from here.
ALTER TABLE tasks
    ADD COLUMN job          bytea,
    ADD COLUMN job_sequence bigint NOT NULL DEFAULT 0,         -- in the stream JOBS; 0: not known
    ADD COLUMN resends      smallint NOT NULL DEFAULT 0,
    ADD COLUMN heard_at     timestamptz NOT NULL DEFAULT now();

-- Nothing in it changes with a task's progress, so that such updates stay cheap (heap-only tuples).
CREATE INDEX tasks_unfinished ON tasks (task_id) WHERE rank < 2;
