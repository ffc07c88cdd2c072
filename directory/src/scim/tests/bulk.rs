//! Bulk: outcomes, references, limits.

use serde_json::{Value, json};

use super::world;
use crate::tests::{Database, on_both};

on_both! {
    what_refers_to_another_waits_for_it,
    it_stops_after_so_many_failures,
    versions_count,
    what_is_no_bulk,
}

fn statuses(body: &Value) -> Vec<&str> {
    let all = body["Operations"].as_array().expect("outcomes");
    all.iter().map(|one| one["status"].as_str().expect("a text")).collect()
}

async fn what_refers_to_another_waits_for_it(database: Database) {
    let acme = world(&database).await.acme;
    let told = acme
        .post(
            "/Bulk",
            &json!({
                "schemas": ["urn:ietf:params:scim:api:messages:2.0:BulkRequest"],
                "Operations": [
                    { "method": "POST", "path": "/Groups", "bulkId": "g", "data": { "displayName": "Core", "members": [{ "value": "bulkId:u" }] } },
                    { "method": "post", "path": "/Users", "bulkId": "u", "data": { "userName": "ada" } },
                    { "method": "PATCH", "path": "/Users/bulkId:u", "data": { "Operations": [{ "op": "add", "path": "title", "value": "Countess" }] } },
                    { "method": "POST", "path": "/Users", "bulkId": "v", "data": { "userName": "ADA" } },
                    { "method": "POST", "path": "/Groups", "bulkId": "h", "data": { "displayName": "Web", "members": [{ "value": "bulkId:v" }] } },
                    { "method": "DELETE", "path": "/Users/nobody" },
                    { "method": "POST", "path": "/Bulk", "bulkId": "b", "data": { "Operations": [] } },
                    { "method": "POST", "path": "/Users/.search", "bulkId": "s", "data": {} },
                    { "method": "DELETE", "path": "/Users/\0" },
                ],
            }),
        )
        .await;
    assert_eq!(told.status, 200);
    assert_eq!(statuses(&told.body), ["201", "200", "409", "404", "404", "404", "404", "201", "409"]);
    let outcome = |name: &str| {
        let all = told.body["Operations"].as_array().expect("outcomes");
        all.iter().find(|one| one["bulkId"] == name).expect("an outcome").clone()
    };
    let location = outcome("u")["location"].as_str().expect("a text").to_owned();
    let id = location.rsplit('/').next().expect("an id");
    assert_eq!(outcome("u")["version"], "W/\"1\"");
    assert_eq!(outcome("v")["response"]["scimType"], "uniqueness");
    assert_eq!(outcome("h")["response"]["scimType"], "invalidValue");
    let user = acme.get(&format!("/Users/{id}")).await.body;
    assert_eq!((&user["title"], &user["groups"][0]["display"]), (&json!("Countess"), &json!("Core")));
    assert_eq!(acme.get("/Groups").await.body["totalResults"], 1);
}

async fn it_stops_after_so_many_failures(database: Database) {
    let acme = world(&database).await.acme;
    let made = |name: &str| json!({ "method": "POST", "path": "/Users", "bulkId": name, "data": { "userName": name } });
    let gone = || json!({ "method": "DELETE", "path": "/Users/nobody" });
    let all = [made("a"), gone(), made("b"), gone(), made("c")];
    let told = acme.post("/Bulk", &json!({ "failOnErrors": 2, "Operations": all })).await;
    assert_eq!(statuses(&told.body), ["201", "404", "201", "404"]);
    assert_eq!(acme.get("/Users").await.body["totalResults"], 2);
    let again = [json!({ "method": "PUT", "path": "/Users/x", "version": "W/\"1\"", "data": { "userName": "x" } })];
    assert_eq!(statuses(&acme.post("/Bulk", &json!({ "Operations": again })).await.body), ["404"]);
}

async fn versions_count(database: Database) {
    let acme = world(&database).await.acme;
    let id = acme.user("ada").await;
    let put = |version: &str, title: &str| json!({ "method": "PUT", "path": format!("/Users/{id}"), "version": version, "data": { "userName": "ada", "title": title } });
    let told = acme
        .post("/Bulk", &json!({ "Operations": [put("W/\"1\"", "x"), put("W/\"1\"", "y"), put("W/\"2\"", "z")] }))
        .await;
    assert_eq!(statuses(&told.body), ["200", "412", "200"]);
    assert_eq!(told.body["Operations"][2]["version"], "W/\"3\"");
}

async fn what_is_no_bulk(database: Database) {
    let acme = world(&database).await.acme;
    let nested = (0..20).fold(json!("x"), |inner, _| json!([inner]));
    for (body, expected) in [
        (json!({}), 400),
        (json!({ "Operations": ["x"] }), 400),
        (json!({ "failOnErrors": 0, "Operations": [] }), 400),
        (json!({ "Operations": [{ "method": "GET", "path": "/Users" }] }), 400),
        (json!({ "Operations": [{ "method": "POST", "path": "/Users", "data": {} }] }), 400),
        (json!({ "Operations": [{ "method": "DELETE" }] }), 400),
        (json!({ "Operations": [{ "method": "POST", "bulkId": "x", "path": "/Users", "data": nested }] }), 400),
        (
            json!({ "Operations": vec![json!({ "method": "POST", "bulkId": "x", "path": "/Users", "data": {} }); 2] }),
            400,
        ),
        (json!({ "Operations": vec![json!({ "method": "DELETE", "path": "/Users/x" }); 1_001] }), 413),
    ] {
        assert_eq!(acme.post("/Bulk", &body).await.status, expected);
    }
    assert_eq!(acme.get("/Users").await.body["totalResults"], 0);
    assert_eq!(acme.get("/Bulk").await.status, 404);
}
