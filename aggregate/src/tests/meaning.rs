//! What derived tables mean, written out by hand from the rows of the rollup: sets of people, day by day. Shares no code and no SQL with what
//! computes them.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{ToSpan as _, civil::Date};
use lake::Lake;
use schemas::{TableSpec, derived::specs};

use super::{
    Rows, Table,
    derive::{Member, day},
    read_table, rows_of_table, texts,
};

/// All rows of a table.
pub(super) async fn dump(lake: &Lake, spec: &'static TableSpec) -> Table {
    let mut table = Table::new();
    for (_, rows) in read_table(lake, spec).await {
        for row in texts(&rows) {
            assert!(table.insert(row), "each row once");
        }
    }
    table
}

/// A row of the rollup, as far as people are concerned.
struct Row {
    date: Date,
    org: String,
    user: String,
    product: String,
    client: String,
    used: bool,
    first_active: Date,
    state: String,
}

fn read(rows: &Rows) -> Vec<Row> {
    let number = |row: &BTreeMap<String, String>, name: &str| row[name].parse::<i64>().unwrap_or(0);
    let uses = ["sessions", "messages_total", "prompts", "model_requests", "tool_calls", "shown", "accepted"];
    rows.iter()
        .map(|((org, date, user, product, client), row)| Row {
            date: date.parse().expect("a date"),
            org: org.clone(),
            user: user.clone(),
            product: product.clone(),
            client: client.clone(),
            used: uses.iter().any(|name| number(row, name) > 0),
            first_active: row["first_active_date"].parse().expect("a date"),
            state: row["subscription_state"].clone(),
        })
        .collect()
}

fn share(part: usize, of: usize) -> String {
    let millionths = (part as f64 / of as f64 * 1e6).round() as u64;
    format!("{}.{:06}", millionths / 1_000_000, millionths % 1_000_000)
}

