SELECT
    activity_date,
    org_id,
    count(*) AS known_users,
    sum(CASE WHEN subscription_state = 'active' THEN 1 ELSE 0 END) AS licensed_users,
    sum(CASE WHEN days_used >= 1 THEN 1 ELSE 0 END) AS first_use_users,
    sum(CASE WHEN days_used >= 2 THEN 1 ELSE 0 END) AS second_day_users,
    sum(CASE WHEN days_used >= 2 AND days_used_28d >= 1 THEN 1 ELSE 0 END) AS active_28d_users,
    sum(CASE WHEN days_used_28d >= 8 THEN 1 ELSE 0 END) AS habitual_users
FROM licence_state
WHERE activity_date IN (SELECT activity_date FROM dates)
GROUP BY activity_date, org_id
