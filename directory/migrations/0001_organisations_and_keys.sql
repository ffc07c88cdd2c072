-- Organisations and their keys. Portable: SQLite and PostgreSQL both take it as it stands.
-- Times are microseconds since the Unix epoch, UTC. Hashes are lower-case hexadecimal.

CREATE TABLE organisations (
    id TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    -- IANA name; days of the rollup begin and end there.
    time_zone TEXT NOT NULL,
    -- How long after its end a day still takes events as a matter of course [hours].
    allowed_lateness_hours BIGINT NOT NULL,
    created_at_us BIGINT NOT NULL
);

CREATE TABLE keys (
    -- Public part of the key: look-ups go by it, the secret is never searched for.
    id TEXT NOT NULL PRIMARY KEY,
    org_id TEXT NOT NULL REFERENCES organisations (id),
    scope TEXT NOT NULL CHECK (scope IN ('ingest', 'read')),
    label TEXT NOT NULL,
    -- SHA-256 of the secret part. The secret has 256 random bits: a slow hash would protect nothing more.
    secret_sha256 TEXT NOT NULL,
    created_at_us BIGINT NOT NULL,
    -- NULL = valid.
    revoked_at_us BIGINT
);

CREATE INDEX keys_by_org ON keys (org_id, created_at_us);
