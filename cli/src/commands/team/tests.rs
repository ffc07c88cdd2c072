//! Files of members, and imports into a table in memory.

use std::{cell::Cell, sync::Arc};

use lake::Lake;
use object_store::memory::InMemory;
use schemas::{OrgId, TEAM_MEMBERS};

use super::file::parse;
use crate::{
    fault::Result,
    teams::{Done, Member, replace, table},
};

fn org(id: &str) -> OrgId {
    id.parse().expect("an id")
}

fn members(of: &str, text: &str) -> Vec<Member> {
    parse(text.as_bytes(), "f.csv", &org(of)).expect("a good file")
}

fn refusal(text: &[u8]) -> String {
    parse(text, "f.csv", &org("acme")).expect_err("a bad file").to_string()
}

#[test]
fn columns_may_stand_in_any_order_and_the_dates_be_left_out() {
    let full = members(
        "acme",
        "valid_to,user_key,team_id,valid_from\n,ada, core ,1970-01-01\n2026-02-01,bob,core,2026-01-01\n",
    );
    assert_eq!(full[0], members("acme", "\u{feff}team_id,user_key\r\ncore,ada\r\n")[0]);
    assert_eq!(
        (full[1].from.to_string(), full[1].to.map(|to| to.to_string())),
        ("2026-01-01".into(), Some("2026-02-01".into()))
    );
}

#[test]
fn every_bad_line_is_named() {
    let header = "team_id,user_key,valid_from,valid_to\n";
    let bad = format!(
        "{header}core,ada,,\n,ada,,\ncore,,,\ncore,bob,tomorrow,\ncore,bob,2026-01-01T00:00,\ncore,bob,2026-01-02,2026-01-02\n\
         core,cid\ncore,dan,2026-01-01,2026-03-01\ncore,dan,2026-02-01,\ncore,ada,2026-01-01,\n\"a\nb\",eve,,x\n"
    );
    let told = refusal(bad.as_bytes());
    let expected = "f.csv is not imported:
line 3 has no team_id
line 4 has no user_key
line 5 has the valid_from `tomorrow`, which is no YYYY-MM-DD
line 6 has the valid_from `2026-01-01T00:00`, which is no YYYY-MM-DD
line 7 ends before it begins: valid_to is the first day after the membership
line 8 has 2 fields, and the header 4
line 10 says again what line 9 says: `dan` is in `core` then
line 11 says again what line 2 says: `ada` is in `core` then
line 12 has the valid_to `x`, which is no YYYY-MM-DD";
    assert_eq!(told, expected);
    let many = format!("{header}{}", ",x,,\n".repeat(25));
    assert!(refusal(many.as_bytes()).ends_with("line 11 has no team_id\nand 15 more"));
    assert!(refusal(b"team_id,user_key\ncore,\xff\n").contains("line 2 is not UTF-8"));
    assert_eq!(refusal(b"team_id,org_id,user_key\n"), "f.csv has a column `org_id`");
    assert_eq!(refusal(b""), "f.csv has no column team_id or no column user_key");
    assert_eq!(refusal(format!("team_id,user_key\ncore,{}\n", "x".repeat(513)).as_bytes()).lines().count(), 2);
}

async fn put(lake: &Lake, of: &str, members: Vec<Member>) -> Result<Done> {
    replace(lake, &org(of), || async { Ok(members.clone()) }, false).await
}

#[tokio::test]
async fn what_is_written_is_no_older_than_what_it_replaces() {
    let lake = Lake::with_store(Arc::new(InMemory::new()), "memory:///".parse().expect("a URL"));
    let old = members("acme", "team_id,user_key\ncore,ada\n");
    let new = members("acme", "team_id,user_key\nweb,ada\n");
    put(&lake, "beta", members("beta", "team_id,user_key\ncore,bob\n")).await.expect("the store works");
    let (asked, old, new) = (&Cell::new(0), &old, &new);
    let read = || {
        let lake = lake.clone();
        async move {
            asked.set(asked.get() + 1);
            if asked.get() > 1 {
                return Ok(new.clone());
            }
            // It changes, and another process is faster.
            put(&lake, "acme", new.clone()).await?;
            Ok(old.clone())
        }
    };
    let done = replace(&lake, &org("acme"), read, false).await.expect("the store works");
    assert_eq!((done, asked.get()), (Done::default(), 2));
    let left = table(&lake).await.expect("the store works").expect("it is there").1;
    assert_eq!(left.iter().filter(|member| member.org == "acme").collect::<Vec<_>>(), new.iter().collect::<Vec<_>>());
}

