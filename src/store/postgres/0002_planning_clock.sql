-- One row: the course of the time by which replicas plan, beside the database's clock. A replica of
-- an earlier version plans by that clock itself, which is the same unless somebody sets it.
CREATE TABLE planning_clock (
    only_one BOOLEAN PRIMARY KEY CHECK (only_one),
    -- By the database's clock: when planning time was so many milliseconds ahead of it.
    since BIGINT NOT NULL,
    ahead BIGINT NOT NULL,
    -- By the database's clock: when a replica last found that nobody had set it.
    confirmed_at BIGINT
) WITH (fillfactor = 10);
