//! The command line, as clap reads it.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};
use jiff::civil::Date;

use crate::commands::{
    audit::AuditArgs, dead_letters::DeadLettersArgs, key::KeyArgs, maintain::MaintainArgs, opt_in::OptInArgs,
    org::OrgArgs, status::StatusArgs, team::TeamArgs, token::TokenArgs,
};

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed
  2  the command line or the configuration is wrong
  3  input was refused, or counts do not reconcile";

const EXAMPLES: &str = "\
Examples:
  daybook demo                      start everything here, with made-up activity
  daybook serve                     run all roles in one process, data in ./daybook-data
  daybook emit events.ndjson        send events to a running collector
  daybook query \"SELECT activity_date, count(*) FROM rollup_daily GROUP BY 1 ORDER BY 1\"

Exit codes:
  0  done
  1  failed
  2  the command line or the configuration is wrong
  3  input was refused, or counts do not reconcile

Configuration: built-in defaults, then --config FILE (or ./daybook.toml), then DAYBOOK__SECTION__KEY in the
environment, then --set SECTION.KEY=VALUE and the other options. `daybook config show` prints the outcome.";

/// Activity of people who work with AI coding tools: events in, daily rollups out.
#[derive(Debug, Parser)]
#[command(name = "daybook", version, after_help = EXAMPLES, propagate_version = true, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Configuration")]
pub(crate) struct ConfigArgs {
    /// Configuration file [default: ./daybook.toml where there is one]
    #[arg(long, global = true, value_name = "FILE", env = "DAYBOOK_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// Override one setting, e.g. --set worker.flush-age=5s; may be repeated
    #[arg(long = "set", global = true, value_name = "SECTION.KEY=VALUE")]
    pub(crate) set: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start everything in one process, send made-up activity through the collector, and serve
    Demo(DemoArgs),
    /// Run the service
    Serve(ServeArgs),
    /// Send events from a file or standard input to a collector
    Emit(EmitArgs),
    /// Write made-up activity as NDJSON, one CloudEvent a line
    Generate(GenerateArgs),
    /// Compute the daily rollup, or show how far it is
    Rollup(RollupArgs),
    /// Merge small files, write log checkpoints, clean up: one round of what `serve --role maintain` does
    Maintain(MaintainArgs),
    /// Ask SQL over the tables: events, the daily rollup, and what follows from it
    Query(QueryArgs),
    /// Show how far worker and rollup are, and what the tables hold
    Status(StatusArgs),
    /// Records that could not become events: list them, look at one, replay them after a fix
    DeadLetters(DeadLettersArgs),
    /// Organisations
    Org(OrgArgs),
    /// What is collected and shown about an organisation's people, as its admin says
    OptIn(OptInArgs),
    /// Who did what: the audit log, and whether it is as it was written
    Audit(AuditArgs),
    /// Who belongs to which team
    Team(TeamArgs),
    /// Keys that clients send with and programs read with
    Key(KeyArgs),
    /// Tokens that people read with, each for a role
    Token(TokenArgs),
    /// Show or check the configuration
    Config(ConfigCommandArgs),
    /// Print a completion script for a shell
    Completions(CompletionsArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  daybook demo                           a temporary directory, port 8080
  daybook demo --dir ./demo --port 9000  keep the data; a second run adds nothing twice
  daybook demo --once                    check that all counts reconcile, then end

With --once the exit code is 0 only if they do, else 3. The summary goes to standard output, progress to standard error.")]
pub(crate) struct DemoArgs {
    /// Where the data goes; kept afterwards [default: a temporary directory, removed at the end]
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Port to serve on, at 127.0.0.1; 0 takes a free one
    #[arg(long, default_value_t = 8080, value_name = "PORT")]
    pub(crate) port: u16,
    /// Records to generate, client retries and bad ones included
    #[arg(long, default_value_t = 20_000, value_name = "N")]
    pub(crate) events: u64,
    /// Another seed, another history
    #[arg(long, default_value_t = 1, value_name = "SEED")]
    pub(crate) seed: u64,
    /// End after the check instead of serving
    #[arg(long)]
    pub(crate) once: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    /// Every role in one process
    All,
    /// Takes events over HTTP and appends them to the log
    Collector,
    /// Writes the log's events to the tables
    Worker,
    /// Keeps the daily rollup up to date, and teams where groups come by SCIM
    Aggregate,
    /// Answers questions over HTTP, and takes people and groups by SCIM
    Query,
    /// Merges small files, writes log checkpoints, deletes what nobody needs any more
    Maintain,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  daybook serve                                         everything here, data in ./daybook-data
  daybook serve --role collector --set log.kind=kafka   one role of several processes, on Kafka
  daybook serve --listen 0.0.0.0:8080
  daybook serve --pg-listen 127.0.0.1:5433              also for psql and BI tools; a token is the password

Every role answers /healthz (the process lives), /readyz (what the role needs can be reached) and /metrics.
On SIGTERM or SIGINT it stops accepting, finishes what it holds, commits, and exits with 0.
Before the first events: `daybook org create`, `daybook opt-in set` and `daybook key create`.")]
pub(crate) struct ServeArgs {
    /// What this process does; may be repeated
    #[arg(long, value_enum, default_value = "all", value_name = "ROLE")]
    pub(crate) role: Vec<Role>,
    /// Address to listen on [setting: http.listen]
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) listen: Option<SocketAddr>,
    /// Address of the PostgreSQL protocol [setting: query.pg-listen]
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) pg_listen: Option<SocketAddr>,
    /// Address of Arrow Flight SQL [setting: query.flight-listen]
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) flight_listen: Option<SocketAddr>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  daybook emit events.ndjson --key dbk_…
  daybook generate --events 1000 | DAYBOOK_KEY=dbk_… daybook emit -

Each line is one CloudEvent in JSON. Refused events are printed with their line number; the others are in.
Sending a file twice is harmless: an event is known by its source and id, and counts once.
While the collector is away (no connection, 429, 503) sending is tried again for --retry-for.

Exit codes: 0 all accepted, 1 failed (part may have been accepted; send again), 2 usage, 3 some events were refused.")]
pub(crate) struct EmitArgs {
    /// NDJSON file, or - for standard input
    #[arg(value_name = "FILE|-")]
    pub(crate) file: PathBuf,
    /// The collector
    #[arg(long, value_name = "URL", env = "DAYBOOK_URL", default_value = "http://127.0.0.1:8080")]
    pub(crate) url: url::Url,
    /// Ingest key. Other users of this machine can see options: prefer the environment variable
    #[arg(long, value_name = "KEY", env = "DAYBOOK_KEY", hide_env_values = true)]
    pub(crate) key: String,
    /// Events in one request
    #[arg(long, default_value_t = 500, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub(crate) batch: u64,
    /// Requests under way at once
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=64))]
    pub(crate) parallel: u64,
    /// How long a request is tried again while the collector is away
    #[arg(long, default_value = "60s", value_name = "DURATION")]
    pub(crate) retry_for: jiff::SignedDuration,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  daybook generate --events 1000                     to standard output
  daybook generate --events 1000000 --users 500 --end 2026-03-31 --out events.ndjson

