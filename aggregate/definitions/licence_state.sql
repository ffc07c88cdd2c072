WITH people AS (
    SELECT
        r.activity_date,
        r.org_id,
        r.user_key,
        -- All rows of a person's day say the same of plan and first day.
        max(r.subscription_state) AS subscription_state,
        max(r.subscription_tier) AS subscription_tier,
        max(CASE WHEN r.overage_enabled THEN 1 WHEN NOT r.overage_enabled THEN 0 END) AS overage,
        min(r.first_active_date) AS first_active_date,
        max(CASE
            WHEN r.sessions > 0 OR r.messages_total > 0 OR r.prompts > 0 OR r.model_requests > 0 OR r.tool_calls > 0 OR r.shown > 0
                OR r.accepted > 0
                THEN 1
            ELSE 0
        END) AS used
    FROM rollup_daily AS r
    GROUP BY r.activity_date, r.org_id, r.user_key
),
today AS (
    SELECT * FROM people WHERE activity_date IN (SELECT activity_date FROM dates)
),
month AS (
    SELECT org_id, user_key, sum(used) AS days_used_28d FROM people GROUP BY org_id, user_key
),
everyone AS (
    SELECT
        coalesce(t.org_id, b.org_id) AS org_id,
        coalesce(t.user_key, b.user_key) AS user_key,
        CASE WHEN t.user_key IS NULL THEN b.subscription_state ELSE t.subscription_state END AS subscription_state,
        CASE WHEN t.user_key IS NULL THEN b.subscription_tier ELSE t.subscription_tier END AS subscription_tier,
        CASE WHEN t.user_key IS NULL THEN b.overage_enabled ELSE t.overage = 1 END AS overage_enabled,
        coalesce(t.first_active_date, b.first_active_date) AS first_active_date,
        CASE WHEN b.first_use_date IS NOT NULL THEN b.first_use_date WHEN t.used = 1 THEN t.activity_date END AS first_use_date,
        CASE WHEN t.used = 1 THEN t.activity_date ELSE b.last_use_date END AS last_use_date,
        coalesce(b.days_used, 0) + coalesce(t.used, 0) AS days_used
    FROM before AS b
    FULL JOIN today AS t ON t.org_id = b.org_id AND t.user_key = b.user_key
)
SELECT
    d.activity_date,
    e.*,
    coalesce(m.days_used_28d, 0) AS days_used_28d,
    CAST(d.activity_date AS INT) - CAST(e.last_use_date AS INT) AS idle_days,
    CASE
        WHEN e.last_use_date IS NULL THEN 'never'
        WHEN CAST(d.activity_date AS INT) - CAST(e.last_use_date AS INT) <= 7 THEN '0-7'
        WHEN CAST(d.activity_date AS INT) - CAST(e.last_use_date AS INT) <= 30 THEN '8-30'
        WHEN CAST(d.activity_date AS INT) - CAST(e.last_use_date AS INT) <= 60 THEN '31-60'
        ELSE '61+'
    END AS band
FROM everyone AS e
CROSS JOIN dates AS d
LEFT JOIN month AS m ON m.org_id = e.org_id AND m.user_key = e.user_key
