WITH metrics AS (
    SELECT column1 AS metric
    FROM (VALUES
        ('active_users'), ('new_users'), ('active_minutes'), ('sessions'), ('prompts'), ('messages_total'), ('model_requests'),
        ('input_tokens'), ('output_tokens'), ('tool_calls'), ('shown'), ('accepted'), ('lines_accepted_add'), ('commits_ai'),
        ('credits_used'), ('cost_estimated_micro_usd'), ('cost_charged_micro_usd')
    )
),
daily AS (
    SELECT
        o.activity_date,
        o.org_id,
        m.metric,
        CASE m.metric
            WHEN 'active_users' THEN CAST(o.active_users AS DECIMAL(38, 6))
            WHEN 'new_users' THEN CAST(o.new_users AS DECIMAL(38, 6))
            WHEN 'active_minutes' THEN CAST(o.active_minutes AS DECIMAL(38, 6))
            WHEN 'sessions' THEN CAST(o.sessions AS DECIMAL(38, 6))
            WHEN 'prompts' THEN CAST(o.prompts AS DECIMAL(38, 6))
            WHEN 'messages_total' THEN CAST(o.messages_total AS DECIMAL(38, 6))
            WHEN 'model_requests' THEN CAST(o.model_requests AS DECIMAL(38, 6))
            WHEN 'input_tokens' THEN CAST(o.input_tokens AS DECIMAL(38, 6))
            WHEN 'output_tokens' THEN CAST(o.output_tokens AS DECIMAL(38, 6))
            WHEN 'tool_calls' THEN CAST(o.tool_calls AS DECIMAL(38, 6))
            WHEN 'shown' THEN CAST(o.shown AS DECIMAL(38, 6))
            WHEN 'accepted' THEN CAST(o.accepted AS DECIMAL(38, 6))
            WHEN 'lines_accepted_add' THEN CAST(o.lines_accepted_add AS DECIMAL(38, 6))
            WHEN 'commits_ai' THEN CAST(o.commits_ai AS DECIMAL(38, 6))
            WHEN 'credits_used' THEN CAST(o.credits_used AS DECIMAL(38, 6))
            WHEN 'cost_estimated_micro_usd' THEN CAST(o.cost_estimated_micro_usd AS DECIMAL(38, 6))
            WHEN 'cost_charged_micro_usd' THEN CAST(o.cost_charged_micro_usd AS DECIMAL(38, 6))
        END AS value
    FROM org_daily AS o
    CROSS JOIN metrics AS m
),
windows AS (
    SELECT
        d.activity_date,
        v.org_id,
        v.metric,
        max(CASE WHEN v.activity_date = d.activity_date THEN v.value END) AS value,
        sum(CASE WHEN v.activity_date > d.activity_date - INTERVAL '7 day' THEN v.value END) AS sum_7d,
        sum(CASE
            WHEN v.activity_date <= d.activity_date - INTERVAL '7 day' AND v.activity_date > d.activity_date - INTERVAL '14 day' THEN v.value
        END) AS previous_7d,
        sum(CASE WHEN v.activity_date > d.activity_date - INTERVAL '28 day' THEN v.value END) AS sum_28d,
        sum(CASE WHEN v.activity_date <= d.activity_date - INTERVAL '28 day' THEN v.value END) AS previous_28d
    FROM dates AS d
    JOIN daily AS v ON v.activity_date <= d.activity_date AND v.activity_date > d.activity_date - INTERVAL '56 day'
    WHERE v.value IS NOT NULL
    GROUP BY d.activity_date, v.org_id, v.metric
)
SELECT
    *,
    round(CAST(sum_7d AS DOUBLE) / nullif(CAST(previous_7d AS DOUBLE), 0) - 1, 6) AS change_7d,
    round(CAST(sum_28d AS DOUBLE) / nullif(CAST(previous_28d AS DOUBLE), 0) - 1, 6) AS change_28d
FROM windows
