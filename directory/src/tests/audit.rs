//! The chain holds, and shows what was done to it.

use schemas::OrgId;

use super::{Database, now, org};
use crate::{Broken, Chain, Directory, NewKey, OptIn, OrgChange, Scope};

on_both! {
    what_admins_do_is_in_the_chain,
    writers_at_once_leave_no_gap,
    each_change_of_an_entry_shows,
    entries_made_up_show,
    entries_taken_out_show,
}

async fn chain(directory: &Directory, org: &OrgId) -> Result<Chain, Broken> {
    directory.verify_audit(org, None).await.expect("readable")
}

async fn what_admins_do_is_in_the_chain(database: Database) {
    let directory = database.with_acme().await.acting_as("cli:ada");
    let (acme, beta) = (org("acme"), org("beta"));
    directory.create_org(&beta, "Beta", "UTC", now()).await.expect("new");
    let change = OrgChange { daily_quota: Some(Some(9)), ..OrgChange::default() };
    directory.change_org(&acme, &change, now()).await.expect("there");
    directory.change_org(&acme, &OrgChange::default(), now()).await.expect("nothing changes");
    directory.set_opt_in(&acme, OptIn::Named, "why", now()).await.expect("there");
    let (id, secret) = directory.create_key_as(&acme, &NewKey::of(Scope::Read, "BI"), now()).await.expect("new");
    directory.revoke_key(&id, now()).await.expect("there");
    directory.revoke_key(&id, now()).await.expect("revoked already");
    // What fails leaves nothing.
    assert!(directory.create_org(&acme, "Other", "UTC", now()).await.is_err());
    assert!(directory.set_opt_in(&acme, OptIn::Off, "", now()).await.is_err());

    let entries = directory.audit_after(&acme, 0).await.expect("readable");
    let found: Vec<_> =
        entries.iter().map(|e| (e.number, e.actor.as_str(), e.action.as_str(), e.subject.as_str())).collect();
    let expected = [
        (1, "daybook", "org.created", "acme"),
        (2, "cli:ada", "org.changed", "acme"),
        (3, "cli:ada", "opt_in.changed", "acme"),
        (4, "cli:ada", "key.created", id.as_str()),
        (5, "cli:ada", "key.revoked", id.as_str()),
    ];
    assert_eq!(found, expected);
    assert_eq!(entries[1].detail, r#"{"daily_quota":9}"#);
    assert!(entries.iter().all(|entry| !format!("{entry:?}").contains(secret.secret_part())), "no secret is in it");
    let acme_chain = chain(&directory, &acme).await.expect("whole");
    assert_eq!((acme_chain.number, &acme_chain.hash), (5, &entries[4].hash));
    assert_eq!(chain(&directory, &beta).await.expect("whole").number, 1, "a chain of its own");
    let anchor = entries[2].hash.as_str();
    assert!(directory.verify_audit(&acme, Some((3, anchor))).await.expect("readable").is_ok());
    let other = directory.verify_audit(&acme, Some((2, anchor))).await.expect("readable");
    assert!(matches!(other, Err(Broken::Other { number: 2, .. })), "{other:?}");
    let short = directory.verify_audit(&acme, Some((6, anchor))).await.expect("readable");
    assert_eq!(short, Err(Broken::Short { expected: 6, found: 5 }));

    // An export is checked without the database.
    let mut exported = Chain::default();
    for entry in &entries {
        let line = serde_json::to_string(entry).expect("plain fields");
        exported.check(&serde_json::from_str(&line).expect("what was written")).expect("whole");
    }
    assert_eq!(exported, acme_chain);
    let mut foreign = directory.audit_after(&beta, 0).await.expect("readable").remove(0);
    foreign.number = 6;
    assert_eq!(exported.check(&foreign), Err(Broken::Mixed(6)));
}

async fn writers_at_once_leave_no_gap(database: Database) {
    let first = database.with_acme().await;
    let acme = org("acme");
    let writers = (0..4).map(|writer| {
        let (acme, database) = (&acme, &database);
        async move {
            let directory = database.open().await.acting_as(&format!("cli:{writer}"));
            for _ in 0..8 {
                directory.create_key(acme, Scope::Ingest, "", now()).await.expect("they wait for each other");
            }
        }
    });
    futures::future::join_all(writers).await;
    assert_eq!(chain(&first, &acme).await.expect("whole").number, 1 + 4 * 8);
}

async fn filled(database: &Database) -> Directory {
    let directory = database.with_acme().await;
    for label in ["one", "two", "three", "four"] {
        directory.create_key(&org("acme"), Scope::Read, label, now()).await.expect("new");
    }
    assert_eq!(chain(&directory, &org("acme")).await.expect("whole").number, 5);
    directory
}

async fn each_change_of_an_entry_shows(database: Database) {
    let directory = filled(&database).await;
    let changes = [
        ("actor = 'cli:eve'", "actor = 'daybook'"),
        ("action = 'key.revoked'", "action = 'key.created'"),
        ("subject = subject || 'x'", "subject = substr(subject, 1, length(subject) - 1)"),
        ("detail = detail || ' '", "detail = substr(detail, 1, length(detail) - 1)"),
        ("at_us = at_us + 1", "at_us = at_us - 1"),
        // What ends one field begins the next: lengths are hashed.
        ("action = action || substr(subject, 1, 1), subject = substr(subject, 2)", ""),
    ];
    for (change, back) in changes {
        let update = |set: &str| sqlx::AssertSqlSafe(format!("UPDATE audit SET {set} WHERE number = 3"));
        sqlx::query(update(change)).execute(&directory.pool).await.expect("writable");
        assert_eq!(chain(&directory, &org("acme")).await, Err(Broken::Changed(3)), "{change}");
        if !back.is_empty() {
            sqlx::query(update(back)).execute(&directory.pool).await.expect("writable");
            assert!(chain(&directory, &org("acme")).await.is_ok(), "{back}");
        }
    }
}

/// Whoever rewrites the end of a chain, hashes and all, has to know of the row that holds its newest hash.
async fn entries_made_up_show(database: Database) {
    let directory = filled(&database).await;
    let acme = org("acme");
    let mut entries = directory.audit_after(&acme, 0).await.expect("readable");
    let mut last = entries.pop().expect("five");
    last.actor = "cli:eve".to_owned();
    last.hash = last.hash_after(&entries[3].hash);
    let update =
        sqlx::query("UPDATE audit SET actor = $1, hash = $2 WHERE number = 5").bind(&last.actor).bind(&last.hash);
    update.execute(&directory.pool).await.expect("writable");
    let found = chain(&directory, &acme).await;
    assert!(matches!(found, Err(Broken::Other { number: 5, .. })), "{found:?}");
    let mut more = last.clone();
    more.number = 6;
    more.hash = more.hash_after(&last.hash);
    let insert =
        "INSERT INTO audit SELECT org_id, 6, at_us, actor, action, subject, detail, $1 FROM audit WHERE number = 5";
    sqlx::query(insert).bind(&more.hash).execute(&directory.pool).await.expect("writable");
    let back = sqlx::query("UPDATE organisations SET audit_hash = $1").bind(&last.hash);
    back.execute(&directory.pool).await.expect("writable");
    assert_eq!(chain(&directory, &acme).await, Err(Broken::Long { expected: 5, found: 6 }));
}

async fn entries_taken_out_show(database: Database) {
    let directory = filled(&database).await;
    let run = async |statement: &'static str| {
        sqlx::query(statement).execute(&directory.pool).await.expect("writable");
        chain(&directory, &org("acme")).await
    };
    assert_eq!(run("DELETE FROM audit WHERE number = 5").await, Err(Broken::Short { expected: 5, found: 4 }));
    assert_eq!(run("DELETE FROM audit WHERE number = 2").await, Err(Broken::Gap { expected: 2, found: 3 }));
    assert_eq!(run("UPDATE audit SET number = number - 1 WHERE number > 2").await, Err(Broken::Changed(2)));
    assert_eq!(run("DELETE FROM audit").await, Err(Broken::Short { expected: 5, found: 0 }));
}
