//! A refresh of the rollup after 1 % of new events, over the full rollup of the same table: by a process that goes on, and by one that
//! starts anew. Each round computes everything, takes new events in, and refreshes; the result is then compared with a rollup of all. The
//! rollup is `rollup_daily` and its breakdowns; the change feed and derived tables, which follow from it, are timed apart.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a bench is an edge: it reads the clock and prints"
)]

use aggregate::{Memory, RunReport, verify};
use benches::{Filling, Options, Runs, calendar, forget_rollups, median, merge_small_files, report};
use clap::Parser;
use daybook::generate::{Config, Generator};
use jiff::{Timestamp, civil::Date};
use lake::Lake;
use serde_json::json;

/// As in the product.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const DAYS: u32 = 30;
const YEAR: u32 = 365;
/// Last day of the activity.
const END: Date = Date::constant(2026, 3, 31);
/// One in so many events is new.
const SHARE: u64 = 100;

#[derive(Debug, clap::Parser)]
struct Arguments {
    #[command(flatten)]
    options: Options,
    /// Measures the same on a year of as much a day, too: `history_365_over_30`. Takes ten times as long
    #[arg(long)]
    history: bool,
}

fn main() {
    let Arguments { options, history } = Arguments::parse();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("two threads");
    let month = runtime.block_on(measure(&options, DAYS));
    let mut ratios = json!({
        "refresh_over_full": median(&month.warm.rollup) / median(&month.full.rollup),
        "cold_refresh_over_full": median(&month.cold.rollup) / median(&month.full.rollup),
        "refresh_of_all_over_full": median(&month.warm.all) / median(&month.full.all),
    });
    let mut detail = json!({
        "events": options.events,
        "users": users(&options),
        "days": DAYS,
        "rollup_rows": month.all.rows,
        "days_computed": month.last.days_read,
        "events_read": month.last.events,
        "full_events_per_s": month.all.events as f64 / median(&month.full.rollup),
    });
    let year = history.then(|| runtime.block_on(measure(&options, YEAR)));
    if let Some(year) = &year {
        ratios["history_365_over_30"] = json!(median(&year.warm.rollup) / median(&month.warm.rollup));
        ratios["history_365_over_30_of_all"] = json!(median(&year.warm.all) / median(&month.warm.all));
        detail["days_computed_365"] = json!(year.last.days_read);
        detail["events_read_365"] = json!(year.last.events);
    }
    let mut programs: Vec<(&str, &[f64])> = vec![
        ("full", &month.full.rollup),
        ("refresh", &month.warm.rollup),
        ("refresh, new process", &month.cold.rollup),
        ("full, what follows", &month.full.rest),
        ("refresh, what follows", &month.warm.rest),
    ];
    if let Some(year) = &year {
        programs.extend([
            ("year: full", &year.full.rollup[..]),
            ("year: refresh", &year.warm.rollup),
            ("year: refr., what follows", &year.warm.rest),
        ]);
    }
    report("refresh", &programs, ratios, detail, options.json.as_deref());
}

fn users(options: &Options) -> usize {
    usize::try_from(options.events / 2_500).unwrap_or(usize::MAX).clamp(40, 20_000)
}

/// What runs over some days took.
struct Measured {
    full: Runs,
    warm: Runs,
    cold: Runs,
    /// The last refresh.
    last: RunReport,
    /// A run over everything, compared with what the refreshes left.
    all: RunReport,
}

/// As many events a day as 30 days of the options' have, and as many new ones, however many `days` there are.
async fn measure(options: &Options, days: u32) -> Measured {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let url = folder.path().join("lake").display().to_string();
    let filling = Filling::new(&url, folder.path());
    let lake = Lake::open(&url, &[]).expect("a folder is a lake");
    let total = options.events * u64::from(days) / u64::from(DAYS);
    let config = Config { users: users(options), days, ..Config::new(7, total, END) };
    // Events come in the order of their arrival: what is new is the last day's, and what comes late.
    let mut events = Generator::new(config).expect("the configuration is sound");
    let delta = usize::try_from(options.events / SHARE).expect("a number of events");
    // Each round takes new events in twice.
    let rounds = options.runs + 1;
    let first = usize::try_from(total).expect("a number of events") - 2 * rounds * delta;
    filling.put(events.by_ref().take(first)).await;
    merge_small_files(&lake).await;
    let calendar = calendar();
    let (mut full, mut warm, mut cold, mut last) =
        (Runs::default(), Runs::default(), Runs::default(), RunReport::default());
    for round in 0..rounds {
        forget_rollups(&folder.path().join("lake"));
        let mut memory = Memory::default();
        full.run(&lake, &calendar, &mut memory).await;
        filling.put(events.by_ref().take(delta)).await;
        last = warm.run(&lake, &calendar, &mut memory).await;
        filling.put(events.by_ref().take(delta)).await;
        cold.run(&lake, &calendar, &mut Memory::default()).await;
        if round == 0 {
            [&mut full, &mut warm, &mut cold].into_iter().for_each(Runs::forget);
        }
    }
    let all = verify(&lake, &calendar, Timestamp::now(), &()).await.expect("it can be read");
    assert_eq!((all.rows_added, all.rows_changed, all.rows_removed), (0, 0, 0), "a refresh is a full run");
    Measured { full, warm, cold, last, all }
}
