WITH members AS (
    SELECT DISTINCT d.activity_date, m.org_id, m.team_id, m.user_key, 'as_was' AS membership
    FROM dates AS d
    JOIN team_members AS m ON m.valid_from <= d.activity_date AND (m.valid_to IS NULL OR m.valid_to > d.activity_date)
    UNION ALL
    SELECT DISTINCT d.activity_date, m.org_id, m.team_id, m.user_key, 'as_is' AS membership
    FROM dates AS d
    CROSS JOIN team_members AS m
    WHERE m.valid_to IS NULL
)
SELECT
    m.activity_date,
    m.org_id,
    m.team_id,
    m.membership,
    count(DISTINCT m.user_key) AS members,
    count(DISTINCT r.user_key) AS active_users,
    sum(r.active_minutes) AS active_minutes,
    {sums}
FROM members AS m
LEFT JOIN rollup_daily AS r ON r.activity_date = m.activity_date AND r.org_id = m.org_id AND r.user_key = m.user_key
GROUP BY m.activity_date, m.org_id, m.team_id, m.membership
