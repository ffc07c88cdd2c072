//! Statements out of a seed: queries of every shape over every table, most of them sound.
//!
//! What a statement shows is either a value of a table as it is, or made so that nothing of a canary gets lost (`upper`, `concat`, no hashes, no sums of
//! canary numbers: arithmetic could make the digits of another organisation out of nothing).

use rand::{Rng, SeedableRng, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;

use arrow::datatypes::DataType;
use schemas::{DEAD_LETTERS, tables};

use super::world::ORGS;

/// What can be done with a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Number,
    Bool,
    Day,
    Time,
}

const KINDS: [Kind; 5] = [Kind::Text, Kind::Number, Kind::Bool, Kind::Day, Kind::Time];

impl Kind {
    fn of(data_type: &DataType) -> Option<Self> {
        Some(match data_type {
            DataType::Utf8 => Self::Text,
            DataType::Int32 | DataType::Int64 => Self::Number,
            DataType::Boolean => Self::Bool,
            DataType::Date32 => Self::Day,
            DataType::Timestamp(..) => Self::Time,
            _ => return None,
        })
    }
}

/// A column as an expression, and what it holds.
type Column = (String, Kind);

/// Deepest nesting of queries.
const DEPTH: u32 = 3;

pub(super) struct Generator {
    random: ChaCha8Rng,
    tables: Vec<(&'static str, Vec<Column>)>,
    /// WITH queries of the statement so far.
    shared: Vec<(String, Vec<Column>)>,
    aliases: u32,
}

impl Generator {
    pub(super) fn new(seed: u64) -> Self {
        let seen = tables::all().filter(|spec| spec.name != DEAD_LETTERS.name);
        let tables = seen.map(|spec| {
            let fields = spec.schema();
            let columns = fields.fields().iter();
            let columns = columns.filter_map(|field| Some((field.name().clone(), Kind::of(field.data_type())?)));
            (spec.name, columns.collect())
        });
        Self { random: ChaCha8Rng::seed_from_u64(seed), tables: tables.collect(), shared: Vec::new(), aliases: 0 }
    }

    /// The next statement.
    pub(super) fn statement(&mut self) -> String {
        self.shared.clear();
        self.aliases = 0;
        let with = if self.one_in(5) { self.with() } else { String::new() };
        let mut kinds = self.kinds();
        // Most numbers and texts tell whose they are, days do not.
        kinds[0] = *[Kind::Text, Kind::Number].choose(&mut self.random).expect("some");
        let query = self.query(&kinds, 0);
        let limit = self.random.random_range(20..100);
        let statement = format!("{with}{query} LIMIT {limit}");
        match self.random.random_range(0..25) {
            0 => format!("EXPLAIN {statement}"),
            1 => format!("EXPLAIN VERBOSE {statement}"),
            2 => format!("EXPLAIN ANALYZE {statement}"),
            _ => statement,
        }
    }

    fn one_in(&mut self, n: u32) -> bool {
        self.random.random_ratio(1, n)
    }

    fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from.choose(&mut self.random).expect("there are some")
    }

    fn kinds(&mut self) -> Vec<Kind> {
        let columns = self.random.random_range(1..5);
        // Texts above all: they name people and organisations.
        (0..columns)
            .map(|_| if self.one_in(2) { Kind::Text } else { *KINDS.choose(&mut self.random).expect("some") })
            .collect()
    }

    fn alias(&mut self) -> String {
        self.aliases += 1;
        format!("t{}", self.aliases)
    }

    fn with(&mut self) -> String {
        let kinds = self.kinds();
        let (query, name) = (self.query(&kinds, 1), self.alias());
        let columns = kinds.iter().enumerate().map(|(at, kind)| (format!("c{at}"), *kind)).collect();
        self.shared.push((name.clone(), columns));
        format!("WITH {name} AS ({query}) ")
    }

