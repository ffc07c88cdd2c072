//! What the demo says.

use std::{fmt::Write as _, net::SocketAddr, path::Path, time::Duration};

use super::{Times, account::Account, history::Past, orgs::Keys};
use crate::generate::Config;

/// The account, for people.
pub(super) fn text(generator: &Config, account: &Account, times: &Times) -> String {
    let Account { sent, straight, after, .. } = account;
    let mut text = String::new();
    let first = generator.end - jiff::Span::new().days(i64::from(generator.days - 1));
    let _ = writeln!(
        text,
        "Activity of {} people in {} organisations, {first} to {}, seed {}{}\n",
        generator.users,
        generator.orgs,
        generator.end,
        generator.seed,
        match account.past {
            Past::Never => "",
            Past::Begun => "; an earlier run of it did not come to its end",
            Past::Done => "; this directory has had it before",
        },
    );
    let mut row = |name: &str, number: u64, remark: String| {
        let remark = if remark.is_empty() { remark } else { format!("   {remark}") };
        let _ = writeln!(text, "  {name:<34}{:>12}{remark}", grouped(number));
    };
    let of_all = |new: u64, all: u64| if new == all { String::new() } else { format!("of {} in all", grouped(all)) };
    row("events sent", sent.all(), String::new());
    row("  accepted by the collector", sent.accepted, String::new());
    row("  refused by the collector", sent.refused, format!("{} were made to be refused", grouped(sent.made.bad)));
    row("written to the log past it", *straight, "broken on purpose".to_owned());
    row("stored in events", account.new_events(), of_all(account.new_events(), after.events));
    row("dead letters", account.new_dead_letters(), of_all(account.new_dead_letters(), after.dead_letters));
    row("duplicates removed", after.duplicates_removed, "by the rollup, over all events".to_owned());
    row("distinct events in the rollup", after.received, String::new());
    row("rollup rows", after.rollup_rows, "one per person, client and day".to_owned());
    let Times { start, send, commit, rollup, check } = times;
    let total = *start + *send + *commit + *rollup + *check;
    let _ = writeln!(
        text,
        "\n  start {} · send {} · commit {} · rollup {} · check {} · total {}\n",
        seconds(*start),
        seconds(*send),
        seconds(*commit),
        seconds(*rollup),
        seconds(*check),
        seconds(total),
    );
    for check in account.checks() {
        let (mark, sides) = match check.holds() {
            true => ("ok  ", String::new()),
            false => ("FAIL", format!(": {} is not {}", grouped(check.left), grouped(check.right))),
        };
        let _ = writeln!(text, "  {mark} {}{sides}", check.claim);
    }
    text
}

/// What to do with a demo that is serving.
pub(super) fn invitation(
    address: SocketAddr,
    sql: Option<SocketAddr>,
    dir: &Path,
    orgs: &[Keys],
    temporary: bool,
) -> String {
    let program = std::env::args().next().unwrap_or_else(|| "daybook".to_owned());
    let dir_text = dir.display();
    let Some(Keys { org, ingest, read }) = orgs.first() else { return String::new() };
    let fate = if temporary { "removed when the demo ends; --dir DIR keeps it" } else { "kept" };
    let psql = sql.map_or_else(String::new, |sql| {
        let (host, port) = (sql.ip(), sql.port());
        format!("\nThe same in psql:\n  PGPASSWORD={read} psql -h {host} -p {port} -U {org} daybook\n")
    });
    format!(
        "
Serving on http://{address} (Ctrl-C ends it); the data is in {dir_text} ({fate})

  health      http://{address}/healthz   http://{address}/readyz   http://{address}/metrics
  rollups     http://{address}/v1/rollups/daily
  API         http://{address}/v1/docs
  events      POST http://{address}/v1/events; OTLP/HTTP at http://{address}

The rollup of `{org}`, over HTTP:
  curl -H 'Authorization: Bearer {read}' 'http://{address}/v1/rollups/daily?limit=2'
  curl -H 'Authorization: Bearer {read}' 'http://{address}/v1/rollups/daily?format=csv&columns=activity_date,user_key,client_type,prompts,model_requests'
{psql}
All organisations, by SQL:
  {program} --set lake.url={dir_text}/lake query \"SELECT activity_date, count(DISTINCT user_key) AS people, sum(prompts) AS prompts FROM rollup_daily GROUP BY activity_date ORDER BY activity_date\"

An event of your own:
  {program} generate --events 1000 --seed 2 | DAYBOOK_KEY={ingest} {program} emit - --url http://{address}
"
    )
}

fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}

/// 1234567 as 1,234,567.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