The same options give the same bytes on every machine. Events are in order of arrival; among them are client retries
(exact duplicates), late ones, and a few that no collector may accept (--bad-share 0 leaves them out). All organisations
are in one stream: with several, send with --org N, one organisation at a time, since a key belongs to one of them.")]
pub(crate) struct GenerateArgs {
    /// Records in all
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    pub(crate) events: u64,
    /// Another seed, another history
    #[arg(long, default_value_t = 1, value_name = "SEED")]
    pub(crate) seed: u64,
    /// Days of activity
    #[arg(long, default_value_t = 14, value_name = "N")]
    pub(crate) days: u32,
    /// Last day of activity [default: the last day that has ended everywhere]
    #[arg(long, value_name = "DATE")]
    pub(crate) end: Option<Date>,
    /// People
    #[arg(long, default_value_t = 40, value_name = "N")]
    pub(crate) users: usize,
    /// Organisations, each with its own time zone
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(crate) orgs: usize,
    /// Write only this organisation's records, counted from 1
    #[arg(long, value_name = "N")]
    pub(crate) org: Option<usize>,
    /// Share of client retries
    #[arg(long, default_value_t = 0.005, value_name = "SHARE")]
    pub(crate) duplicate_share: f64,
    /// Share of records that are no events
    #[arg(long, default_value_t = 0.001, value_name = "SHARE")]
    pub(crate) bad_share: f64,
    /// File to write [default: standard output]
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputFormat {
    /// Aligned columns
    Table,
    /// One JSON array
    Json,
    /// One JSON object a line
    Ndjson,
    /// Comma-separated, with a header
    Csv,
}

#[derive(Debug, Args)]
pub(crate) struct Output {
    /// How to print
    #[arg(long, value_enum, default_value = "table", value_name = "FORMAT")]
    pub(crate) format: OutputFormat,
}

#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct RollupArgs {
    #[command(subcommand)]
    pub(crate) command: RollupCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RollupCommand {
    /// Read what is new and write the days that changed; running it again changes nothing
    Run(Output),
    /// Show how far the rollup is behind the events
    Status(Output),
    /// Compute days again from the events, all or some, and write what comes out otherwise
    Rebuild(RebuildArgs),
    /// Do as `run`, then compute all days again and compare; exit code 3 where the table says something else
    Verify(Output),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  daybook rollup rebuild --dry-run              say what a rebuild of all days would change
  daybook rollup rebuild --from 2026-05-01      from that day on
  daybook rollup rebuild --from 2026-05-01 --to 2026-05-01
  daybook rollup rebuild --org acme             one organisation's days, and nobody else's

A row that changes gets a new revision; a final one becomes restated.")]
pub(crate) struct RebuildArgs {
    /// First day [default: the first there is]
    #[arg(long, value_name = "DATE")]
    pub(crate) from: Option<jiff::civil::Date>,
    /// Last day [default: the last there is]
    #[arg(long, value_name = "DATE")]
    pub(crate) to: Option<jiff::civil::Date>,
    /// Of this organisation alone [default: of all]
    #[arg(long, value_name = "ORG")]
    pub(crate) org: Option<schemas::OrgId>,
    /// Say what would change, and write nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  daybook query \"SELECT activity_date, user_key, prompts FROM rollup_daily ORDER BY 1, 2\"
  daybook query \"SELECT cause, count(*) FROM dead_letters GROUP BY cause\" --format csv
  daybook query \"DESCRIBE events\"
  daybook query - < question.sql
  DAYBOOK_KEY=dbk_… daybook query --url https://daybook.example.com \"SELECT * FROM org_daily\"

Tables: events (every accepted event, client retries too), rollup_daily (one row per person, client
and day), model_daily, tool_daily, feature_daily and language_daily (the same by one thing more),
rollup_revisions (what changed in the rollup, when and why), org_daily, active_users, trend,
licence_state and more that follow from it, dead_letters (what could not become an event).
SHOW TABLES lists them; column_comments says what their columns mean.

Statements that would change something are refused. Without --url it reads the lake itself, whatever
organisation; with it, a query service answers, of the organisation that the key is for.

Exit codes: 0 done, 1 failed, 2 the SQL or the configuration is wrong.")]
pub(crate) struct QueryArgs {
    /// One SELECT, EXPLAIN, SHOW or DESCRIBE; - reads it from standard input
    #[arg(value_name = "SQL|-")]
    pub(crate) sql: String,
    /// Ask this query service [default: read the lake]
    #[arg(long, value_name = "URL")]
    pub(crate) url: Option<url::Url>,
    /// Read key for --url. Other users of this machine can see options: prefer the environment variable
    #[arg(long, value_name = "KEY", env = "DAYBOOK_KEY", hide_env_values = true)]
    pub(crate) key: Option<String>,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  daybook config show > daybook.toml
  DAYBOOK__WORKER__FLUSH_AGE=5s daybook config show
  daybook config validate --config production.toml")]
pub(crate) struct ConfigCommandArgs {
    #[command(subcommand)]
    pub(crate) command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print every setting and, where it is not the default, where it comes from; secrets are hidden
    Show,
    /// Check every setting; reports all faults at once, with exit code 2
    Validate,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  daybook completions bash > ~/.local/share/bash-completion/completions/daybook
  daybook completions zsh > ~/.zfunc/_daybook")]
pub(crate) struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL")]
    pub(crate) shell: clap_complete::Shell,
}
