WITH sums AS (
    SELECT
        activity_date,
        org_id,
        product,
        client_type,
        sum(shown) AS shown,
        sum(accepted) AS accepted,
        sum(rejected) AS rejected,
        sum(dismissed) AS dismissed,
        sum(lines_suggested_add) AS lines_suggested,
        sum(lines_accepted_add) AS lines_accepted,
        sum(tool_accepts + tool_auto_accepts + tool_rejects + tool_modifies) AS tool_decisions,
        sum(tool_accepts + tool_auto_accepts + tool_modifies) AS tool_approvals
    FROM rollup_daily
    WHERE activity_date IN (SELECT activity_date FROM dates)
    GROUP BY activity_date, org_id, product, client_type
)
SELECT
    *,
    round(CAST(accepted AS DOUBLE) / nullif(shown, 0), 6) AS acceptance_rate,
    round(CAST(lines_accepted AS DOUBLE) / nullif(lines_suggested, 0), 6) AS line_acceptance_rate,
    round(CAST(tool_approvals AS DOUBLE) / nullif(tool_decisions, 0), 6) AS tool_approval_rate
FROM sums
