-- Which process has work that one at a time is to do. Portable like its predecessors.

CREATE TABLE leases (
    -- What the work is.
    name TEXT NOT NULL PRIMARY KEY,
    -- The process that does it, by a name of its own choice.
    holder TEXT NOT NULL,
    -- From then on anyone may take it.
    expires_at_us BIGINT NOT NULL
);
