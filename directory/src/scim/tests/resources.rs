//! Resources made, read, replaced and deleted; versions; keys; what one organisation sees of another.

use axum::{body::Body, http::Request};
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::{Client, ENTERPRISE, now, org, world};
use crate::{
    Scope,
    tests::{Database, on_both},
};

on_both! {
    a_user_comes_back_as_it_was_sent,
    what_a_resource_cannot_be,
    versions,
    only_a_key_with_the_scope,
    one_organisation_never_meets_another,
    the_server_describes_itself,
    changes_at_once_all_land,
    who_sends_slowly_is_in_nobody_elses_way,
    a_client_that_goes_away_harms_nobody,
}

async fn a_user_comes_back_as_it_was_sent(database: Database) {
    let acme = world(&database).await.acme;
    let sent = json!({
        "schemas": ["urn:ietf:params:scim:schemas:core:2.0:User", ENTERPRISE],
        "id": "mine", "meta": { "created": "1999-01-01T00:00:00Z" }, "groups": [{ "value": "x" }],
        "USERNAME": "Ada@acme.example", "externalId": "X1", "password": "hunter2", "favouriteColour": "green",
        "name": { "givenName": "Ada", "nonsense": 1 }, "title": "", "nickName": null, "active": "True",
        "emails": [{ "value": "ada@acme.example", "type": "work", "primary": true }],
        "phoneNumbers": [], "roles": ["admin"],
        ENTERPRISE: { "department": "Engines", "manager": "26118915" },
    });
    let made = acme.post("/Users", &sent).await;
    let id = made.id();
    let location = format!("http://daybook.example/scim/v2/Users/{id}");
    let expected = json!({
        "schemas": ["urn:ietf:params:scim:schemas:core:2.0:User", ENTERPRISE],
        "id": id, "userName": "Ada@acme.example", "externalId": "X1",
        "name": { "givenName": "Ada" }, "active": true,
        "emails": [{ "value": "ada@acme.example", "type": "work", "primary": true }],
        "roles": [{ "value": "admin" }],
        ENTERPRISE: { "department": "Engines", "manager": { "value": "26118915" } },
        "meta": {
            "resourceType": "User", "created": super::NOW, "lastModified": super::NOW,
            "location": location, "version": "W/\"1\"",
        },
    });
    assert_eq!((made.status, &made.body), (201, &expected));
    assert_eq!((made.header("location"), made.header("etag")), (location.as_str(), "W/\"1\""));
    assert_eq!(made.header("content-type"), "application/scim+json");
    assert_eq!(acme.get(&format!("/Users/{id}")).await.body, expected);

    // A replacement leaves nothing of before.
    let replaced = acme.put(&format!("/Users/{id}"), &json!({ "userName": "ada@acme.example" })).await;
    assert_eq!((replaced.status, replaced.header("etag")), (200, "W/\"2\""));
    assert_eq!(
        (&replaced.body["name"], &replaced.body["active"], &replaced.body[ENTERPRISE]),
        (&Value::Null, &Value::Null, &Value::Null)
    );
    assert_eq!(acme.delete(&format!("/Users/{id}")).await.status, 204);
    for gone in [acme.get(&format!("/Users/{id}")).await, acme.delete(&format!("/Users/{id}")).await] {
        assert_eq!((gone.status, gone.body["status"].as_str()), (404, Some("404")));
    }
    assert_eq!(acme.put(&format!("/Users/{id}"), &json!({ "userName": "x" })).await.status, 404);
}