    /// A query whose columns are `c0`, `c1`, … of these kinds.
    fn query(&mut self, kinds: &[Kind], depth: u32) -> String {
        if depth < DEPTH && self.one_in(7) {
            let [one, other] = [(); 2].map(|()| self.query(kinds, depth + 1));
            let set = self.pick(&["UNION", "UNION ALL", "EXCEPT", "INTERSECT"]);
            return format!("SELECT * FROM ({one}) {} {set} SELECT * FROM ({other}) {}", self.alias(), self.alias());
        }
        let (from, columns) = self.from(depth);
        let condition =
            if self.one_in(2) { format!(" WHERE {}", self.value(Kind::Bool, &columns, depth)) } else { String::new() };
        match self.random.random_range(0..4) {
            0 => self.grouped(kinds, &columns, &format!("{from}{condition}"), depth),
            _ => {
                let windows = self.one_in(6);
                let values = self.named(kinds, |own, kind| {
                    if windows && own.one_in(2) { own.window(kind, &columns) } else { own.value(kind, &columns, depth) }
                });
                let distinct = if self.one_in(6) { "DISTINCT " } else { "" };
                let order = if self.one_in(3) {
                    let direction = self.pick(&["", " DESC", " NULLS FIRST"]);
                    format!(" ORDER BY {}{direction}", self.random.random_range(1..=kinds.len()))
                } else {
                    String::new()
                };
                format!("SELECT {distinct}{values} {from}{condition}{order}")
            }
        }
    }

    fn named(&mut self, kinds: &[Kind], mut value: impl FnMut(&mut Self, Kind) -> String) -> String {
        let values: Vec<_> =
            kinds.iter().enumerate().map(|(at, kind)| format!("{} AS c{at}", value(self, *kind))).collect();
        values.join(", ")
    }

    fn grouped(&mut self, kinds: &[Kind], columns: &[Column], rest: &str, depth: u32) -> String {
        let by = self.value(Kind::Text, columns, DEPTH);
        let mut keys = 0;
        let values = self.named(kinds, |own, kind| {
            if kind == Kind::Text && own.one_in(2) {
                keys += 1;
                return by.clone();
            }
            own.aggregate(kind, columns)
        });
        let having = if self.one_in(4) { " HAVING count(*) > 0" } else { "" };
        let group = match self.random.random_range(0..8) {
            0 if depth > 0 => format!("ROLLUP ({by})"),
            1 => format!("GROUPING SETS (({by}), ())"),
            _ => by,
        };
        // Without a key it may be one group of all.
        let group = if keys == 0 && self.one_in(2) { String::new() } else { format!(" GROUP BY {group}") };
        format!("SELECT {values} {rest}{group}{having}")
    }

    fn aggregate(&mut self, kind: Kind, columns: &[Column]) -> String {
        let value = self.value(kind, columns, DEPTH);
        match kind {
            Kind::Text => match self.random.random_range(0..4) {
                0 => format!("string_agg({value}, ',')"),
                1 => format!("string_agg(DISTINCT {value}, ',')"),
                2 => format!("max({value}) FILTER (WHERE {})", self.value(Kind::Bool, columns, DEPTH)),
                _ => format!("min({value})"),
            },
            Kind::Number => match self.random.random_range(0..4) {
                0 => "count(*)".to_owned(),
                1 => format!("count(DISTINCT {value})"),
                2 => format!("median({value})"),
                _ => format!("max({value})"),
            },
            Kind::Bool => format!("bool_or({value})"),
            Kind::Day | Kind::Time => format!("max({value})"),
        }
    }

    fn window(&mut self, kind: Kind, columns: &[Column]) -> String {
        let [value, by, order] = [kind, Kind::Text, Kind::Text].map(|kind| self.value(kind, columns, DEPTH));
        let over = format!("OVER (PARTITION BY {by} ORDER BY {order})");
        match self.random.random_range(0..5) {
            0 if kind == Kind::Number => format!("row_number() {over}"),
            1 => format!("lag({value}) OVER (ORDER BY {order})"),
            2 => format!("first_value({value}) OVER (ORDER BY {order} DESC)"),
            3 => format!("max({value}) OVER (ORDER BY {order} ROWS BETWEEN 2 PRECEDING AND 1 FOLLOWING)"),
            _ => format!("lead({value}) {over}"),
        }
    }

