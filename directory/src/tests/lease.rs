//! One process at a time has a lease.

use jiff::SignedDuration;

use super::{Database, now};
use crate::Directory;

on_both! {
    one_at_a_time,
}

async fn one_at_a_time(database: Database) {
    let minute = SignedDuration::from_mins(1);
    let processes: Vec<_> = (0..8)
        .map(|number| {
            let url = database.url.clone();
            tokio::spawn(async move {
                let directory = Directory::open(&url).await.expect("a database");
                directory.hold_lease("work", &format!("process {number}"), now(), minute).await.expect("writable")
            })
        })
        .collect();
    let mut holders = 0;
    for process in processes {
        holders += i32::from(process.await.expect("no panic"));
    }
    assert_eq!(holders, 1, "of those who come at once");

    let directory = database.open().await;
    let hold = async |name: &str, holder: &str, seconds: i64| {
        let at = now() + SignedDuration::from_secs(seconds);
        directory.hold_lease(name, holder, at, minute).await.expect("writable")
    };
    assert!(hold("other work", "ada", 0).await);
    assert!(!hold("other work", "bob", 59).await, "ada has it");
    assert!(hold("other work", "ada", 59).await, "and goes on having it");
    assert!(!hold("other work", "bob", 60).await);
    assert!(hold("other work", "bob", 59 + 60).await, "once it has expired");
    assert!(!hold("other work", "ada", 120).await);
    directory.release_lease("other work", "ada").await.expect("writable");
    assert!(!hold("other work", "ada", 120).await, "only who has it can give it back");
    directory.release_lease("other work", "bob").await.expect("writable");
    assert!(hold("other work", "ada", 120).await);
}