#[tokio::test]
async fn an_import_replaces_its_organisation_alone() {
    let lake = Lake::with_store(Arc::new(InMemory::new()), "memory:///".parse().expect("a URL"));
    let version = async || lake.table(&TEAM_MEMBERS).snapshot().await.map(|snapshot| snapshot.version).ok();
    let import = async |of: &str, text: &str| put(&lake, of, members(of, text)).await.expect("the store works");
    let first = members("acme", "team_id,user_key\ncore,ada\ncore,bob\nweb,ada\n");
    let done = replace(&lake, &org("acme"), || async { Ok(first.clone()) }, true).await.expect("the store works");
    assert_eq!((done, version().await), (Done { added: 3, removed: 0 }, None), "a dry run writes nothing");
    assert_eq!(import("acme", "team_id,user_key\nweb,ada\ncore,bob\ncore,ada\n").await, Done { added: 3, removed: 0 });
    assert_eq!(import("beta", "team_id,user_key\ncore,ada\n").await, Done { added: 1, removed: 0 });
    let before = version().await;
    assert_eq!(import("acme", "team_id,user_key\ncore,ada\ncore,bob\nweb,ada\n").await, Done::default());
    assert_eq!(version().await, before, "the same again is no new version");
    // A membership that ends is another than one that lasts.
    let ends = "team_id,user_key,valid_from,valid_to\ncore,ada,,2026-05-01\ncore,bob,,\n";
    assert_eq!(import("acme", ends).await, Done { added: 1, removed: 2 });
    let mut expected = members("acme", ends);
    expected.extend(members("beta", "team_id,user_key\ncore,ada\n"));
    assert_eq!(table(&lake).await.expect("the store works").expect("it is there").1, expected);
    assert_eq!(import("acme", "team_id,user_key\n").await, Done { added: 0, removed: 2 });
    assert_eq!(import("beta", "team_id,user_key\n").await, Done { added: 0, removed: 1 });
    assert_eq!(table(&lake).await.expect("the store works").expect("it is there").1, []);
}

// Many threads: there a file is written by another, and imports come in between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn imports_at_once_all_land() {
    let lake = Lake::with_store(Arc::new(InMemory::new()), "memory:///".parse().expect("a URL"));
    let import = |index: usize| {
        let (lake, id) = (lake.clone(), format!("org-{index}"));
        async move { put(&lake, &id, members(&id, "team_id,user_key\ncore,ada\n")).await }
    };
    for done in futures::future::join_all((0..4).map(import)).await {
        assert_eq!(done.expect("each has its turn"), Done { added: 1, removed: 0 });
    }
    assert_eq!(table(&lake).await.expect("the store works").expect("it is there").1.len(), 4);
}

// Many threads: there a file is written by another, and imports come in between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_imports_of_one_organisation_at_once_one_is_left_whole() {
    for _ in 0..20 {
        let lake = Lake::with_store(Arc::new(InMemory::new()), "memory:///".parse().expect("a URL"));
        let files = ["team_id,user_key\ncore,ada\ncore,bob\n", "team_id,user_key\ncore,bob\nweb,eve\n"];
        let import = |text: &'static str| {
            let lake = lake.clone();
            async move { put(&lake, "acme", members("acme", text)).await }
        };
        for done in futures::future::join_all(files.map(import)).await {
            assert!(done.is_ok());
        }
        let left = table(&lake).await.expect("the store works").expect("it is there").1;
        assert!(files.iter().any(|text| members("acme", text) == left), "{left:?}");
    }
}
