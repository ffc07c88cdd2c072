//! PATCH: operations on a document, without a database.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{
    super::{
        document::cleaned,
        patch::{Members, apply},
        problem::Problem,
        schema::Type,
    },
    ENTERPRISE, world,
};
use crate::tests::{Database, on_both};

on_both! {
    all_operations_or_none,
}

fn ada() -> Value {
    json!({
        "userName": "ada", "title": "Countess", "name": { "givenName": "Ada", "familyName": "Byron" },
        "emails": [{ "value": "ada@acme.example", "type": "work", "primary": true }, { "value": "ada@home.example", "type": "home" }],
        ENTERPRISE: { "department": "Engines" },
    })
}

fn patched(of: Type, resource: &Value, operations: &Value) -> Result<(Value, Vec<Members>), Problem> {
    let mut kept = cleaned(of, resource).expect("a resource");
    let members = apply(of, &mut kept, &json!({ "Operations": operations }))?;
    // What is kept is what would have been kept of it had it been sent whole.
    let kept = Value::from(kept);
    assert_eq!(Value::from(cleaned(of, &kept).expect("still a resource")), kept, "{operations}");
    Ok((kept, members))
}

/// What becomes of the attributes that `expected` names.
fn check(operations: Value, expected: Value) {
    let (kept, _) =
        patched(Type::User, &ada(), &operations).unwrap_or_else(|problem| panic!("{operations}: {problem:?}"));
    for (name, value) in expected.as_object().expect("an object") {
        assert_eq!(kept.get(name).unwrap_or(&Value::Null), value, "{name} after {operations}");
    }
}

fn op(op: &str, path: &str, value: Value) -> Value {
    json!([{ "op": op, "path": path, "value": value }])
}

#[test]
fn single_values() {
    check(op("add", "nickName", json!("A")), json!({ "nickName": "A", "title": "Countess" }));
    check(op("Replace", "TITLE", json!("Lady")), json!({ "title": "Lady" }));
    check(op("replace", "title", json!(null)), json!({ "title": null }));
    check(op("replace", "title", json!("")), json!({ "title": null }));
    check(json!([{ "op": "Remove", "path": "title" }]), json!({ "title": null }));
    check(
        op("replace", "name.familyName", json!("Lovelace")),
        json!({ "name": { "givenName": "Ada", "familyName": "Lovelace" } }),
    );
    check(
        op("replace", "name", json!({ "familyName": "Lovelace" })),
        json!({ "name": { "givenName": "Ada", "familyName": "Lovelace" } }),
    );
    check(
        json!([{ "op": "remove", "path": "name.familyName" }, { "op": "remove", "path": "name.givenName" }]),
        json!({ "name": null }),
    );
    check(op("add", "password", json!("hunter2")), json!({ "password": null }));
    check(op("replace", "active", json!("False")), json!({ "active": false }));
}

#[test]
fn extensions() {
    let whole = |value: Value| json!({ ENTERPRISE: value });
    let at = |name: &str| format!("{ENTERPRISE}:{name}");
    check(op("add", &at("costCenter"), json!("7")), whole(json!({ "department": "Engines", "costCenter": "7" })));
    check(
        op("replace", &at("manager"), json!("9")),
        whole(json!({ "department": "Engines", "manager": { "value": "9" } })),
    );
    check(
        op("add", &format!("{ENTERPRISE}.costCenter"), json!(7)),
        whole(json!({ "department": "Engines", "costCenter": "7" })),
    );
    check(json!([{ "op": "remove", "path": at("department") }]), whole(Value::Null));
    check(json!([{ "op": "remove", "path": ENTERPRISE }]), whole(Value::Null));
    check(
        op("replace", ENTERPRISE, json!({ "division": "D" })),
        whole(json!({ "department": "Engines", "division": "D" })),
    );
}

