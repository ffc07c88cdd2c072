//! A refresh of the rollup after 1 % of new events, over the full rollup of the same table: by a process that goes on, and by one that
//! starts anew. Each round computes everything, takes new events in, and refreshes; the result is then compared with a rollup of all. The
//! rollup is `rollup_daily` and its breakdowns; the change feed and derived tables, which follow from it, are timed apart.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a bench is an edge: it reads the clock and prints"
)]

use aggregate::{Memory, RunReport, verify};
use benches::{Filling, Options, Runs, calendar, forget_rollups, median, report};
use clap::Parser;
use daybook::generate::{Config, Generator};
use jiff::{SignedDuration, Timestamp, civil::Date};
use lake::{Lake, maintain};
use schemas::EVENTS;
use serde_json::json;

/// As in the product.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const DAYS: u32 = 30;
/// Last day of the activity.
const END: Date = Date::constant(2026, 3, 31);
/// One in so many events is new.
const SHARE: u64 = 100;

fn main() {
    let options = Options::parse();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("two threads");
    runtime.block_on(measure(&options));
}

async fn measure(options: &Options) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let url = folder.path().join("lake").display().to_string();
    let filling = Filling::new(&url, folder.path());
    let lake = Lake::open(&url, &[]).expect("a folder is a lake");
    let users = usize::try_from(options.events / 2_500).unwrap_or(usize::MAX).clamp(40, 20_000);
    let config = Config { users, days: DAYS, ..Config::new(7, options.events, END) };
    // Events come in the order of their arrival: what is new is the last day's, and what comes late.
    let mut events = Generator::new(config).expect("the configuration is sound");
    let delta = usize::try_from(options.events / SHARE).expect("a number of events");
    // Each round takes new events in twice.
    let rounds = options.runs + 1;
    let first = usize::try_from(options.events).expect("a number of events") - 2 * rounds * delta;
    filling.put(events.by_ref().take(first)).await;
    // As in service: small files of past days are merged.
    let settings = maintain::Settings { quiet_after: SignedDuration::ZERO, ..maintain::Settings::default() };
    lake.maintain(&EVENTS, &settings, false).await.expect("its files can be merged");
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
    let ratios = json!({
        "refresh_over_full": median(&warm.rollup) / median(&full.rollup),
        "cold_refresh_over_full": median(&cold.rollup) / median(&full.rollup),
        "refresh_of_all_over_full": median(&warm.all) / median(&full.all),
    });
    let detail = json!({
        "events": options.events,
        "users": users,
        "days": DAYS,
        "rollup_rows": all.rows,
        "days_computed": last.days_read,
        "events_read": last.events,
        "full_events_per_s": all.events as f64 / median(&full.rollup),
    });
    let programs: [(&str, &[f64]); 5] = [
        ("full", &full.rollup),
        ("refresh", &warm.rollup),
        ("refresh, new process", &cold.rollup),
        ("full, what follows", &full.rest),
        ("refresh, what follows", &warm.rest),
    ];
    report("refresh", &programs, ratios, detail, options.json.as_deref());
}
