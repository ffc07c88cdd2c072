//! What follows from people and groups: memberships with their history, and tokens that end.

use std::cell::Cell;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    super::{Scim, router},
    Client, World, now, org, world, world_at,
};
use crate::{
    Membership, NewKey, OptIn, Role, Scope,
    tests::{Database, on_both},
};

on_both! {
    memberships_have_a_history,
    what_changes_no_team_is_not_counted,
    tokens_end_with_the_person,
    an_address_is_one_persons,
    tokens_are_found_in_any_case,
    a_password_is_nowhere,
    before_the_opt_in_nobody_is_taken,
}

/// All memberships as `team user_key from to`, in minutes since the beginning.
async fn history(world: &World, of: &str) -> Vec<String> {
    let minutes = |time: Timestamp| (time.as_second() - now().as_second()) / 60;
    let mut all: Vec<Membership> = world.directory.memberships(&org(of)).await.expect("readable");
    all.sort();
    all.iter()
        .map(|one| {
            let to = one.to.map_or_else(|| "…".to_owned(), |to| minutes(to).to_string());
            format!("{} {} {} {to}", one.team, one.user_key, minutes(one.from))
        })
        .collect()
}

async fn memberships_have_a_history(database: Database) {
    // A test has a thread of its own.
    thread_local! {
        static MINUTE: Cell<i64> = const { Cell::new(0) };
    }
    fn clock() -> Timestamp {
        now() + jiff::SignedDuration::from_mins(MINUTE.get())
    }
    let at = |minute| MINUTE.set(minute);
    let world = world_at(&database, clock).await;
    let acme = &world.acme;
    let changes = async || world.directory.scim_orgs().await.expect("readable");
    let ada = acme.user("Ada@acme.example").await;
    let bob = json!({ "userName": "bob", "emails": [{ "value": "bob@acme.example" }, { "value": "b@home.example", "primary": true }] });
    let bob = acme.post("/Users", &bob).await.id();
    let carol = acme.user("carol").await;
    assert_eq!(changes().await, [], "without groups teams come otherwise");
    at(1);
    let core = acme.group("Core", &[&ada, &bob, &carol]).await;
    let first = changes().await;
    assert_eq!((first.len(), &first[0].0), (1, &org("acme")));
    assert_eq!(history(&world, "acme").await, ["Core email:ada@acme.example 1 …", "Core email:b@home.example 1 …"]);

    let patch = async |operation: Value| acme.patch(&format!("/Groups/{core}"), json!([operation])).await.status;
    let remove = json!({ "op": "remove", "path": format!("members[value eq \"{ada}\"]") });
    let add = json!({ "op": "add", "path": "members", "value": [{ "value": ada }] });
    at(2);
    assert_eq!(patch(remove.clone()).await, 204);
    assert_eq!(patch(json!({ "op": "remove", "path": format!("members[value eq \"{carol}\"]") })).await, 204);
    at(3);
    assert_eq!(patch(add.clone()).await, 204);
    at(4);
    assert_eq!(patch(add).await, 204, "is in it");
    assert_eq!(
        history(&world, "acme").await[..2],
        ["Core email:ada@acme.example 1 2", "Core email:ada@acme.example 3 …"]
    );

    // An address from now on says nothing of before, when she was a member.
    assert_eq!(acme.put(&format!("/Users/{carol}"), &json!({ "userName": "carol@acme.example" })).await.status, 200);

    // Another address from now on; inactive is still a member; a new name is the name of all days.
    at(5);
    let change = json!([{ "op": "replace", "path": "emails[primary eq true].value", "value": "Bob@new.example" }, { "op": "replace", "path": "active", "value": false }]);
    assert_eq!(acme.patch(&format!("/Users/{bob}"), change).await.status, 200);
    assert_eq!(patch(json!({ "op": "replace", "path": "displayName", "value": "Compilers" })).await, 204);
    let expected = [
        "Compilers email:ada@acme.example 1 2",
        "Compilers email:ada@acme.example 3 …",
        "Compilers email:b@home.example 1 5",
        "Compilers email:bob@new.example 5 …",
    ];
    assert_eq!(history(&world, "acme").await, expected);
    // Who is deleted leaves; so does everyone of a group that is deleted.
    at(6);
    assert_eq!(acme.delete(&format!("/Users/{bob}")).await.status, 204);
    at(7);
    assert_eq!(acme.delete(&format!("/Groups/{core}")).await.status, 204);
    let expected = [
        "Compilers email:ada@acme.example 1 2",
        "Compilers email:ada@acme.example 3 7",
        "Compilers email:b@home.example 1 5",
        "Compilers email:bob@new.example 5 6",
    ];
    assert_eq!(history(&world, "acme").await, expected);
    // The name is free again, and its history is not the new group's alone.
    at(8);
    acme.group("compilers", &[&ada]).await;
    assert_eq!(history(&world, "acme").await.last().expect("one"), "compilers email:ada@acme.example 8 …");
    assert!(changes().await[0].1 > first[0].1);
    assert_eq!(history(&world, "globex").await, [""; 0]);
}

