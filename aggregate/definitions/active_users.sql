-- A person counts for a day where the latest of their active days is less than 1, 7 or 28 days before. So each active day holds for so many
-- days, or until the next one; who begins and who ceases to count is added up along the dates. Costs one row per active day, not per window.
WITH scopes AS (
    SELECT column1 AS of_product, column2 AS of_client FROM (VALUES (false, false), (true, false), (false, true), (true, true))
),
people AS (
    SELECT DISTINCT
        r.activity_date,
        r.org_id,
        CASE WHEN s.of_product THEN r.product ELSE '*' END AS product,
        CASE WHEN s.of_client THEN r.client_type ELSE '*' END AS client_type,
        r.user_key
    FROM rollup_daily AS r
    CROSS JOIN scopes AS s
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
    SELECT
        a.org_id,
        a.product,
        a.client_type,
        CASE
            WHEN k.step = 'begins' THEN a.activity_date
            WHEN a.next_date < a.activity_date + k.days THEN a.next_date
            ELSE a.activity_date + k.days
        END AS date,
        k.day,
        k.week,
        k.month
    FROM active AS a
    CROSS JOIN (
        SELECT column1 AS step, column2 AS days, column3 AS day, column4 AS week, column5 AS month
        FROM (VALUES
            ('begins', INTERVAL '0 day', 1, 1, 1),
            ('ceases', INTERVAL '1 day', -1, 0, 0),
            ('ceases', INTERVAL '7 day', 0, -1, 0),
            ('ceases', INTERVAL '28 day', 0, 0, -1)
        )
    ) AS k
    UNION ALL
    -- Dates on which nobody begins or ceases have a row too.
    SELECT c.org_id, c.product, c.client_type, d.activity_date AS date, 0 AS day, 0 AS week, 0 AS month
    FROM (
        SELECT DISTINCT
            r.org_id,
            CASE WHEN s.of_product THEN r.product ELSE '*' END AS product,
            CASE WHEN s.of_client THEN r.client_type ELSE '*' END AS client_type
        FROM rollup_daily AS r
        CROSS JOIN scopes AS s
    ) AS c
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
