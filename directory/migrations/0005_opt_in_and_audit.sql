-- What an organisation's admin has opted in to, and who did what. Portable like its predecessors.

-- Every change of the opt-in; the newest one holds. None = 'off': nothing is collected and nothing is shown.
CREATE TABLE opt_ins (
    org_id TEXT NOT NULL REFERENCES organisations (id),
    -- 1, 2 …
    number BIGINT NOT NULL,
    -- From then on.
    at_us BIGINT NOT NULL,
    level TEXT NOT NULL CHECK (level IN ('off', 'team-only', 'pseudonymous', 'named')),
    -- Who switched it.
    actor TEXT NOT NULL,
    -- Why, in their words.
    reason TEXT NOT NULL,
    PRIMARY KEY (org_id, number)
);

-- The newest level, where a key is looked up.
ALTER TABLE organisations ADD COLUMN opt_in TEXT NOT NULL DEFAULT 'off';

-- Organisations that were there before are collected as they were.
UPDATE organisations SET opt_in = 'named';

INSERT INTO opt_ins (org_id, number, at_us, level, actor, reason)
    SELECT id, 1, 0, 'named', 'upgrade', 'collected since before opt-ins were on record' FROM organisations;

-- What was done, in a chain by organisation: each hash covers the entry and the hash before it (docs/audit.md).
CREATE TABLE audit (
    org_id TEXT NOT NULL REFERENCES organisations (id),
    -- 1, 2 … without a gap.
    number BIGINT NOT NULL,
    at_us BIGINT NOT NULL,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    subject TEXT NOT NULL,
    -- JSON.
    detail TEXT NOT NULL,
    -- SHA-256.
    hash TEXT NOT NULL,
    PRIMARY KEY (org_id, number)
);

-- The chain's newest entry: whoever writes the next one holds this row meanwhile.
ALTER TABLE organisations ADD COLUMN audit_number BIGINT NOT NULL DEFAULT 0;

ALTER TABLE organisations ADD COLUMN audit_hash TEXT NOT NULL DEFAULT '';
