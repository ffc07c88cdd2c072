-- In the week in which they begin, all of a cohort are active.
WITH cohorts AS (
    SELECT org_id, cohort_week, active_users AS cohort_size FROM cohort_activity WHERE activity_date = cohort_week
)
SELECT
    a.activity_date,
    a.org_id,
    a.cohort_week,
    (CAST(a.activity_date AS INT) - CAST(a.cohort_week AS INT)) / 7 AS weeks_since,
    c.cohort_size,
    a.active_users,
    round(CAST(a.active_users AS DOUBLE) / c.cohort_size, 6) AS retention
FROM cohort_activity AS a
JOIN cohorts AS c ON c.org_id = a.org_id AND c.cohort_week = a.cohort_week
WHERE a.activity_date IN (SELECT activity_date FROM dates)
