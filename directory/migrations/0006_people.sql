-- People and groups, as an identity provider pushes them by SCIM, and who was a member of what, when. Portable like its predecessors.

-- The scope `scim`. A CHECK cannot be altered everywhere: the table is made anew.
CREATE TABLE keys_6 (
    -- Public part of the key: look-ups go by it, the secret is never searched for.
    id TEXT NOT NULL PRIMARY KEY,
    org_id TEXT NOT NULL REFERENCES organisations (id),
    scope TEXT NOT NULL CHECK (scope IN ('ingest', 'read', 'produce', 'scim')),
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
    -- 'service', 'admin', 'analyst', 'lead' or 'member'; NULL = service.
    role TEXT,
    -- The team of a lead, the person of a member.
    subject TEXT,
    -- Of an analyst: 1 = sees who people are, 0 or NULL = pseudonyms.
    sees_names BIGINT,
    -- NULL = never.
    expires_at_us BIGINT,
    CHECK ((scope = 'produce') = (mac_key IS NOT NULL))
);

INSERT INTO keys_6 (id, org_id, scope, label, secret_sha256, created_at_us, revoked_at_us, rate_limit_events, mac_key, role, subject,
        sees_names, expires_at_us)
    SELECT id, org_id, scope, label, secret_sha256, created_at_us, revoked_at_us, rate_limit_events, mac_key, role, subject,
        sees_names, expires_at_us FROM keys;

DROP TABLE keys;

ALTER TABLE keys_6 RENAME TO keys;

CREATE INDEX keys_by_org ON keys (org_id, created_at_us);

-- SCIM's users. A person who is deleted leaves rows in `memberships` and `person_keys` alone.
CREATE TABLE people (
    org_id TEXT NOT NULL REFERENCES organisations (id),
    id TEXT NOT NULL,
    -- The userName in lower case.
    name_folded TEXT NOT NULL,
    external_id TEXT,
    -- The displayName in lower case.
    display_folded TEXT,
    -- 1 or 0; NULL = not said, which counts as active.
    active BIGINT,
    -- The resource as JSON, without what has a column of its own or follows from other rows; never a password.
    document TEXT NOT NULL,
    -- Counts changes, from 1.
    version BIGINT NOT NULL,
    created_at_us BIGINT NOT NULL,
    modified_at_us BIGINT NOT NULL,
    PRIMARY KEY (org_id, id)
);

CREATE UNIQUE INDEX people_by_name ON people (org_id, name_folded);
CREATE INDEX people_by_external_id ON people (org_id, external_id, id);
CREATE INDEX people_by_display ON people (org_id, display_folded, id);
CREATE INDEX people_by_active ON people (org_id, active, id);

-- What events call a person: `email:…`. The same may have been another person's before.
CREATE TABLE person_keys (
    org_id TEXT NOT NULL REFERENCES organisations (id),
    person_id TEXT NOT NULL,
    user_key TEXT NOT NULL,
    valid_from_us BIGINT NOT NULL,
    -- NULL = to this day.
    valid_to_us BIGINT,
    PRIMARY KEY (org_id, person_id, user_key, valid_from_us)
);

CREATE INDEX person_keys_by_key ON person_keys (org_id, user_key);
-- An address is one person's at a time.
CREATE UNIQUE INDEX person_keys_now ON person_keys (org_id, user_key) WHERE valid_to_us IS NULL;

-- SCIM's groups: teams. Their members are in `memberships`.
CREATE TABLE scim_groups (
    org_id TEXT NOT NULL REFERENCES organisations (id),
    id TEXT NOT NULL,
    -- The displayName in lower case.
    name_folded TEXT NOT NULL,
    external_id TEXT,
    -- The displayName: the team_id in tables.
    display TEXT NOT NULL,
    document TEXT NOT NULL,
    version BIGINT NOT NULL,
    created_at_us BIGINT NOT NULL,
    modified_at_us BIGINT NOT NULL,
    -- NULL = it is there. The row stays: past days had the team.
    deleted_at_us BIGINT,
    PRIMARY KEY (org_id, id)
);

CREATE UNIQUE INDEX scim_groups_by_name ON scim_groups (org_id, name_folded) WHERE deleted_at_us IS NULL;
CREATE INDEX scim_groups_by_external_id ON scim_groups (org_id, external_id, id);

-- Who was in which group, when. Who comes back has another row.
CREATE TABLE memberships (
    org_id TEXT NOT NULL REFERENCES organisations (id),
    group_id TEXT NOT NULL,
    person_id TEXT NOT NULL,
    valid_from_us BIGINT NOT NULL,
    -- NULL = to this day.
    valid_to_us BIGINT,
    PRIMARY KEY (org_id, group_id, person_id, valid_from_us)
);

CREATE UNIQUE INDEX memberships_now ON memberships (org_id, group_id, person_id) WHERE valid_to_us IS NULL;
CREATE INDEX memberships_by_person ON memberships (org_id, person_id);

-- Organisations whose teams come by SCIM.
CREATE TABLE scim_changes (
    org_id TEXT NOT NULL PRIMARY KEY REFERENCES organisations (id),
    -- Counts what changes teams in tables.
    changes BIGINT NOT NULL
);
