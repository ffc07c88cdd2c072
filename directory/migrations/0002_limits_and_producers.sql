-- Limits of keys and organisations, and keys that sign records. Portable like its predecessor.

-- A CHECK cannot be altered everywhere: the table is made anew.
CREATE TABLE keys_2 (
    -- Public part of the key: look-ups go by it, the secret is never searched for.
    id TEXT NOT NULL PRIMARY KEY,
    org_id TEXT NOT NULL REFERENCES organisations (id),
    scope TEXT NOT NULL CHECK (scope IN ('ingest', 'read', 'produce')),
    label TEXT NOT NULL,
    -- SHA-256 of the secret part. The secret has 256 random bits: a slow hash would protect nothing more.
    secret_sha256 TEXT NOT NULL,
    created_at_us BIGINT NOT NULL,
    -- NULL = valid.
    revoked_at_us BIGINT,
    -- Most events a second through one collector; NULL = what the collector's settings say.
    rate_limit_events BIGINT,
    -- What records of this key are signed with, derived from its secret; of keys with the scope `produce`, and no others.
    mac_key TEXT,
    CHECK ((scope = 'produce') = (mac_key IS NOT NULL))
);

INSERT INTO keys_2 (id, org_id, scope, label, secret_sha256, created_at_us, revoked_at_us)
    SELECT id, org_id, scope, label, secret_sha256, created_at_us, revoked_at_us FROM keys;

DROP TABLE keys;

ALTER TABLE keys_2 RENAME TO keys;

CREATE INDEX keys_by_org ON keys (org_id, created_at_us);

-- Most events of a UTC day, all collectors together; NULL = no limit.
ALTER TABLE organisations ADD COLUMN daily_quota BIGINT;

-- What collectors have taken of a day's quota, in blocks.
CREATE TABLE quota_leases (
    org_id TEXT NOT NULL REFERENCES organisations (id),
    -- Days since 1970-01-01, UTC.
    day BIGINT NOT NULL,
    -- The quota when the last block was taken.
    quota BIGINT NOT NULL,
    -- Events of all blocks.
    leased BIGINT NOT NULL,
    -- Events of the last block.
    granted BIGINT NOT NULL,
    PRIMARY KEY (org_id, day)
);
