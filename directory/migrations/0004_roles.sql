-- What a read key may see, and until when. Portable like its predecessors.

-- 'service', 'admin', 'analyst', 'lead' or 'member'; NULL = service, as every key made before.
ALTER TABLE keys ADD COLUMN role TEXT;

-- The team of a lead, the person of a member.
ALTER TABLE keys ADD COLUMN subject TEXT;

-- Of an analyst: 1 = sees who people are, 0 or NULL = pseudonyms.
ALTER TABLE keys ADD COLUMN sees_names BIGINT;

-- NULL = never.
ALTER TABLE keys ADD COLUMN expires_at_us BIGINT;

-- 32 random bytes as hexadecimal digits: pseudonyms of the organisation's people are made with it. NULL = none was needed yet.
ALTER TABLE organisations ADD COLUMN pseudonym_key TEXT;