async fn what_changes_no_team_is_not_counted(database: Database) {
    let world = world(&database).await;
    let acme = &world.acme;
    let ada = acme.user("ada@acme.example").await;
    let core = acme.group("Core", &[&ada]).await;
    let changes = async || world.directory.scim_orgs().await.expect("readable")[0].1;
    let before = changes().await;
    acme.user("bob@acme.example").await;
    acme.patch(&format!("/Users/{ada}"), json!([{ "op": "add", "path": "title", "value": "Countess" }])).await;
    acme.patch(&format!("/Groups/{core}"), json!([{ "op": "add", "path": "members", "value": [{ "value": ada }] }]))
        .await;
    acme.put(&format!("/Groups/{core}"), &json!({ "displayName": "Core", "members": [{ "value": ada }] })).await;
    assert_eq!(changes().await, before);
    for (path, operation) in [
        (format!("/Users/{ada}"), json!([{ "op": "replace", "path": "userName", "value": "lovelace@acme.example" }])),
        (format!("/Groups/{core}"), json!([{ "op": "remove", "path": "members" }])),
    ] {
        let before = changes().await;
        acme.patch(&path, operation).await;
        assert!(changes().await > before, "{path}");
    }
}

async fn tokens_end_with_the_person(database: Database) {
    let world = world(&database).await;
    let ada = json!({ "userName": "ada", "emails": [{ "value": "Ada@acme.example" }] });
    let ada = world.acme.post("/Users", &ada).await.id();
    let bob = world.acme.user("bob@acme.example").await;
    let token = async |of: &str, role: Role| {
        let new = NewKey { role, ..NewKey::of(Scope::Read, "") };
        world.directory.create_key_as(&org(of), &new, now()).await.expect("new").1
    };
    let member = |user: &str| Role::Member { user: user.to_owned() };
    let own = token("acme", member("email:Ada@acme.example")).await;
    let others = [
        token("acme", member("email:bob@acme.example")).await,
        token("globex", member("email:ada@acme.example")).await,
        token("acme", Role::Admin).await,
        token("acme", Role::Lead { team: "email:ada@acme.example".to_owned() }).await,
    ];
    let valid = async |secret: &crate::Secret| {
        world.directory.authenticate(secret.expose(), Scope::Read).await.expect("readable").is_some()
    };
    assert!(valid(&own).await, "and remembered by the cache");
    let path = format!("/Users/{ada}");
    world.acme.patch(&path, json!([{ "op": "replace", "path": "title", "value": "Countess" }])).await;
    assert!(valid(&own).await, "another change ends nothing");
    world.acme.patch(&path, json!([{ "op": "Replace", "path": "active", "value": "False" }])).await;
    assert!(!valid(&own).await, "at once");
    world.acme.patch(&path, json!([{ "op": "replace", "path": "active", "value": true }])).await;
    assert!(!valid(&own).await, "for good");

    // An address of before is the person's, unless it is another's by now.
    let former = token("acme", member("email:ada@acme.example")).await;
    world.acme.put(&path, &json!({ "userName": "ada@new.example" })).await;
    let heir = world.acme.user("ada@acme.example").await;
    let inherited = token("acme", member("email:ada@acme.example")).await;
    assert_eq!(world.acme.delete(&path).await.status, 204);
    assert!(!valid(&former).await, "it read what is the heir's by now");
    assert!(valid(&inherited).await, "it is the heir's");
    assert_eq!(world.acme.delete(&format!("/Users/{heir}")).await.status, 204);
    assert!(!valid(&inherited).await);
    for other in &others {
        assert!(valid(other).await, "nobody else's");
    }
    assert_eq!(world.acme.delete(&format!("/Users/{bob}")).await.status, 204);
    assert!(!valid(&others[0]).await);
    // Each is on record, with the key that did it.
    let audit = world.directory.audit_after(&org("acme"), 0).await.expect("readable");
    let revoked: Vec<_> = audit.iter().filter(|entry| entry.action == "key.revoked").collect();
    assert_eq!(revoked.len(), 4, "{revoked:?}");
    let by = format!("key:{}", world.acme.key.split('_').nth(1).expect("dbk_<id>_<secret>"));
    assert!(revoked[0].actor == by && revoked[0].detail.contains(&ada), "{revoked:?}");
    assert!(world.directory.verify_audit(&org("acme"), None).await.expect("readable").is_ok());
    // Who is inactive from the beginning has no token either.
    let early = token("acme", member("email:eve@acme.example")).await;
    world.acme.post("/Users", &json!({ "userName": "eve@acme.example", "active": false })).await;
    assert!(!valid(&early).await);
}

/// Whether each of some tokens is still valid.
async fn valid<const N: usize>(world: &super::World, secrets: [&crate::Secret; N]) -> [bool; N] {
    let mut all = [false; N];
    for (valid, secret) in all.iter_mut().zip(secrets) {
        let found = world.directory.authenticate(secret.expose(), Scope::Read).await.expect("readable");
        *valid = found.is_some();
    }
    all
}