#[test]
fn several_values() {
    let [work, home] = [
        json!({ "value": "ada@acme.example", "type": "work", "primary": true }),
        json!({ "value": "ada@home.example", "type": "home" }),
    ];
    let not_primary = json!({ "value": "ada@acme.example", "type": "work", "primary": false });
    let new = json!({ "value": "ada@new.example", "primary": true });
    check(op("add", "emails", json!([home, new])), json!({ "emails": [not_primary, home, new] }));
    check(op("replace", "emails", json!([new])), json!({ "emails": [new] }));
    check(op("replace", "emails", new.clone()), json!({ "emails": [new] }));
    check(json!([{ "op": "remove", "path": "emails" }]), json!({ "emails": null }));
    check(op("remove", "emails", json!([home])), json!({ "emails": [work] }));
    check(json!([{ "op": "remove", "path": "emails[type eq \"home\"]" }]), json!({ "emails": [work] }));
    check(json!([{ "op": "remove", "path": "emails[value pr]" }]), json!({ "emails": null }));
    check(json!([{ "op": "remove", "path": "emails[type eq \"fax\"]" }]), json!({ "emails": [work, home] }));
    let path = "emails[type eq \"home\"].value";
    check(op("replace", path, json!("x@y")), json!({ "emails": [work, { "value": "x@y", "type": "home" }] }));
    check(
        op("replace", "emails[type eq \"home\"].primary", json!(true)),
        json!({ "emails": [not_primary, { "value": "ada@home.example", "type": "home", "primary": true }] }),
    );
    check(
        op("replace", "emails[type eq \"home\"]", json!({ "display": "D" })),
        json!({ "emails": [work, { "value": "ada@home.example", "type": "home", "display": "D" }] }),
    );
    // What an add speaks of is made as it is described.
    check(
        op("add", "emails[type eq \"other\"].value", json!("x@y")),
        json!({ "emails": [work, home, { "type": "other", "value": "x@y" }] }),
    );
    check(
        op("add", "phoneNumbers[type eq \"work\" and primary eq true].value", json!("1")),
        json!({ "phoneNumbers": [{ "type": "work", "primary": true, "value": "1" }] }),
    );
}

#[test]
fn without_a_path() {
    let value = json!({
        "id": "other", "meta": {}, "schemas": [], "groups": [{ "value": "x" }], "colour": "green", "1": 2,
        "title": "Lady", "name.familyName": "Lovelace", "emails[type eq \"work\"].value": "a@b",
        (format!("{ENTERPRISE}:division")): "D", ENTERPRISE: { "costCenter": "7", "nonsense": true },
    });
    check(
        json!([{ "op": "Add", "value": value }]),
        json!({
            "id": null, "groups": null, "colour": null, "title": "Lady",
            "name": { "givenName": "Ada", "familyName": "Lovelace" },
            "emails": [{ "value": "a@b", "type": "work", "primary": true }, { "value": "ada@home.example", "type": "home" }],
            ENTERPRISE: { "department": "Engines", "division": "D", "costCenter": "7" },
        }),
    );
}