    /// FROM, and the columns that it brings.
    fn from(&mut self, depth: u32) -> (String, Vec<Column>) {
        let (one, mut columns) = self.relation(depth);
        if depth >= DEPTH || !self.one_in(3) {
            return (format!("FROM {one}"), columns);
        }
        let (other, more) = self.relation(depth + 1);
        let both = [columns.clone(), more.clone()];
        columns.extend(more);
        let kind = *[Kind::Text, Kind::Text, Kind::Day].choose(&mut self.random).expect("some");
        let [left, right] = both.map(|columns| self.column(kind, &columns));
        let joined = match (left, right, self.random.random_range(0..9)) {
            (.., 0) => format!("{one} CROSS JOIN {other}"),
            (Some(left), Some(right), 1) => format!("{one}, {other} WHERE {left} = {right}"),
            (Some(left), Some(right), number) => {
                let join = ["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN", "JOIN", "LEFT JOIN", "JOIN"][number - 2];
                let operator = if join != "FULL JOIN" && self.one_in(5) { "<" } else { "=" };
                format!("{one} {join} {other} ON {left} {operator} {right}")
            }
            _ => format!("{one} CROSS JOIN {other}"),
        };
        // So that a condition can follow.
        let (alias, mut names) = (self.alias(), Vec::new());
        let listed = columns.iter().take(12).enumerate().map(|(at, (column, kind))| {
            names.push((format!("{alias}.j{at}"), *kind));
            format!("{column} AS j{at}")
        });
        let listed = listed.collect::<Vec<_>>().join(", ");
        (format!("FROM (SELECT {listed} FROM {joined} LIMIT 200) {alias}"), names)
    }

    /// Something to read from, under an alias.
    fn relation(&mut self, depth: u32) -> (String, Vec<Column>) {
        let alias = self.alias();
        let of = |columns: Vec<Column>, alias: &str| {
            columns.into_iter().map(|(name, kind)| (format!("{alias}.{name}"), kind)).collect()
        };
        match self.random.random_range(0..20) {
            0..3 if depth < DEPTH => {
                let kinds = self.kinds();
                let columns = kinds.iter().enumerate().map(|(at, kind)| (format!("c{at}"), *kind)).collect();
                (format!("({}) {alias}", self.query(&kinds, depth + 1)), of(columns, &alias))
            }
            3 => {
                let rows: Vec<_> =
                    (0..2).map(|_| format!("({}, {})", self.literal(Kind::Text), self.literal(Kind::Number))).collect();
                let columns = vec![("c0".to_owned(), Kind::Text), ("c1".to_owned(), Kind::Number)];
                (format!("(VALUES {}) {alias}(c0, c1)", rows.join(", ")), of(columns, &alias))
            }
            4 => {
                let (table, columns): (_, &[&str]) = *[
                    ("information_schema.tables", &["table_name", "table_type"][..]),
                    ("information_schema.columns", &["table_name", "column_name", "data_type"]),
                    ("column_comments", &["table_name", "column_name"]),
                ]
                .choose(&mut self.random)
                .expect("some");
                let columns = columns.iter().map(|name| ((*name).to_owned(), Kind::Text)).collect();
                (format!("{table} {alias}"), of(columns, &alias))
            }
            5..8 if !self.shared.is_empty() => {
                let (name, columns) = self.shared.choose(&mut self.random).expect("some").clone();
                (format!("{name} {alias}"), of(columns, &alias))
            }
            _ => {
                // The tables of people more often than the others.
                let (name, columns) = match self.random.random_range(0..3) {
                    0 => self.tables.iter().find(|(name, _)| *name == "events").expect("a table").clone(),
                    _ => self.tables.choose(&mut self.random).expect("some").clone(),
                };
                let schema = self.pick(&["", "", "public.", "daybook.public."]);
                (format!("{schema}{name} {alias}"), of(columns, &alias))
            }
        }
    }

    fn column(&mut self, kind: Kind, columns: &[Column]) -> Option<String> {
        let mut fitting: Vec<_> = columns.iter().filter(|(_, other)| *other == kind).map(|(name, _)| name).collect();
        // Who and whose, above all.
        let telling = |name: &&&String| name.ends_with(".org_id") || name.ends_with(".user_key");
        if let telling @ [_, ..] = fitting.iter().filter(telling).copied().collect::<Vec<_>>().as_slice()
            && self.one_in(2)
        {
            fitting = telling.to_vec();
        }
        fitting.choose(&mut self.random).map(|name| (*name).clone())
    }