fn row(pairs: &[(&str, String)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
}

fn people(rows: &[Row], holds: impl Fn(&Row) -> bool) -> BTreeSet<&str> {
    rows.iter().filter(|row| holds(row)).map(|row| row.user.as_str()).collect()
}

fn dates(rows: &[Row]) -> Vec<Date> {
    let all: BTreeSet<Date> = rows.iter().map(|row| row.date).collect();
    let (Some(first), Some(last)) = (all.first(), all.last()) else { return Vec::new() };
    first.series(1.day()).take_while(|date| date <= last).collect()
}

fn orgs(rows: &[Row]) -> BTreeSet<&str> {
    rows.iter().map(|row| row.org.as_str()).collect()
}

/// `active_users`: for each day, scope and window the people of it.
fn active_users(rows: &[Row]) -> Table {
    let scopes: BTreeSet<(&str, &str)> = rows
        .iter()
        .flat_map(|row| {
            let (product, client) = (row.product.as_str(), row.client.as_str());
            [("*", "*"), (product, "*"), ("*", client), (product, client)]
        })
        .collect();
    let mut table = Table::new();
    for date in dates(rows) {
        for org in orgs(rows) {
            for (product, client) in &scopes {
                let within = |days: i64| {
                    let first = date.saturating_sub((days - 1).days());
                    let of = people(rows, |row| {
                        row.org == org
                            && (first..=date).contains(&row.date)
                            && (*product == "*" || row.product == *product)
                            && (*client == "*" || row.client == *client)
                    });
                    of.len()
                };
                let (dau, wau, mau) = (within(1), within(7), within(28));
                if mau > 0 {
                    table.insert(row(&[
                        ("activity_date", date.to_string()),
                        ("org_id", org.into()),
                        ("product", (*product).into()),
                        ("client_type", (*client).into()),
                        ("dau", dau.to_string()),
                        ("wau", wau.to_string()),
                        ("mau", mau.to_string()),
                        ("stickiness", share(dau, mau)),
                    ]));
                }
            }
        }
    }
    table
}

fn monday(date: Date) -> Date {
    let offset = i32::from(date.weekday().to_monday_zero_offset());
    date.saturating_sub(offset.days())
}

fn cohort_retention(rows: &[Row]) -> Table {
    let mut table = Table::new();
    for org in orgs(rows) {
        let of_org: BTreeSet<(Date, Date, &str)> = rows
            .iter()
            .filter(|row| row.org == org)
            .map(|row| (monday(row.first_active), monday(row.date), row.user.as_str()))
            .collect();
        let cells: BTreeSet<(Date, Date)> = of_org.iter().map(|(cohort, week, _)| (*cohort, *week)).collect();
        for (cohort, week) in cells {
            let size =
                of_org.iter().filter(|(of, ..)| *of == cohort).map(|(.., user)| user).collect::<BTreeSet<_>>().len();
            let active = of_org.iter().filter(|(of, at, _)| (*of, *at) == (cohort, week)).count();
            table.insert(row(&[
                ("activity_date", week.to_string()),
                ("org_id", org.into()),
                ("cohort_week", cohort.to_string()),
                ("weeks_since", ((week - cohort).get_days() / 7).to_string()),
                ("cohort_size", size.to_string()),
                ("active_users", active.to_string()),
                ("retention", share(active, size)),
            ]));
        }
    }
    table
}

/// `licence_state` without the plan's details, and `adoption_funnel`.
fn licences(rows: &[Row]) -> (Table, Table) {
    let (mut state, mut funnel) = (Table::new(), Table::new());
    let null = || "NULL".to_owned();
    for date in dates(rows) {
        for org in orgs(rows) {
            let mut steps = [0_usize; 6];
            for user in people(rows, |row| row.org == org && row.date <= date) {
                let theirs: Vec<&Row> =
                    rows.iter().filter(|row| row.org == org && row.user == user && row.date <= date).collect();
                let used: BTreeSet<Date> = theirs.iter().filter(|row| row.used).map(|row| row.date).collect();
                let month = used.iter().filter(|day| **day > date.saturating_sub(28.days())).count();
                let idle = used.last().map(|last| (date - *last).get_days());
                let band = match idle {
                    None => "never",
                    Some(..=7) => "0-7",
                    Some(8..=30) => "8-30",
                    Some(31..=60) => "31-60",
                    Some(_) => "61+",
                };
                let plan = theirs.last().expect("they are known").state.clone();
                let holds =
                    [true, plan == "active", !used.is_empty(), used.len() > 1, used.len() > 1 && month > 0, month > 7];
                holds.iter().zip(&mut steps).for_each(|(holds, step)| *step += usize::from(*holds));
                state.insert(row(&[
                    ("activity_date", date.to_string()),
                    ("org_id", org.into()),
                    ("user_key", user.into()),
                    ("subscription_state", plan),
                    ("first_active_date", theirs[0].first_active.to_string()),
                    ("first_use_date", used.first().map_or_else(null, Date::to_string)),
                    ("last_use_date", used.last().map_or_else(null, Date::to_string)),
                    ("days_used", used.len().to_string()),
                    ("days_used_28d", month.to_string()),
                    ("idle_days", idle.map_or_else(null, |days| days.to_string())),
                    ("band", band.into()),
                ]));
            }
            if steps[0] > 0 {
                let names = ["known", "licensed", "first_use", "second_day", "active_28d", "habitual"];
                let mut found = row(&[("activity_date", date.to_string()), ("org_id", org.into())]);
                found.extend(names.iter().zip(steps).map(|(name, step)| (format!("{name}_users"), step.to_string())));
                funnel.insert(found);
            }
        }
    }
    (state, funnel)
}

/// Columns of `team_daily` that tell of people.
fn teams(rows: &[Row], members: &[Member]) -> Table {
    let mut table = Table::new();
    for date in dates(rows) {
        for (membership, as_is) in [("as_was", false), ("as_is", true)] {
            let mut by_team: BTreeMap<usize, BTreeSet<String>> = BTreeMap::new();
            for (user, team, from, to) in members {
                let was = day(*from) <= date && to.is_none_or(|to| day(to) > date);
                if (as_is && to.is_none()) || (!as_is && was) {
                    by_team.entry(*team).or_default().insert(format!("user {user}"));
                }
            }
            for (team, of) in by_team {
                let active = people(rows, |row| row.org == "acme" && row.date == date && of.contains(&row.user));
                table.insert(row(&[
                    ("activity_date", date.to_string()),
                    ("org_id", "acme".into()),
                    ("team_id", format!("team {team}")),
                    ("membership", membership.into()),
                    ("members", of.len().to_string()),
                    ("active_users", active.len().to_string()),
                ]));
            }
        }
    }
    table
}

fn mix(rows: &[Row]) -> Table {
    let mut table = Table::new();
    let keys: BTreeSet<_> = rows.iter().map(|row| (row.date, &row.org, &row.product, &row.client)).collect();
    for (date, org, product, client) in keys {
        let here = |row: &Row| row.date == date && row.org == *org;
        let clients = |user: &str| rows.iter().filter(|row| here(row) && row.user == user).count();
        let users = people(rows, |row| here(row) && row.product == *product && row.client == *client);
        let all = people(rows, here).len();
        table.insert(row(&[
            ("activity_date", date.to_string()),
            ("org_id", org.clone()),
            ("product", product.clone()),
            ("client_type", client.clone()),
            ("active_users", users.len().to_string()),
            ("sole_users", users.iter().filter(|user| clients(user) == 1).count().to_string()),
            ("org_active_users", all.to_string()),
            ("share_of_users", share(users.len(), all)),
        ]));
    }
    table
}

/// Sums of the days `after` (exclusive) to `up_to` of a column of the rollup.
fn sum(rows: &Rows, org: &str, column: &str, after: Date, up_to: Date) -> Option<i64> {
    let within = rows.iter().filter(|((of, date, ..), _)| {
        let date: Date = date.parse().expect("a date");
        of == org && date > after && date <= up_to
    });
    within.filter_map(|(_, row)| row[column].parse::<i64>().ok()).reduce(|sum, value| sum + value)
}

fn trend_of_prompts(rows: &Rows, read: &[Row]) -> Table {
    let mut table = Table::new();
    let text = |value: Option<i64>| value.map_or("NULL".to_owned(), |value| format!("{value}.000000"));
    for date in dates(read) {
        for org in orgs(read) {
            let back = |days: i64| date.saturating_sub(days.days());
            let of = |after, up_to| sum(rows, org, "prompts", back(after), back(up_to));
            let sums = [of(1, 0), of(7, 0), of(14, 7), of(28, 0), of(56, 28)];
            if sums.iter().any(Option::is_some) {
                let [value, sum_7d, previous_7d, sum_28d, previous_28d] = sums.map(text);
                table.insert(row(&[
                    ("activity_date", date.to_string()),
                    ("org_id", org.into()),
                    ("metric", "prompts".into()),
                    ("value", value),
                    ("sum_7d", sum_7d),
                    ("previous_7d", previous_7d),
                    ("sum_28d", sum_28d),
                    ("previous_28d", previous_28d),
                ]));
            }
        }
    }
    table
}

/// A client's rows of a day.
fn by_client(rows: &Rows) -> BTreeMap<[&str; 4], Vec<&BTreeMap<String, String>>> {
    let mut groups: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for ((org, date, _, product, client), row) in rows {
        groups.entry([date.as_str(), org, product, client]).or_default().push(row);
    }
    groups
}

fn client_row(key: [&str; 4], more: &[(&str, String)]) -> BTreeMap<String, String> {
    let key = ["activity_date", "org_id", "product", "client_type"].into_iter().zip(key.map(str::to_owned));
    row(&key.chain(more.iter().cloned()).collect::<Vec<_>>())
}

/// Sum of some columns, each null or not, over rows.
fn total(rows: &[&BTreeMap<String, String>], columns: &[&str]) -> Option<i64> {
    let values = rows.iter().flat_map(|row| columns.iter().filter_map(|column| row[*column].parse::<i64>().ok()));
    values.reduce(|sum, value| sum + value)
}

fn shown(value: Option<i64>) -> String {
    value.map_or("NULL".to_owned(), |value| value.to_string())
}

fn rate(part: Option<i64>, of: Option<i64>) -> String {
    let rate = part.zip(of).filter(|(_, of)| *of != 0);
    rate.map_or("NULL".to_owned(), |(part, of)| share(part as usize, of as usize))
}

fn acceptance(rows: &Rows) -> Table {
    let table = by_client(rows).into_iter().map(|(key, rows)| {
        let of = |columns: &[&str]| total(&rows, columns);
        let approvals = of(&["tool_accepts", "tool_auto_accepts", "tool_modifies"]);
        let decisions = of(&["tool_accepts", "tool_auto_accepts", "tool_modifies", "tool_rejects"]);
        client_row(
            key,
            &[
                ("shown", shown(of(&["shown"]))),
                ("accepted", shown(of(&["accepted"]))),
                ("dismissed", shown(of(&["dismissed"]))),
                ("acceptance_rate", rate(of(&["accepted"]), of(&["shown"]))),
                ("tool_decisions", shown(decisions)),
                ("tool_approvals", shown(approvals)),
                ("tool_approval_rate", rate(approvals, decisions)),
            ],
        )
    });
    table.collect()
}

fn data_health(rows: &Rows) -> Table {
    let table = by_client(rows).into_iter().map(|(key, rows)| {
        let in_state = |state: &str| rows.iter().filter(|row| row["state"] == state).count().to_string();
        let times = |name: &str| rows.iter().map(|row| row[name].clone()).collect::<BTreeSet<_>>();
        let mut more = vec![
            ("active_users", rows.len().to_string()),
            ("provisional_rows", in_state("provisional")),
            ("final_rows", in_state("final")),
            ("restated_rows", in_state("restated")),
            ("uninstrumented_rows", rows.iter().filter(|row| row["instrumented"].is_empty()).count().to_string()),
            ("first_event_time", times("first_event_time").first().expect("a row").clone()),
            ("last_event_time", times("last_event_time").last().expect("a row").clone()),
        ];
        for column in ["events_received", "events_expected", "late_events", "duplicates_removed"] {
            more.push((column, shown(total(&rows, &[column]))));
        }
        client_row(key, &more)
    });
    table.collect()
}

/// Every derived table is what its rows mean.
pub(super) async fn assert_meant(lake: &Lake, members: Option<&[Member]>) {
    let rollup = rows_of_table(lake).await;
    let rows = read(&rollup);
    let (state, funnel) = licences(&rows);
    let expected: [(&str, Table); 9] = [
        ("active_users", active_users(&rows)),
        ("cohort_retention", cohort_retention(&rows)),
        ("licence_state", state),
        ("adoption_funnel", funnel),
        ("team_daily", members.map(|members| teams(&rows, members)).unwrap_or_default()),
        ("client_mix", mix(&rows)),
        ("acceptance", acceptance(&rollup)),
        ("data_health", data_health(&rollup)),
        ("trend", trend_of_prompts(&rollup, &rows)),
    ];
    for (name, expected) in expected {
        let spec = specs().iter().find(|spec| spec.name == name).expect("a derived table");
        let columns: BTreeSet<String> = expected.iter().flat_map(|row| row.keys().cloned()).collect();
        let found = dump(lake, spec).await.into_iter().filter(|row| name != "trend" || row["metric"] == "prompts");
        let found: Table = found
            .map(|row| row.into_iter().filter(|(column, _)| columns.is_empty() || columns.contains(column)).collect())
            .collect();
        let (more, fewer) = (found.difference(&expected).next(), expected.difference(&found).next());
        assert!(more.is_none() && fewer.is_none(), "{name}: it has {more:#?}, and should have {fewer:#?}");
    }
    let sums = dump(lake, specs().iter().find(|spec| spec.name == "org_daily").expect("a derived table")).await;
    for day in sums {
        let date: Date = day["activity_date"].parse().expect("a date");
        for column in ["events_received", "prompts", "input_tokens", "active_minutes"] {
            let expected = sum(&rollup, &day["org_id"], column, date.saturating_sub(1.days()), date);
            assert_eq!(day[column], expected.map_or("NULL".to_owned(), |sum| sum.to_string()), "{column} of {date}");
        }
    }
}
