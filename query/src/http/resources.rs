//! What can be read over REST: the tables, each under a path of its own, as data. Routes, parameters and the OpenAPI document follow from it.

use std::sync::LazyLock;

use arrow::datatypes::{DataType, SchemaRef};
use schemas::{
    TableSpec, breakdown,
    clients::CLIENT_TYPES,
    derived::{self, Dates},
    revisions::{ROLLUP_REVISIONS, ROLLUP_SUPERSEDED},
    rollup::ROLLUP_DAILY,
};

use crate::fence::ORG_COLUMN;

/// Days answered where `from` is not given.
const DAYS: i64 = 30;
/// The same of a table by week: half a year.
const DAYS_OF_WEEKS: i64 = 26 * 7;
/// In place of a product or client type: all of them.
const ALL: &str = "*";

/// A table to be read.
#[derive(Debug)]
pub(crate) struct Resource {
    pub(crate) path: &'static str,
    /// Path of what its columns mean.
    pub(crate) schema_path: String,
    /// What a row is.
    pub(crate) about: &'static str,
    pub(crate) spec: &'static TableSpec,
    /// The table's, with comments.
    pub(crate) schema: SchemaRef,
    /// Columns that order the rows, and that identify one within an organisation. The first is the date by which `from` and `to` choose.
    pub(crate) key: Vec<&'static str>,
    /// Parameters by which rows are chosen.
    pub(crate) filters: Vec<Filter>,
    /// Days answered where `from` is not given.
    pub(crate) days: i64,
}

/// A parameter that chooses the rows whose column holds one of its values.
#[derive(Debug)]
pub(crate) struct Filter {
    pub(crate) name: &'static str,
    pub(crate) column: &'static str,
    /// What the column may hold; `None` = any text.
    pub(crate) values: Option<Vec<&'static str>>,
}

/// Path, table, what a row is.
static LISTED: [(&str, &str, &str); 17] = [
    ("/v1/rollups/daily", "rollup_daily", "A person's day with one product and client type."),
    ("/v1/organisation/daily", "org_daily", "The organisation's day."),
    ("/v1/teams/daily", "team_daily", "A team's day, by its members of that day (as_was) and by those of now (as_is)."),
    ("/v1/active-users/daily", "active_users", "Active people of the day, the week and the month up to it."),
    ("/v1/trends/daily", "trend", "A metric up to a day against the time before."),
    ("/v1/clients/daily", "client_mix", "A client's part in the organisation's day."),
    ("/v1/acceptance/daily", "acceptance", "What people took of what a client suggested, by day."),
    ("/v1/models/daily", "model_daily", "A person's day with one client and model."),
    ("/v1/tools/daily", "tool_daily", "A person's day with one client and tool."),
    ("/v1/features/daily", "feature_daily", "A person's day with one client and feature."),
    ("/v1/languages/daily", "language_daily", "A person's day with one client and language."),
    ("/v1/licences/daily", "licence_state", "A person's licence on a day, and how it is used."),
    ("/v1/funnel/daily", "adoption_funnel", "How far people came from a licence to habit, by day."),
    ("/v1/retention/weekly", "cohort_retention", "Of the people who began in a week, those active in a later one."),
    ("/v1/data-health/daily", "data_health", "How complete and how late a client's events of a day are."),
    ("/v1/revisions", "rollup_revisions", "A change of a day of the rollup: when, why, and what it was before."),
    (
        "/v1/revisions/rows",
        "rollup_superseded",
        "A row of the rollup that was final, as it stood until it was restated.",
    ),
];

/// All of them.
pub(crate) fn resources() -> &'static [Resource] {
    static RESOURCES: LazyLock<Vec<Resource>> =
        LazyLock::new(|| LISTED.iter().map(|(path, table, about)| Resource::new(path, table, about)).collect());
    &RESOURCES
}

impl Resource {
    fn new(path: &'static str, table: &str, about: &'static str) -> Self {
        let rollups = [&ROLLUP_DAILY, &ROLLUP_REVISIONS, &ROLLUP_SUPERSEDED].into_iter();
        let mut specs = rollups.chain(breakdown::specs()).chain(derived::specs());
        let spec = specs.find(|spec| spec.name == table).expect("each path has a table, a test looks");
        let date = spec.partition_column.expect("each of these tables is by date");
        let schema = spec.schema();
        let key: Vec<&str> = std::iter::once(date)
            .chain(spec.sort_columns.iter().copied().filter(|name| ![ORG_COLUMN, date].contains(name)))
            .collect();
        let is_text = |name: &&&str| {
            let field = schema.field_with_name(name).expect("a column of the table");
            field.data_type() == &DataType::Utf8
        };
        let filters = key.iter().filter(is_text).map(|column| Filter::new(spec, column)).collect();
        let is_weekly = derived::derived().iter().any(|known| known.table == table && known.dates == Dates::Week);
        let days = if is_weekly { DAYS_OF_WEEKS } else { DAYS };
        Self { path, schema_path: format!("{path}/schema"), about, spec, schema, key, filters, days }
    }
}

impl Filter {
    fn new(spec: &TableSpec, column: &'static str) -> Self {
        let name = match column {
            "user_key" => "user",
            "team_id" => "team",
            other => other,
        };
        // Of this table alone, some rows stand for all clients.
        let all = (spec.name == "active_users").then_some(ALL);
        let values = match column {
            "client_type" => Some(CLIENT_TYPES.iter().copied().chain(all).collect()),
            "membership" => Some(vec!["as_was", "as_is"]),
            _ => None,
        };
        Self { name, column, values }
    }
}