async fn what_a_resource_cannot_be(database: Database) {
    let acme = world(&database).await.acme;
    acme.user("ada").await;
    acme.group("Core", &[]).await;
    for (path, body, expected) in [
        ("/Users", json!([]), (400, "invalidSyntax")),
        (
            "/Users",
            json!({ "schemas": ["urn:ietf:params:scim:schemas:core:2.0:Group"], "userName": "x" }),
            (400, "invalidSyntax"),
        ),
        ("/Users", json!({}), (400, "invalidValue")),
        ("/Users", json!({ "userName": "  " }), (400, "invalidValue")),
        ("/Users", json!({ "userName": "ADA" }), (409, "uniqueness")),
        ("/Users", json!({ "userName": "x", "active": "perhaps" }), (400, "invalidValue")),
        ("/Users", json!({ "userName": "x", "name": "Ada" }), (400, "invalidValue")),
        ("/Users", json!({ "userName": ["x"] }), (400, "invalidValue")),
        ("/Users", json!({ "userName": "x\0" }), (400, "invalidValue")),
        ("/Users", json!({ "userName": "x", "title": "x".repeat(5_000) }), (400, "invalidValue")),
        ("/Users", json!({ "userName": "x".repeat(1_025) }), (400, "invalidValue")),
        ("/Users", json!({ "userName": "x", "displayName": "x".repeat(1_025) }), (400, "invalidValue")),
        ("/Users", json!({ "userName": "x", "externalId": "x".repeat(1_025) }), (400, "invalidValue")),
        ("/Groups", json!({ "displayName": "x".repeat(1_025) }), (400, "invalidValue")),
        ("/Groups", json!({ "displayName": "Web", "members": [{ "value": "x\0" }] }), (400, "invalidValue")),
        ("/Users", json!({ "userName": "x", "emails": vec![json!({ "value": "a@b" }); 300] }), (400, "invalidValue")),
        (
            "/Users",
            json!({ "userName": "x", "emails": [{ "value": "a", "primary": true }, { "value": "b", "primary": true }] }),
            (400, "invalidValue"),
        ),
        ("/Users", json!({ "userName": "x", "x509Certificates": [{ "value": "!" }] }), (400, "invalidValue")),
        ("/Users", json!({ "userName": "x", ENTERPRISE: "Engines" }), (400, "invalidValue")),
        ("/Groups", json!({ "displayName": "core" }), (409, "uniqueness")),
        ("/Groups", json!({ "displayName": "Web", "members": [{ "value": "nobody" }] }), (400, "invalidValue")),
        (
            "/Groups",
            json!({ "displayName": "Web", "members": [{ "value": "x", "type": "Group" }] }),
            (400, "invalidValue"),
        ),
        ("/Groups", json!({ "displayName": "Web", "members": [{ "type": "User" }] }), (400, "invalidValue")),
    ] {
        let told = acme.post(path, &body).await;
        assert_eq!(told.refusal(), expected, "{body} {told:?}");
        assert_eq!(told.body["schemas"], json!(["urn:ietf:params:scim:api:messages:2.0:Error"]));
    }
    assert_eq!(acme.get("/Groups").await.body["totalResults"], 1, "of a group that was refused nothing is left");
    let other = acme.user("bob").await;
    assert_eq!(
        acme.put(&format!("/Users/{other}"), &json!({ "userName": "Ada" })).await.refusal(),
        (409, "uniqueness")
    );
    let large = acme.post("/Users", &json!({ "userName": "x".repeat(5 << 20) })).await;
    assert_eq!(large.status, 413);
}

async fn versions(database: Database) {
    let acme = world(&database).await.acme;
    let id = acme.user("ada").await;
    let path = format!("/Users/{id}");
    let body = json!({ "userName": "ada", "title": "Countess" });
    let with = async |method: &str, header: (&str, &str)| acme.send(method, &path, Some(&body), &[header]).await;
    assert_eq!(with("GET", ("if-none-match", "W/\"1\"")).await.status, 304);
    assert_eq!(with("GET", ("if-none-match", "\"9\", \"1\"")).await.status, 304);
    assert_eq!(with("GET", ("if-none-match", "W/\"2\"")).await.status, 200);
    assert_eq!(with("PUT", ("if-match", "W/\"2\"")).await.status, 412);
    assert_eq!(with("PUT", ("if-match", "W/\"1\"")).await.header("etag"), "W/\"2\"");
    // The same again is no other version.
    assert_eq!(with("PUT", ("if-match", "*")).await.header("etag"), "W/\"2\"");
    assert_eq!(with("PATCH", ("if-match", "W/\"1\"")).await.status, 412);
    assert_eq!(with("DELETE", ("if-match", "W/\"1\"")).await.status, 412);
    assert_eq!(with("DELETE", ("if-match", "W/\"2\"")).await.status, 204);

    // A group's version counts its members, too.
    let (ada, bob) = (acme.user("ada").await, acme.user("bob").await);
    let group = acme.group("Core", &[&ada]).await;
    let version = async || acme.get(&format!("/Groups/{group}")).await.header("etag").to_owned();
    let add = |id: &str| json!([{ "op": "add", "path": "members", "value": [{ "value": id }] }]);
    assert_eq!(acme.patch(&format!("/Groups/{group}"), add(&ada)).await.header("etag"), "W/\"1\"", "is in it");
    assert_eq!(acme.patch(&format!("/Groups/{group}"), add(&bob)).await.header("etag"), "W/\"2\"");
    acme.delete(&format!("/Users/{bob}")).await;
    assert_eq!(version().await, "W/\"3\"");
}