    /// An expression over `columns`; from [`DEPTH`] on without a query in it.
    fn value(&mut self, kind: Kind, columns: &[Column], depth: u32) -> String {
        if kind == Kind::Bool {
            return self.condition(columns, depth);
        }
        let column = self.column(kind, columns).unwrap_or_else(|| self.literal(kind));
        match (kind, self.random.random_range(0..16)) {
            (_, 0) => self.literal(kind),
            (_, 1) => format!("coalesce({column}, {})", self.literal(kind)),
            (_, 2) => {
                let other = self.column(kind, columns).unwrap_or_else(|| self.literal(kind));
                format!("CASE WHEN {} THEN {column} ELSE {other} END", self.condition(columns, DEPTH))
            }
            (_, 3) if depth < DEPTH => {
                let query = self.query(&[kind], depth + 1);
                format!("(SELECT max({0}.c0) FROM ({query}) {0})", self.alias())
            }
            (Kind::Text, 4) if column.contains('.') => format!("upper({column})"),
            (Kind::Text, 5) => format!("concat({column}, '|')"),
            (Kind::Text, 6) => format!("substr({column}, 1, 40)"),
            (Kind::Text, 7) => format!("CAST({} AS VARCHAR)", self.column(Kind::Day, columns).unwrap_or(column)),
            (Kind::Number, 4) => format!("abs({column})"),
            (Kind::Number, 5) => self.column(Kind::Text, columns).map_or(column, |text| format!("length({text}) + 3")),
            // An error that quotes the value it fails on.
            (Kind::Number, 6) if self.one_in(3) => {
                self.column(Kind::Text, columns).map_or(column, |text| format!("CAST({text} AS BIGINT)"))
            }
            (Kind::Day, 4) => format!("{column} + INTERVAL '1 day'"),
            (Kind::Time, 4) => format!("date_trunc('hour', {column})"),
            _ => column,
        }
    }

    fn condition(&mut self, columns: &[Column], depth: u32) -> String {
        let kind =
            *[Kind::Text, Kind::Text, Kind::Number, Kind::Day, Kind::Time].choose(&mut self.random).expect("some");
        let column = self.column(kind, columns).unwrap_or_else(|| self.literal(kind));
        let operator = self.pick(&["=", "<>", "<", ">", "<=", ">="]);
        match self.random.random_range(0..14) {
            0 => format!("{column} IS NOT NULL"),
            1 => format!("NOT ({column} {operator} {})", self.literal(kind)),
            2 => format!("{column} IN ({}, {})", self.literal(kind), self.literal(kind)),
            3 => format!("{column} BETWEEN {} AND {}", self.literal(kind), self.literal(kind)),
            4 if kind == Kind::Text => {
                let pattern = self.pick(&["%", "%canary%", "email:%", "%o%", "_cme"]);
                format!("{column} LIKE '{pattern}'")
            }
            5 if depth < DEPTH => format!("{column} IN ({})", self.query(&[kind], depth + 1)),
            6 if depth < DEPTH => {
                let (from, inner) = self.from(DEPTH);
                let other = self.column(kind, &inner).unwrap_or_else(|| self.literal(kind));
                format!("EXISTS (SELECT 1 {from} WHERE {other} = {column})")
            }
            7 => {
                let own = self.column(Kind::Bool, columns);
                own.unwrap_or_else(|| "true".to_owned())
            }
            8 => format!("({column} {operator} {} OR {})", self.literal(kind), self.condition(columns, DEPTH)),
            9 => format!("({column} IS NOT NULL AND {})", self.condition(columns, DEPTH)),
            // What a condition computes must not be computed of foreign rows.
            11 if depth < DEPTH => format!("{} {operator} {}", self.value(kind, columns, DEPTH), self.literal(kind)),
            10 => self.column(kind, columns).map_or("true".to_owned(), |other| format!("{column} {operator} {other}")),
            _ => format!("{column} <> {}", self.literal(kind)),
        }
    }

    fn literal(&mut self, kind: Kind) -> String {
        match kind {
            Kind::Text => {
                let (org, _) = *ORGS.choose(&mut self.random).expect("some");
                // Seldom: whom a statement names itself, nobody can tell in what it shows.
                match self.random.random_range(0..12) {
                    0 => format!("'{org}'"),
                    1 => format!("'email:canary-{org}-{}@example.org'", self.random.random_range(0..5)),
                    _ => format!("'{}'", self.pick(&["kiro", "cli", "ide", "nobody", "", "%"])),
                }
            }
            Kind::Number => self.random.random_range(0..90).to_string(),
            Kind::Bool => self.pick(&["true", "false", "NULL"]).to_owned(),
            Kind::Day => format!("DATE '2026-03-{:02}'", self.random.random_range(1..9)),
            Kind::Time => format!("TIMESTAMP '2026-03-{:02}T00:00:00Z'", self.random.random_range(1..9)),
        }
    }
}
