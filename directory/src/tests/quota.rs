//! Daily quotas over several processes, each a handle of its own on one file.

use std::sync::atomic::{AtomicU64, Ordering};

use jiff::{SignedDuration, Timestamp};

use super::{Database, now, org};
use crate::{Directory, OrgChange, Principal, Scope, Spent};

const HANDLES: usize = 4;

struct World {
    _database: Database,
    handles: Vec<Directory>,
    key: String,
}

impl World {
    async fn new(database: Database, quota: Option<u64>) -> Self {
        let mut handles = Vec::new();
        for _ in 0..HANDLES {
            handles.push(database.open().await);
        }
        handles[0].create_org(&org("acme"), "Acme", "UTC", now()).await.expect("new");
        let change = OrgChange { daily_quota: Some(quota), ..OrgChange::default() };
        handles[0].change_org(&org("acme"), &change, now()).await.expect("there");
        let (_, key) = handles[0].create_key(&org("acme"), Scope::Ingest, "", now()).await.expect("new");
        Self { _database: database, handles, key: key.expose().to_owned() }
    }

    async fn principal(&self) -> Principal {
        self.handles[0].authenticate(&self.key, Scope::Ingest).await.expect("readable").expect("valid")
    }

    async fn leased(&self) -> i64 {
        let select = sqlx::query_scalar("SELECT CAST(coalesce(sum(leased), 0) AS BIGINT) FROM quota_leases");
        select.fetch_one(&self.handles[0].pool).await.expect("readable")
    }
}

async fn spend(directory: &Directory, principal: &Principal, events: u64, now: Timestamp) -> bool {
    match directory.spend(principal, events, now).await.expect("the database is there") {
        Spent::Granted => true,
        Spent::Exhausted { quota, seconds_left } => {
            assert_eq!(Some(quota), principal.daily_quota);
            assert!((1..=86_400).contains(&seconds_left));
            false
        }
    }
}

/// (quota, sizes of requests)
const LOADS: [(u64, &[u64]); 5] =
    [(20_000, &[1, 7, 300, 64]), (999, &[1, 2, 3]), (250_000, &[9_999, 10_000, 1]), (1, &[1]), (5_000, &[700, 1_300])];

on_both! {
    together_they_never_exceed_it_and_grant_what_no_other_holds,
    what_one_holds_the_others_lack_until_it_is_given_back,
    quotas_change_end_and_are_absent,
}

async fn together_they_never_exceed_it_and_grant_what_no_other_holds(database: Database) {
    for (quota, sizes) in LOADS {
        let world = World::new(database.another().await, Some(quota)).await;
        let principal = world.principal().await;
        let granted = AtomicU64::new(0);
        // Each handle is used by several requests at once, until it grants not even a single event.
        let work = async |handle: usize, task: usize| {
            let directory = &world.handles[handle];
            for size in sizes.iter().cycle().skip(task) {
                if spend(directory, &principal, *size, now()).await {
                    granted.fetch_add(*size, Ordering::Relaxed);
                } else if !spend(directory, &principal, 1, now()).await {
                    return;
                } else {
                    granted.fetch_add(1, Ordering::Relaxed);
                }
            }
        };
        let tasks = (0..HANDLES).flat_map(|handle| (0..3).map(move |task| (handle, task)));
        futures::future::join_all(tasks.map(|(handle, task)| work(handle, task))).await;
        assert_eq!(granted.into_inner(), quota, "all of it and not one more, by single events at the end");
        assert_eq!(world.leased().await, i64::try_from(quota).expect("small"));
    }
}

async fn what_one_holds_the_others_lack_until_it_is_given_back(database: Database) {
    let world = World::new(database, Some(3_000)).await;
    let principal = world.principal().await;
    let [a, b, ..] = &world.handles[..] else { panic!("two handles") };
    assert!(spend(a, &principal, 1, now()).await);
    assert_eq!(world.leased().await, 1_000, "a block");
    for _ in 0..50 {
        assert!(spend(a, &principal, 10, now()).await);
    }
    assert_eq!(world.leased().await, 1_000, "a request costs no write");
    assert!(!spend(b, &principal, 2_001, now()).await, "2,000 are left to others");
    assert!(spend(b, &principal, 2_000, now()).await, "and those are granted");
    assert!(!spend(b, &principal, 1, now()).await);

    a.return_quota().await.expect("writable");
    assert!(!spend(b, &principal, 499, now()).await, "what was refused lately is refused again without a write");
    // The database works on threads of its own; time stands still only while it is not asked.
    tokio::time::pause();
    tokio::time::advance(crate::CACHE_TTL).await;
    tokio::time::resume();
    assert!(spend(b, &principal, 499, now()).await);
    assert!(!spend(b, &principal, 1, now()).await);

    b.unspend(&principal, 100, now()).await;
    assert!(spend(b, &principal, 100, now()).await, "what was not stored does not count");

    let tomorrow = now() + SignedDuration::from_hours(24);
    assert!(spend(b, &principal, 3_000, tomorrow).await, "a day of its own");
    b.unspend(&principal, 100, now()).await;
    assert!(!spend(b, &principal, 1, tomorrow).await, "yesterday's events are not given back to today");
}

async fn quotas_change_end_and_are_absent(database: Database) {
    let world = World::new(database, None).await;
    let directory = &world.handles[0];
    let unlimited = world.principal().await;
    assert!(spend(directory, &unlimited, u64::MAX, now()).await);
    assert_eq!(world.leased().await, 0);

    let change = OrgChange { daily_quota: Some(Some(10)), ..OrgChange::default() };
    directory.change_org(&org("acme"), &change, now()).await.expect("there");
    assert_eq!(directory.orgs().await.expect("readable")[0].daily_quota, Some(10));
    let limited = Principal { daily_quota: Some(10), ..unlimited };
    assert!(!spend(directory, &limited, 11, now()).await);
    assert!(spend(directory, &limited, 10, now()).await);
    // A tenth of a second before midnight.
    let late: Timestamp = "2026-03-04T23:59:59.9Z".parse().expect("a time");
    let spent = directory.spend(&limited, 1, late).await.expect("readable");
    assert_eq!(spent, Spent::Exhausted { quota: 10, seconds_left: 1 });

    let far = now() + SignedDuration::from_hours(24 * 60);
    assert!(spend(directory, &limited, 10, far).await);
    let days: Vec<i64> =
        sqlx::query_scalar("SELECT day FROM quota_leases").fetch_all(&directory.pool).await.expect("readable");
    assert_eq!(days.len(), 1, "old days are forgotten");

    directory.pool.close().await;
    let away = directory.spend(&limited, 1, far + SignedDuration::from_hours(24)).await;
    assert!(matches!(away, Err(crate::Error::Database(_))), "no lease, no events");
}
