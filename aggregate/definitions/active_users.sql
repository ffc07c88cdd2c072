-- A person counts for a day where the latest of their active days is less than 1, 7 or 28 days before. So each active day holds for so many
-- days, or until the next one; who begins and who ceases to count is added up along the dates. Costs one row per active day, not per window.
WITH people AS (
    SELECT DISTINCT activity_date, org_id, '*' AS product, '*' AS client_type, user_key FROM rollup_daily
    UNION ALL
    SELECT DISTINCT activity_date, org_id, product, '*' AS client_type, user_key FROM rollup_daily
    UNION ALL
    SELECT DISTINCT activity_date, org_id, '*' AS product, client_type, user_key FROM rollup_daily
    UNION ALL
    SELECT activity_date, org_id, product, client_type, user_key FROM rollup_daily
),
active AS (
    SELECT
        org_id,
        product,
        client_type,
        activity_date,
        coalesce(
            lead(activity_date) OVER (PARTITION BY org_id, product, client_type, user_key ORDER BY activity_date),
            DATE '9999-12-31'
        ) AS next_date
    FROM people
),
steps AS (
    SELECT org_id, product, client_type, activity_date AS date, 1 AS day, 1 AS week, 1 AS month FROM active
    UNION ALL
    SELECT org_id, product, client_type, activity_date + INTERVAL '1 day' AS date, -1 AS day, 0 AS week, 0 AS month FROM active
    UNION ALL
    SELECT
        org_id,
        product,
        client_type,
        CASE WHEN next_date < activity_date + INTERVAL '7 day' THEN next_date ELSE activity_date + INTERVAL '7 day' END AS date,
        0 AS day,
        -1 AS week,
        0 AS month
    FROM active
    UNION ALL
    SELECT
        org_id,
        product,
        client_type,
        CASE WHEN next_date < activity_date + INTERVAL '28 day' THEN next_date ELSE activity_date + INTERVAL '28 day' END AS date,
        0 AS day,
        0 AS week,
        -1 AS month
    FROM active
    UNION ALL
    -- Dates on which nobody begins or ceases have a row too.
    SELECT c.org_id, c.product, c.client_type, d.activity_date AS date, 0 AS day, 0 AS week, 0 AS month
    FROM (SELECT DISTINCT org_id, product, client_type FROM active) AS c
    CROSS JOIN dates AS d
),
changes AS (
    SELECT org_id, product, client_type, CAST(date AS DATE) AS date, sum(day) AS day, sum(week) AS week, sum(month) AS month
    FROM steps
    GROUP BY org_id, product, client_type, CAST(date AS DATE)
),
counts AS (
    SELECT
        date AS activity_date,
        org_id,
        product,
        client_type,
        sum(day) OVER (PARTITION BY org_id, product, client_type ORDER BY date ROWS UNBOUNDED PRECEDING) AS dau,
        sum(week) OVER (PARTITION BY org_id, product, client_type ORDER BY date ROWS UNBOUNDED PRECEDING) AS wau,
        sum(month) OVER (PARTITION BY org_id, product, client_type ORDER BY date ROWS UNBOUNDED PRECEDING) AS mau
    FROM changes
)
SELECT *, round(CAST(dau AS DOUBLE) / mau, 6) AS stickiness
FROM counts
WHERE mau > 0 AND activity_date IN (SELECT activity_date FROM dates)
