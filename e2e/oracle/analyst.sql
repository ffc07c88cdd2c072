SELECT 1
SELECT 'it''s', CAST(NULL AS TEXT), 12.50
SELECT count(*) FROM events
SELECT count(*) FROM rollup_daily
SELECT min(activity_date), max(activity_date) FROM rollup_daily
SELECT activity_date, count(DISTINCT user_key) AS people FROM rollup_daily GROUP BY activity_date ORDER BY activity_date
SELECT client_type, sum(prompts) AS prompts FROM rollup_daily GROUP BY 1 ORDER BY 2 DESC, 1
SELECT client_type, sum(prompts) FROM rollup_daily GROUP BY client_type HAVING sum(prompts) > 10 ORDER BY 1
SELECT user_key, sum(model_requests) AS n FROM rollup_daily GROUP BY user_key ORDER BY n DESC, user_key LIMIT 5
SELECT user_key, n FROM (SELECT user_key, sum(prompts) AS n FROM rollup_daily GROUP BY user_key) t WHERE n > 3 ORDER BY n, user_key LIMIT 7
WITH days AS (SELECT activity_date, sum(prompts) AS n FROM rollup_daily GROUP BY 1) SELECT activity_date, n, sum(n) OVER (ORDER BY activity_date) FROM days ORDER BY 1
SELECT user_key, activity_date, row_number() OVER (PARTITION BY user_key ORDER BY activity_date) AS nth FROM rollup_daily WHERE client_type = 'cli' ORDER BY 1, 2, 3 LIMIT 6
SELECT activity_date, n - lag(n) OVER (ORDER BY activity_date) FROM (SELECT activity_date, count(*) AS n FROM rollup_daily GROUP BY 1) t ORDER BY 1
SELECT DISTINCT product FROM rollup_daily ORDER BY product
SELECT DISTINCT ON (client_type) client_type, activity_date FROM rollup_daily ORDER BY client_type, activity_date DESC
SELECT count(*) FILTER (WHERE client_type = 'cli'), count(*) FILTER (WHERE client_type <> 'cli') FROM events
SELECT CASE WHEN prompts > 5 THEN 'many' WHEN prompts > 0 THEN 'some' ELSE 'none' END AS class, count(*) FROM rollup_daily GROUP BY 1 ORDER BY 1
SELECT CAST(date_trunc('week', activity_date) AS DATE) AS week, count(*) FROM rollup_daily GROUP BY 1 ORDER BY 1
SELECT CAST(extract(isodow FROM activity_date) AS INT) AS day, count(*) FROM rollup_daily GROUP BY 1 ORDER BY 1
SELECT count(*) FROM rollup_daily WHERE activity_date > (SELECT max(activity_date) FROM rollup_daily) - INTERVAL '3 days'
SELECT count(*) FROM rollup_daily WHERE activity_date BETWEEN DATE '2000-01-01' AND DATE '2100-01-01'
SELECT count(*) FROM events WHERE user_key LIKE 'email:%' AND user_key NOT LIKE '%nobody%'
SELECT count(*) FROM events WHERE user_key ~ '^email:[a-m]'
SELECT count(*) FROM events WHERE client_type IN ('cli', 'ide') AND NOT (client_type = 'ide')
SELECT DISTINCT upper(client_type), length(client_type), substr(client_type, 1, 2), client_type || '!' FROM rollup_daily ORDER BY 1
SELECT coalesce(NULL, 'x'), nullif(1, 1), greatest(1, 2, 3), least(1, 2), abs(-3), round(2.567, 1)
SELECT string_agg(client_type, ',' ORDER BY client_type) FROM (SELECT DISTINCT client_type FROM rollup_daily) t
SELECT r.client_type, count(*) FROM rollup_daily r JOIN client_mix m ON m.client_type = r.client_type AND m.activity_date = r.activity_date GROUP BY 1 ORDER BY 1
SELECT a.activity_date, b.n FROM (SELECT DISTINCT activity_date FROM rollup_daily) a LEFT JOIN (SELECT activity_date, count(*) AS n FROM rollup_daily WHERE client_type = 'web' GROUP BY 1) b USING (activity_date) ORDER BY 1
SELECT client_type FROM rollup_daily UNION SELECT 'other' ORDER BY 1
SELECT client_type FROM rollup_daily INTERSECT SELECT 'cli'
SELECT client_type FROM rollup_daily EXCEPT SELECT 'cli' ORDER BY 1
SELECT count(*) FROM rollup_daily r WHERE EXISTS (SELECT 1 FROM events e WHERE e.user_key = r.user_key AND e.client_type = 'cli')
SELECT value FROM generate_series(1, 5) AS t(value) ORDER BY value DESC OFFSET 1 LIMIT 3
SELECT * FROM (VALUES (1, 'a'), (2, 'b')) AS t(n, letter) ORDER BY n
SELECT table_name FROM information_schema.tables WHERE table_schema = 'public' ORDER BY table_name
SELECT column_name, is_nullable FROM information_schema.columns WHERE table_name = 'team_members' ORDER BY ordinal_position
SELECT table_name, column_name, comment FROM column_comments WHERE table_name = 'org_daily' ORDER BY column_name LIMIT 3
SELECT c.relname, n.nspname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.relname = 'events'
SELECT current_database(), current_schema(), version()
SHOW server_version
SHOW transaction_read_only
