SELECT
    activity_date,
    org_id,
    count(DISTINCT user_key) AS active_users,
    count(DISTINCT CASE WHEN newly_activated THEN user_key END) AS new_users,
    CASE
        WHEN sum(CASE WHEN state = 'provisional' THEN 1 ELSE 0 END) > 0 THEN 'provisional'
        WHEN sum(CASE WHEN state = 'restated' THEN 1 ELSE 0 END) > 0 THEN 'restated'
        ELSE 'final'
    END AS state,
    sum(events_received) AS events_received,
    sum(events_expected) AS events_expected,
    round(sum(CAST(completeness AS DOUBLE) * events_expected) / nullif(sum(events_expected), 0), 6) AS completeness,
    sum(late_events) AS late_events,
    sum(duplicates_removed) AS duplicates_removed,
    sum(active_minutes) AS active_minutes,
    {sums}
FROM rollup_daily
WHERE activity_date IN (SELECT activity_date FROM dates)
GROUP BY activity_date, org_id
