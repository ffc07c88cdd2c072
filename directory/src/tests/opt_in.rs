//! Nothing is collected before an admin opts in, and each switch is on record.

use std::collections::HashSet;

use jiff::{SignedDuration, Timestamp};

use super::{Database, now, org};
use crate::{CACHE_TTL, Collected, Error, OptIn, Scope};

on_both! {
    an_organisation_begins_off_and_every_switch_is_on_record,
    keys_know_the_newest_level,
}

async fn an_organisation_begins_off_and_every_switch_is_on_record(database: Database) {
    let directory = database.with_acme().await;
    let acme = org("acme");
    assert_eq!(directory.orgs().await.expect("readable")[0].opt_in, OptIn::Off);
    assert_eq!(directory.opt_in_changes(&acme).await.expect("readable"), []);
    for reason in ["", " \t\n"] {
        let refused = directory.set_opt_in(&acme, OptIn::Named, reason, now()).await;
        assert!(matches!(refused, Err(Error::NoReason)), "{refused:?}");
    }
    let unknown = directory.set_opt_in(&org("nobody"), OptIn::Named, "why", now()).await;
    assert!(matches!(unknown, Err(Error::UnknownOrg(id)) if id == org("nobody")));

    let admin = directory.acting_as("cli:ada");
    let switches = [OptIn::TeamOnly, OptIn::Named, OptIn::Pseudonymous, OptIn::Off, OptIn::Named];
    for (number, level) in switches.into_iter().enumerate() {
        let at = now() + SignedDuration::from_hours(number as i64);
        let reason = format!("reason {number}");
        assert!(admin.set_opt_in(&acme, level, &reason, at).await.expect("there"));
        assert!(!admin.set_opt_in(&acme, level, "again", at).await.expect("there"), "it was that already");
    }
    let changes = directory.opt_in_changes(&acme).await.expect("readable");
    assert_eq!(changes.iter().map(|change| change.level).collect::<Vec<_>>(), switches);
    assert!(changes.iter().all(|change| change.actor == "cli:ada"), "{changes:?}");
    assert_eq!((changes[3].at, changes[3].reason.as_str()), (now() + SignedDuration::from_hours(3), "reason 3"));
    let log = directory.audit_after(&acme, 0).await.expect("readable");
    let switched: Vec<_> = log.iter().filter(|entry| entry.action == "opt_in.changed").collect();
    assert_eq!(switched.len(), switches.len(), "{log:?}");
    assert_eq!(switched[0].detail, r#"{"from":"off","reason":"reason 0","to":"team-only"}"#);
}

async fn keys_know_the_newest_level(database: Database) {
    let (here, there) = (database.with_acme().await, database.open().await);
    let acme = org("acme");
    let (_, key) = here.create_key(&acme, Scope::Ingest, "", now()).await.expect("new");
    let level = async |directory: &crate::Directory| {
        let principal = directory.authenticate(key.expose(), Scope::Ingest).await.expect("readable");
        principal.expect("a valid key").opt_in
    };
    assert_eq!((level(&here).await, level(&there).await), (OptIn::Off, OptIn::Off));
    assert!(here.set_opt_in(&acme, OptIn::TeamOnly, "why", now()).await.expect("there"));
    assert_eq!((level(&here).await, level(&there).await), (OptIn::TeamOnly, OptIn::Off), "here at once");
    tokio::time::pause();
    tokio::time::advance(CACHE_TTL).await;
    tokio::time::resume();
    assert_eq!(level(&there).await, OptIn::TeamOnly, "elsewhere within the TTL");

    let orgs = HashSet::from([acme.clone(), org("nobody")]);
    let collected = there.collected(&orgs).await.expect("readable");
    assert_eq!(collected.len(), 1, "who never opted in is not there: {collected:?}");
    let at = |seconds: i64| Some((now() + SignedDuration::from_secs(seconds)).as_microsecond());
    let takes = |collected: &Collected, seconds: i64| collected.takes(at(seconds));
    assert!(takes(&collected[&acme], 0) && takes(&collected[&acme], 1_000_000) && collected[&acme].takes(None));
    assert!(!takes(&collected[&acme], -61), "before");
    let later = now() + SignedDuration::from_hours(1);
    assert!(here.set_opt_in(&acme, OptIn::Off, "why", later).await.expect("there"));
    let collected = there.collected(&orgs).await.expect("readable");
    assert!(takes(&collected[&acme], 3600), "a collector may have taken it, and not know yet");
    assert!(!takes(&collected[&acme], 3666) && !collected[&acme].takes(None));
    assert!(!Collected::default().takes(at(0)) && !Collected::default().takes(None));
    let epoch = Timestamp::UNIX_EPOCH.as_microsecond();
    assert!(!collected[&acme].takes(Some(epoch)));
}