#[test]
fn what_is_refused() {
    let texts = |numbers: std::ops::Range<u32>| numbers.map(|number| number.to_string()).collect::<Vec<_>>();
    for (operations, expected) in [
        (json!({}), "invalidSyntax"),
        (json!([]), "invalidSyntax"),
        (json!(["add"]), "invalidSyntax"),
        (op("move", "title", json!("x")), "invalidSyntax"),
        (json!([{ "op": "add", "path": "title" }]), "invalidValue"),
        (json!([{ "op": "add", "value": "x" }]), "invalidValue"),
        (json!([{ "op": "remove" }]), "noTarget"),
        (op("add", "colour", json!("x")), "invalidPath"),
        (op("add", "name.colour", json!("x")), "invalidPath"),
        (op("add", "title[", json!("x")), "invalidFilter"),
        (op("add", "emails[type eq \"work\"]x", json!("x")), "invalidPath"),
        (op("add", "emails[type is \"work\"].value", json!("x")), "invalidFilter"),
        (op("add", "title[value eq \"x\"]", json!("x")), "invalidPath"),
        (op("replace", "emails[type eq \"fax\"].value", json!("x")), "noTarget"),
        (op("add", "emails[type ne \"work\" and type ne \"home\"].value", json!("x")), "noTarget"),
        (op("replace", "id", json!("x")), "mutability"),
        (op("replace", "meta.created", json!("x")), "mutability"),
        (op("add", "groups", json!([{ "value": "x" }])), "mutability"),
        (json!([{ "op": "remove", "path": "userName" }]), "mutability"),
        (op("replace", "userName", json!("")), "invalidValue"),
        (op("replace", "active", json!("maybe")), "invalidValue"),
        (op("replace", "name", json!("x")), "invalidValue"),
        (json!(vec![json!({ "op": "remove", "path": "title" }); 1_001]), "invalidSyntax"),
        // What would be few in the end, too.
        (json!([{ "op": "add", "path": "roles", "value": texts(0..200) }, { "op": "add", "path": "roles", "value": texts(200..400) }, { "op": "remove", "path": "roles" }]), "invalidValue"),
        (json!(vec![json!({ "op": "add", "path": "roles", "value": texts(0..200) }); 1_000]), "invalidValue"),
        ((0..2).map(|part| json!({ "op": "add", "path": "roles", "value": (0..200).map(|role| format!("{part} {role}")).collect::<Vec<_>>() })).collect(), "invalidValue"),
        ((0..200).map(|role| json!({ "op": "add", "path": "roles", "value": { "value": format!("{role}{}", "x".repeat(4_000)) } })).collect(), "invalidValue"),
    ] {
        let problem = patched(Type::User, &ada(), &operations).expect_err("refused");
        assert_eq!(problem.to_json()["scimType"], expected, "{operations}");
    }
}

#[test]
fn members_are_handed_back() {
    let group = json!({ "displayName": "Core" });
    let ids = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>();
    for (operations, expected) in [
        (op("Add", "members", json!([{ "value": "a" }, { "value": "b" }])), Members::Add(ids(&["a", "b"]))),
        (op("add", "members", json!({ "value": "a" })), Members::Add(ids(&["a"]))),
        (json!([{ "op": "add", "value": { "members": [{ "value": "a" }] } }]), Members::Add(ids(&["a"]))),
        (
            json!([{ "op": "replace", "value": { "id": "x", "members": [{ "value": "a" }] } }]),
            Members::Set(ids(&["a"])),
        ),
        (op("replace", "members", json!([])), Members::Set(ids(&[]))),
        (json!([{ "op": "remove", "path": "members" }]), Members::Set(ids(&[]))),
        (op("Remove", "members", json!([{ "value": "a" }])), Members::Remove(ids(&["a"]))),
        (json!([{ "op": "remove", "path": "members[value eq \"a\"]" }]), Members::Remove(ids(&["a"]))),
        (
            json!([{ "op": "remove", "path": "members[value eq \"a\" or value eq \"b\"]" }]),
            Members::Remove(ids(&["a", "b"])),
        ),
        (op("remove", "members", json!([])), Members::Remove(ids(&[]))),
        // What came before does not matter any more.
        (
            json!([{ "op": "add", "path": "members", "value": "a" }, { "op": "replace", "path": "members", "value": "b" }]),
            Members::Set(ids(&["b"])),
        ),
    ] {
        let (kept, members) = patched(Type::Group, &group, &operations).expect("members");
        assert_eq!((kept, members), (group.clone(), vec![expected]), "{operations}");
    }
    for (operations, expected) in [
        (json!([{ "op": "remove", "path": "members[display eq \"a\"]" }]), "invalidFilter"),
        (op("replace", "members[value eq \"a\"].value", json!("b")), "mutability"),
        (op("add", "members", json!([{ "value": "g", "type": "Group" }])), "invalidValue"),
        (json!([{ "op": "remove", "path": "displayName" }]), "mutability"),
    ] {
        let problem = patched(Type::Group, &group, &operations).expect_err("refused");
        assert_eq!(problem.to_json()["scimType"], expected, "{operations}");
    }
}

