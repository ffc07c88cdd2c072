//! What happens at once, in several processes.

use serde_json::{Value, json};

use super::{Client, World, now, world};
use crate::tests::{Database, on_both};

on_both! {
    a_deleted_person_is_no_member,
    a_deletion_waits_for_changes,
    of_those_who_are_given_an_address_at_once_one_has_it,
}

/// Clients of two further processes, with connections of their own.
async fn clients(database: &Database, world: &World) -> [Client; 2] {
    let client = async || {
        let router = super::router(super::Scim::new(database.open().await, now));
        Client { router, key: world.acme.key.clone() }
    };
    [client().await, client().await]
}

async fn a_deleted_person_is_no_member(database: Database) {
    let world = world(&database).await;
    let acme = &world.acme;
    let [one, other] = &clients(&database, &world).await;
    for round in 0..6 {
        let mut users = Vec::new();
        for number in 0..4 {
            users.push(acme.user(&format!("{round}-{number}@acme.example")).await);
        }
        let groups = [acme.group(&format!("a{round}"), &[]).await, acme.group(&format!("b{round}"), &[]).await];
        let all: Vec<Value> = users.iter().map(|id| json!({ "value": id })).collect();
        let add = |client: &'static str, group: String, members: Value| {
            let client = if client == "one" { one } else { other };
            let add = json!([{ "op": "add", "path": "members", "value": members }]);
            async move { client.patch(&format!("/Groups/{group}"), add).await.status }
        };
        let reversed: Vec<Value> = all.iter().rev().cloned().collect();
        let [a, b] = &groups;
        let added = [
            add("one", a.clone(), all.clone().into()),
            add("other", b.clone(), reversed.clone().into()),
            add("one", b.clone(), all.clone().into()),
            add("other", a.clone(), reversed.into()),
        ];
        let deleted = users.iter().take(2).enumerate().map(|(number, id)| {
            let client = if number % 2 == 0 { one } else { other };
            async move { client.delete(&format!("/Users/{id}")).await.status }
        });
        let renamed = users.iter().skip(2).enumerate().map(|(number, id)| {
            let client = if number % 2 == 0 { one } else { other };
            let user = json!({ "userName": format!("new-{round}-{number}@acme.example"), "active": false });
            async move { client.put(&format!("/Users/{id}"), &user).await.status }
        });
        let (added, deleted, renamed) = tokio::join!(
            futures::future::join_all(added),
            futures::future::join_all(deleted),
            futures::future::join_all(renamed)
        );
        assert!(added.iter().all(|status| [204, 400].contains(status)), "{added:?}");
        assert_eq!((deleted, renamed), (vec![204; 2], vec![200; 2]));
        for group in &groups {
            let members = acme.members(group).await;
            assert!(members.iter().all(|id| users[2..].contains(id)), "{members:?} of {users:?}");
        }
    }
}

async fn a_deletion_waits_for_changes(database: Database) {
    let world = world(&database).await;
    let [one, other] = &clients(&database, &world).await;
    for round in 0..12 {
        let id = world.acme.user(&format!("user-{round}")).await;
        let path = &format!("/Users/{id}");
        let changes = (0..4).map(|title| {
            let change = json!([{ "op": "add", "path": "title", "value": title.to_string() }]);
            async move { one.patch(path, change).await.status }
        });
        let (changed, deleted) = tokio::join!(futures::future::join_all(changes), other.delete(path));
        assert_eq!(deleted.status, 204, "{deleted:?}");
        assert!(changed.iter().all(|status| [200, 404].contains(status)), "{changed:?}");
    }
}

async fn of_those_who_are_given_an_address_at_once_one_has_it(database: Database) {
    let world = world(&database).await;
    let [one, other] = &clients(&database, &world).await;
    let made = (0..8).map(|number| {
        let client = if number % 2 == 0 { one } else { other };
        let user = json!({ "userName": format!("user-{number}"), "emails": [{ "value": "x@acme.example" }] });
        async move { client.post("/Users", &user).await.status }
    });
    assert_eq!(futures::future::join_all(made).await, [201; 8]);
    let select = "SELECT COUNT(*) FROM person_keys WHERE valid_to_us IS NULL";
    let row = sqlx::query(select).fetch_one(&world.directory.pool).await.expect("readable");
    assert_eq!(sqlx::Row::get::<i64, _>(&row, 0), 1);
}
