SELECT
    CAST(date_trunc('week', activity_date) AS DATE) AS activity_date,
    org_id,
    CAST(date_trunc('week', first_active_date) AS DATE) AS cohort_week,
    count(DISTINCT user_key) AS active_users
FROM rollup_daily
WHERE CAST(date_trunc('week', activity_date) AS DATE) IN (SELECT activity_date FROM dates)
GROUP BY 1, org_id, 3
