SELECT
    activity_date,
    org_id,
    product,
    client_type,
    count(*) AS active_users,
    sum(events_received) AS events_received,
    sum(events_expected) AS events_expected,
    round(sum(CAST(completeness AS DOUBLE) * events_expected) / nullif(sum(events_expected), 0), 6) AS completeness,
    sum(late_events) AS late_events,
    sum(duplicates_removed) AS duplicates_removed,
    min(first_event_time) AS first_event_time,
    max(last_event_time) AS last_event_time,
    sum(CASE WHEN state = 'provisional' THEN 1 ELSE 0 END) AS provisional_rows,
    sum(CASE WHEN state = 'final' THEN 1 ELSE 0 END) AS final_rows,
    sum(CASE WHEN state = 'restated' THEN 1 ELSE 0 END) AS restated_rows,
    sum(CASE WHEN instrumented = '' THEN 1 ELSE 0 END) AS uninstrumented_rows
FROM rollup_daily
WHERE activity_date IN (SELECT activity_date FROM dates)
GROUP BY activity_date, org_id, product, client_type