async fn only_a_key_with_the_scope(database: Database) {
    let world = world(&database).await;
    let with = |key: &str| Client { router: world.acme.router.clone(), key: key.to_owned() };
    for path in ["/Users", "/Schemas", "/ServiceProviderConfig", "/nothing"] {
        for key in ["", "nonsense", "dbk_0123456789abcdef_x"] {
            let told = with(key).get(path).await;
            assert_eq!((told.status, told.header("www-authenticate")), (401, "Bearer"), "{path} {key}");
        }
    }
    let (_, read) = world.directory.create_key(&org("acme"), Scope::Read, "", now()).await.expect("new");
    assert_eq!(with(read.expose()).get("/Users").await.status, 403);
    let (old, second) = world.directory.create_key(&org("acme"), Scope::Scim, "", now()).await.expect("new");
    assert_eq!(with(second.expose()).get("/Users").await.status, 200);
    assert!(world.directory.revoke_key(&old, now()).await.expect("writable"));
    assert_eq!(with(second.expose()).get("/Users").await.status, 401);
    assert_eq!(world.acme.get("/Users").await.status, 200, "the first goes on");
}

async fn one_organisation_never_meets_another(database: Database) {
    let world = world(&database).await;
    let (acme, globex) = (&world.acme, &world.globex);
    let ada = acme.user("ada@acme.example").await;
    let core = acme.group("Core", &[&ada]).await;
    let before = (acme.get(&format!("/Users/{ada}")).await.body, acme.get(&format!("/Groups/{core}")).await.body);

    let eve = globex.user("ada@acme.example").await;
    let own = globex.group("Core", &[&eve]).await;
    for (endpoint, id) in [("Users", &ada), ("Groups", &core)] {
        let path = format!("/{endpoint}/{id}");
        assert_eq!(globex.get(&path).await.status, 404);
        assert_eq!(globex.put(&path, &json!({ "userName": "x", "displayName": "x" })).await.status, 404);
        assert_eq!(
            globex.patch(&path, json!([{ "op": "replace", "path": "displayName", "value": "x" }])).await.status,
            404
        );
        assert_eq!(globex.delete(&path).await.status, 404);
        let found = globex.get(&format!("/{endpoint}?filter=id%20eq%20%22{id}%22")).await;
        assert_eq!(found.body["totalResults"], 0);
        let search = json!({ "filter": format!("not (id ne \"{id}\")") });
        for path in [format!("/{endpoint}/.search"), "/.search".to_owned()] {
            assert_eq!(globex.post(&path, &search).await.body["totalResults"], 0);
        }
        assert_eq!(globex.get(&format!("/{endpoint}")).await.body["totalResults"], 1);
    }
    // Neither as a member, nor by a filter on members.
    let stranger = json!([{ "value": ada }]);
    let told = globex.post("/Groups", &json!({ "displayName": "x", "members": stranger })).await;
    assert_eq!(told.refusal(), (400, "invalidValue"));
    for op in ["add", "replace"] {
        let told =
            globex.patch(&format!("/Groups/{own}"), json!([{ "op": op, "path": "members", "value": stranger }])).await;
        assert_eq!(told.refusal(), (400, "invalidValue"));
    }
    globex
        .patch(&format!("/Groups/{own}"), json!([{ "op": "remove", "path": format!("members[value eq \"{ada}\"]") }]))
        .await;
    let found = globex.get(&format!("/Groups?filter=members%20eq%20%22{ada}%22")).await;
    assert_eq!(found.body["totalResults"], 0);
    let bulk = json!({ "Operations": [
        { "method": "DELETE", "path": format!("/Users/{ada}") },
        { "method": "PUT", "path": format!("/Groups/{core}"), "data": { "displayName": "x" } },
        { "method": "PATCH", "path": format!("/Users/{ada}"), "data": { "Operations": [{ "op": "replace", "path": "active", "value": false }] } },
    ] });
    let told = globex.post("/Bulk", &bulk).await;
    let statuses: Vec<_> =
        told.body["Operations"].as_array().expect("outcomes").iter().map(|one| one["status"].clone()).collect();
    assert_eq!(statuses, ["404", "404", "404"]);
    let after = (acme.get(&format!("/Users/{ada}")).await.body, acme.get(&format!("/Groups/{core}")).await.body);
    assert_eq!(after, before);
    assert_eq!(globex.members(&own).await, [eve]);
}

