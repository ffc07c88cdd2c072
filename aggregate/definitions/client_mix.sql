WITH clients AS (
    -- One row of rollup_daily is one person with one client.
    SELECT activity_date, org_id, user_key, count(*) AS clients
    FROM rollup_daily
    WHERE activity_date IN (SELECT activity_date FROM dates)
    GROUP BY activity_date, org_id, user_key
),
orgs AS (
    SELECT activity_date, org_id, count(*) AS active_users FROM clients GROUP BY activity_date, org_id
)
SELECT
    r.activity_date,
    r.org_id,
    r.product,
    r.client_type,
    count(*) AS active_users,
    sum(CASE WHEN c.clients = 1 THEN 1 ELSE 0 END) AS sole_users,
    max(o.active_users) AS org_active_users,
    round(CAST(count(*) AS DOUBLE) / max(o.active_users), 6) AS share_of_users,
    sum(r.events_received) AS events_received,
    sum(r.active_minutes) AS active_minutes,
    sum(r.sessions) AS sessions,
    sum(r.prompts) AS prompts,
    sum(r.messages_total) AS messages_total,
    sum(r.credits_used) AS credits_used
FROM rollup_daily AS r
JOIN clients AS c ON c.activity_date = r.activity_date AND c.org_id = r.org_id AND c.user_key = r.user_key
JOIN orgs AS o ON o.activity_date = r.activity_date AND o.org_id = r.org_id
GROUP BY r.activity_date, r.org_id, r.product, r.client_type