async fn all_operations_or_none(database: Database) {
    let acme = world(&database).await.acme;
    let (ada, bob) = (acme.user("ada").await, acme.user("bob").await);
    let group = acme.group("Core", &[&ada]).await;
    let told = acme
        .patch(
            &format!("/Groups/{group}"),
            json!([
                { "op": "replace", "path": "displayName", "value": "Web" },
                { "op": "add", "path": "members", "value": [{ "value": bob }] },
                { "op": "add", "path": "members", "value": [{ "value": "nobody" }] },
            ]),
        )
        .await;
    assert_eq!(told.refusal(), (400, "invalidValue"));
    let after = acme.get(&format!("/Groups/{group}")).await;
    assert_eq!((after.body["displayName"].as_str(), after.header("etag")), (Some("Core"), "W/\"1\""));
    assert_eq!(acme.members(&group).await, std::slice::from_ref(&ada));
    // In order: who is added first and then set is what the last says.
    let operations = json!([
        { "op": "add", "path": "members", "value": [{ "value": bob }] },
        { "op": "remove", "path": format!("members[value eq \"{ada}\"]") },
    ]);
    assert_eq!(acme.patch(&format!("/Groups/{group}"), operations).await.status, 204);
    assert_eq!(acme.members(&group).await, [bob]);
    let named = acme
        .patch(
            &format!("/Groups/{group}?attributes=displayName"),
            json!([{ "op": "replace", "path": "displayName", "value": "Web" }]),
        )
        .await;
    assert_eq!((named.status, named.body["displayName"].as_str()), (200, Some("Web")));
}

fn operation() -> impl Strategy<Value = Value> {
    let paths = [
        "title",
        "userName",
        "active",
        "name",
        "name.givenName",
        "emails",
        "emails.value",
        "emails.primary",
        "emails[type eq \"work\"]",
        "emails[type eq \"work\"].value",
        "emails[not (type pr)].primary",
        "emails[primary eq true].type",
        "roles",
        "roles.value",
        "roles[value eq \"a\"]",
        "x509Certificates",
        "externalId",
        "password",
        "groups",
        "meta",
        "schemas",
        ENTERPRISE,
        "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User:manager",
        "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User:manager.value",
        "unknown",
        "emails[",
        "",
    ];
    let values = [
        json!(null),
        json!(true),
        json!("False"),
        json!("text"),
        json!(""),
        json!(7),
        json!([]),
        json!({}),
        json!(["a", "b"]),
        json!({ "value": "a" }),
        json!([{ "value": "a", "primary": true }, { "value": "b", "type": "work" }]),
        json!({ "givenName": "A", "familyName": null }),
        json!({ "primary": true }),
        json!({ "value": null, "type": "" }),
        json!({ "userName": "x", "name.givenName": "y", "emails[type eq \"home\"].value": "z", ENTERPRISE: { "manager": "m" } }),
    ];
    let (ops, paths) = (prop::sample::select(vec!["add", "Remove", "replace"]), prop::sample::select(paths.to_vec()));
    (ops, prop::option::of(paths), prop::option::of(prop::sample::select(values.to_vec()))).prop_map(
        |(op, path, value)| {
            let mut operation = json!({ "op": op });
            if let Some(path) = path {
                operation["path"] = path.into();
            }
            if let Some(value) = value {
                operation["value"] = value;
            }
            operation
        },
    )
}

proptest! {
    /// Whatever comes is refused, or leaves a document as if it had been sent whole ([`patched`] compares).
    #[test]
    fn whatever_comes_leaves_a_resource(operations in prop::collection::vec(operation(), 1..6)) {
        drop(patched(Type::User, &ada(), &operations.into()));
    }

    /// A refused operation alone tells nothing: those that pass do so one by one, too, with the same outcome.
    #[test]
    fn several_are_one_after_another(operations in prop::collection::vec(operation(), 1..6)) {
        let at_once = patched(Type::User, &ada(), &operations.clone().into());
        let one_by_one = operations.iter().try_fold(ada(), |before, one| {
            patched(Type::User, &before, &json!([one])).map(|(after, _)| after)
        });
        if let Ok((at_once, _)) = at_once {
            // What a later operation puts back may be missing in between.
            if let Ok(one_by_one) = one_by_one {
                prop_assert_eq!(at_once, one_by_one);
            }
        }
    }
}