async fn the_server_describes_itself(database: Database) {
    let acme = world(&database).await.acme;
    let configuration = acme.get("/ServiceProviderConfig").await.body;
    for (what, supported) in
        [("patch", true), ("bulk", true), ("filter", true), ("sort", true), ("etag", true), ("changePassword", false)]
    {
        assert_eq!(configuration[what]["supported"], supported, "{what}");
    }
    let schemas = acme.get("/Schemas").await.body;
    assert_eq!(schemas["totalResults"], 3);
    for schema in schemas["Resources"].as_array().expect("a list") {
        let id = schema["id"].as_str().expect("a text");
        assert_eq!(acme.get(&format!("/Schemas/{id}")).await.body, *schema);
        assert_eq!(acme.get(&format!("/Schemas/{}", id.replace(':', "%3A"))).await.body, *schema);
    }
    let types = acme.get("/ResourceTypes").await.body;
    assert_eq!(types["Resources"][0], acme.get("/ResourceTypes/User").await.body);
    assert_eq!(types["Resources"][0]["schemaExtensions"], json!([{ "schema": ENTERPRISE, "required": false }]));
    for (method, path, expected) in [
        ("GET", "/Schemas/nothing", 404),
        ("GET", "/nothing", 404),
        ("GET", "", 404),
        ("GET", "/Users/a/b", 404),
        ("GET", "/Schemas?filter=id%20pr", 403),
        ("DELETE", "/Schemas", 405),
        ("DELETE", "/Users", 405),
        ("POST", "/Users/x", 405),
        ("OPTIONS", "/Users", 405),
        ("GET", "/Me", 501),
    ] {
        let told = acme.send(method, path, Some(&json!({})), &[]).await;
        assert_eq!(
            (told.status, told.body["status"].as_str()),
            (expected, Some(expected.to_string().as_str())),
            "{method} {path}"
        );
    }
}

async fn changes_at_once_all_land(database: Database) {
    let world = world(&database).await;
    // As many processes would: each with connections of its own.
    let clients = async || {
        let router = super::router(super::Scim::new(database.open().await, now));
        Client { router, key: world.acme.key.clone() }
    };
    let (one, other) = (clients().await, clients().await);
    let (mut users, group) = (Vec::new(), one.group("Core", &[]).await);
    for number in 0..12 {
        users.push(one.user(&format!("user-{number}")).await);
    }
    let changes = users.iter().enumerate().map(|(number, id)| {
        let client = if number % 2 == 0 { &one } else { &other };
        let add = json!([{ "op": "add", "path": "members", "value": [{ "value": id }] }]);
        let path = format!("/Groups/{group}");
        async move { client.patch(&path, add).await.status }
    });
    assert_eq!(futures::future::join_all(changes).await, [204; 12]);
    assert_eq!(one.members(&group).await, users);
    // Of those who want the same name one gets it.
    let same = (0..8).map(|number| {
        let client = if number % 2 == 0 { &one } else { &other };
        async move { client.post("/Users", &json!({ "userName": "ada" })).await.status }
    });
    let mut told = futures::future::join_all(same).await;
    told.sort_unstable();
    assert_eq!(told, [201, 409, 409, 409, 409, 409, 409, 409]);
}

async fn who_sends_slowly_is_in_nobody_elses_way(database: Database) {
    let world = world(&database).await;
    for _ in 0..20 {
        let request = Request::builder().method("POST").uri("/scim/v2/Users");
        let request = request.header("authorization", format!("Bearer {}", world.acme.key));
        let never = futures::stream::pending::<Result<axum::body::Bytes, std::io::Error>>();
        let request = request.body(Body::from_stream(never)).expect("a request");
        tokio::spawn(world.acme.router.clone().oneshot(request));
    }
    // They have come as far as they come.
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert_eq!(world.globex.get("/Users").await.status, 200);
    let busy = world.acme.get("/Users").await;
    assert_eq!((busy.status, busy.header("retry-after")), (503, "1"));
}

async fn a_client_that_goes_away_harms_nobody(database: Database) {
    let acme = world(&database).await.acme;
    let stays = (0..12).map(|number| {
        let (acme, name) = (&acme, format!("stays-{number}"));
        async move { acme.user(&name).await }
    });
    let goes = (0..12).map(|number| {
        let user = json!({ "userName": format!("goes-{number}") });
        let acme = &acme;
        async move {
            tokio::time::timeout(std::time::Duration::from_micros(700 * number), acme.post("/Users", &user))
                .await
                .is_ok()
        }
    });
    let (stayed, answered) = tokio::join!(futures::future::join_all(stays), futures::future::join_all(goes));
    for id in stayed {
        assert_eq!(acme.get(&format!("/Users/{id}")).await.status, 200);
    }
    // Whoever was answered is there; of the others nobody knows, and each can be sent again.
    for (number, answered) in answered.into_iter().enumerate() {
        let again = acme.post("/Users", &json!({ "userName": format!("goes-{number}") })).await.status;
        assert!(again == 409 || (again == 201 && !answered), "{number}: {again}");
    }
    assert_eq!(acme.get("/Users").await.body["totalResults"], 24);
}