async fn token_of(world: &super::World, user: &str) -> crate::Secret {
    let new = NewKey { role: Role::Member { user: user.to_owned() }, ..NewKey::of(Scope::Read, "") };
    world.directory.create_key_as(&org("acme"), &new, now()).await.expect("new").1
}

async fn an_address_is_one_persons(database: Database) {
    let world = world(&database).await;
    let acme = &world.acme;
    let with = |name: &str, address: &str| json!({ "userName": name, "emails": [{ "value": address }] });
    let ada = acme.post("/Users", &with("ada", "x@acme.example")).await.id();
    let bob = acme.user("bob").await;
    acme.group("Core", &[&ada]).await;
    acme.group("Web", &[&bob]).await;
    let changes = async || world.directory.scim_orgs().await.expect("readable")[0].1;
    let adas = token_of(&world, "email:X@acme.example").await;
    assert_eq!(valid(&world, [&adas]).await, [true]);
    let before = changes().await;
    acme.put(&format!("/Users/{bob}"), &with("bob", "x@acme.example")).await;
    assert_eq!(valid(&world, [&adas]).await, [false], "it was made for Ada");
    assert!(changes().await > before);
    let bobs = token_of(&world, "email:x@acme.example").await;
    let users = async || -> Vec<String> {
        let all = world.directory.memberships(&org("acme")).await.expect("readable");
        all.into_iter().filter(|one| one.to.is_none()).map(|one| format!("{} {}", one.team, one.user_key)).collect()
    };
    assert_eq!(users().await, ["Web email:x@acme.example"]);
    // What her document goes on saying takes nothing back.
    acme.patch(&format!("/Users/{ada}"), json!([{ "op": "add", "path": "title", "value": "Countess" }])).await;
    assert_eq!(users().await, ["Web email:x@acme.example"]);
    assert_eq!(valid(&world, [&bobs]).await, [true]);
    // Neither does she keep alive, nor end, what is his; while he is inactive nobody keeps it alive.
    let active = |active: bool| json!([{ "op": "replace", "path": "active", "value": active }]);
    acme.patch(&format!("/Users/{ada}"), active(false)).await;
    assert_eq!(valid(&world, [&bobs]).await, [true]);
    acme.patch(&format!("/Users/{bob}"), active(false)).await;
    let late = token_of(&world, "email:x@acme.example").await;
    assert_eq!(valid(&world, [&bobs, &late]).await, [false, true]);
    acme.patch(&format!("/Users/{ada}"), json!([{ "op": "replace", "path": "title", "value": "Lady" }])).await;
    assert_eq!(valid(&world, [&late]).await, [false]);
    // A new person takes it, too.
    let before = changes().await;
    acme.user("X@acme.example").await;
    assert!(changes().await > before);
    assert_eq!(users().await, [""; 0]);
}

async fn tokens_are_found_in_any_case(database: Database) {
    let world = world(&database).await;
    let ada = world.acme.user("\u{e4}da@acme.example").await;
    let token = token_of(&world, "email:\u{c4}da@acme.example").await;
    assert_eq!(valid(&world, [&token]).await, [true]);
    world.acme.delete(&format!("/Users/{ada}")).await;
    assert_eq!(valid(&world, [&token]).await, [false]);
}

async fn a_password_is_nowhere(database: Database) {
    let world = world(&database).await;
    let ada = world.acme.post("/Users", &json!({ "userName": "ada", "password": "hunter2" })).await;
    let path = format!("/Users/{}", ada.id());
    let operations = json!([{ "op": "add", "path": "password", "value": "hunter2" }, { "op": "add", "value": { "password": "hunter2" } }]);
    let patched = world.acme.patch(&path, operations).await;
    let asked = world.acme.get(&format!("{path}?attributes=password")).await;
    for told in [&ada, &patched, &asked] {
        assert!(!told.body.to_string().contains("hunter2"), "{told:?}");
    }
    assert_eq!(patched.status, 200);
    assert_eq!(world.acme.get("/Users?filter=password%20eq%20%22hunter2%22").await.body["totalResults"], 0);
    let row = sqlx::query("SELECT document FROM people").fetch_one(&world.directory.pool).await.expect("one");
    assert!(!sqlx::Row::get::<String, _>(&row, 0).contains("hunter2"));
}

async fn before_the_opt_in_nobody_is_taken(database: Database) {
    let world = world(&database).await;
    world.acme.user("ada").await;
    world.directory.set_opt_in(&org("acme"), OptIn::Off, "a test", now()).await.expect("writable");
    // As another process, whose cache knows nothing.
    let router = router(Scim::new(database.open().await, now));
    let [acme, globex] =
        [&world.acme, &world.globex].map(|client| Client { router: router.clone(), key: client.key.clone() });
    for told in [acme.get("/Users").await, acme.post("/Users", &json!({ "userName": "bob" })).await] {
        assert!(
            told.status == 403 && told.body["detail"].as_str().is_some_and(|detail| detail.contains("opted in")),
            "{told:?}"
        );
    }
    assert_eq!(globex.get("/Users").await.status, 200);
}
