//! Lists: filters, pages, order, what is shown.

use serde_json::{Value, json};

use super::{Client, ENTERPRISE, world};
use crate::tests::{Database, on_both};

on_both! {
    filters_by_the_database_and_here,
    groups_by_their_members,
    pages,
    long_pages_end_early,
    order,
    what_is_shown,
}

async fn people(acme: &Client) {
    for (name, title, active, department) in [
        ("carol", Some("Clerk"), Some(true), "Web"),
        ("ada", Some("Countess"), Some(false), "Engines"),
        ("dan", None, None, "Web"),
        ("Bob", Some("clerk"), Some(true), "Engines"),
    ] {
        let user = json!({
            "userName": name, "displayName": format!("{name} X"), "externalId": format!("x-{name}"), "title": title, "active": active,
            "emails": [
                { "value": format!("{name}@home.example"), "type": "home" },
                { "value": format!("{name}@acme.example"), "type": "work", "primary": true },
            ],
            ENTERPRISE: { "department": department },
        });
        assert_eq!(acme.post("/Users", &user).await.status, 201);
    }
}

fn escaped(text: &str) -> String {
    text.replace('%', "%25")
        .replace(' ', "%20")
        .replace('"', "%22")
        .replace('[', "%5B")
        .replace(']', "%5D")
        .replace('+', "%2B")
}

fn names(body: &Value) -> Vec<&str> {
    let all = body["Resources"].as_array().expect("a list");
    all.iter().map(|one| one["userName"].as_str().or(one["displayName"].as_str()).unwrap_or("")).collect()
}

async fn filters_by_the_database_and_here(database: Database) {
    let acme = world(&database).await.acme;
    people(&acme).await;
    for (filter, expected) in [
        ("userName eq \"BOB\"", vec!["Bob"]),
        ("userName eq \"nobody\"", vec![]),
        ("externalId eq \"x-ada\"", vec!["ada"]),
        ("externalId eq \"X-ADA\"", vec![]),
        ("displayName eq \"dan x\"", vec!["dan"]),
        ("active eq false", vec!["ada"]),
        ("active eq true", vec!["carol", "Bob"]),
        ("active eq true and userName eq \"bob\"", vec!["Bob"]),
        ("active eq true and title eq \"CLERK\"", vec!["carol", "Bob"]),
        ("active eq true and title eq \"CLERK\" and userName sw \"b\"", vec!["Bob"]),
        ("userName eq \"ada\" or userName eq \"dan\"", vec!["ada", "dan"]),
        ("not (active eq true)", vec!["ada", "dan"]),
        ("title pr", vec!["carol", "ada", "Bob"]),
        ("emails[type eq \"work\"].value eq \"ada@acme.example\"", vec!["ada"]),
        ("emails[type eq \"home\" and value ew \"acme.example\"]", vec![]),
        ("urn:ietf:params:scim:schemas:extension:enterprise:2.0:User:department eq \"web\"", vec!["carol", "dan"]),
        ("meta.created gt \"2000-01-01T00:00:00Z\" and userName co \"a\"", vec!["carol", "ada", "dan"]),
        ("schemas eq \"urn:ietf:params:scim:schemas:core:2.0:User\"", vec!["carol", "ada", "dan", "Bob"]),
    ] {
        let told = acme.get(&format!("/Users?filter={}", escaped(filter))).await;
        assert_eq!(names(&told.body), expected, "{filter}");
        assert_eq!(told.body["totalResults"], expected.len(), "{filter}");
    }
    for filter in ["userName", "userName eq \"a\\u0000\"", "title eq \"\\u0000\"", "emails[value eq \"\\u0000\"]"] {
        let told = acme.get(&format!("/Users?filter={}", escaped(filter))).await;
        assert_eq!(told.refusal(), (400, "invalidFilter"), "{filter}");
    }
}

async fn groups_by_their_members(database: Database) {
    let acme = world(&database).await.acme;
    let (ada, bob) = (acme.user("ada").await, acme.user("bob").await);
    let core = acme.group("Core", &[&ada, &bob]).await;
    acme.group("Web", &[&bob]).await;
    for (filter, expected) in [
        (format!("members eq \"{ada}\""), vec!["Core"]),
        (format!("members.value eq \"{bob}\""), vec!["Core", "Web"]),
        (format!("members[value eq \"{bob}\"]"), vec!["Core", "Web"]),
        (format!("id eq \"{core}\" and members eq \"{ada}\""), vec!["Core"]),
        // Not by the database.
        (format!("members eq \"{ada}\" or displayName eq \"web\""), vec!["Core", "Web"]),
        (format!("members[value eq \"{ada}\" and type eq \"user\"]"), vec!["Core"]),
        (format!("not (members.value eq \"{ada}\")"), vec!["Web"]),
    ] {
        let told = acme.get(&format!("/Groups?filter={}", escaped(&filter))).await;
        assert_eq!(names(&told.body), expected, "{filter}");
    }
    let of = acme.get(&format!("/Users?filter={}", escaped(&format!("groups.value eq \"{core}\"")))).await;
    assert_eq!(names(&of.body), ["ada", "bob"]);
    let group = &of.body["Resources"][0]["groups"][0];
    let reference = format!("http://daybook.example/scim/v2/Groups/{core}");
    assert_eq!(*group, json!({ "value": core, "$ref": reference, "display": "Core", "type": "direct" }));
    let told = acme.get("/Groups?excludedAttributes=members&filter=displayName%20eq%20%22Core%22").await;
    assert_eq!(told.body["Resources"][0].get("members"), None);
}

async fn pages(database: Database) {
    let acme = world(&database).await.acme;
    for number in 0..7 {
        acme.user(&format!("user-{number}")).await;
    }
    // By the database, and by a scan.
    for filter in ["", "&filter=userName%20sw%20%22user%22"] {
        for (page, first, expected) in [
            ("", 1, 0..7),
            ("&count=3", 1, 0..3),
            ("&startIndex=4&count=3", 4, 3..6),
            ("&startIndex=7&count=3", 7, 6..7),
            ("&startIndex=8&count=3", 8, 0..0),
            ("&startIndex=0&count=2", 1, 0..2),
            ("&startIndex=-5&count=2", 1, 0..2),
            ("&count=0", 1, 0..0),
            ("&count=-1", 1, 0..0),
        ] {
            let told = acme.get(&format!("/Users?x=y{page}{filter}")).await.body;
            let expected: Vec<String> = expected.map(|number| format!("user-{number}")).collect();
            assert_eq!(names(&told), expected, "{page} {filter}");
            let numbers = [&told["totalResults"], &told["startIndex"], &told["itemsPerPage"]];
            assert_eq!(numbers, [&json!(7), &json!(first), &json!(expected.len())], "{page} {filter}");
        }
    }
    assert_eq!(acme.get("/Users?count=x").await.refusal(), (400, "invalidValue"));
    // Over both types: users first.
    acme.group("group-0", &[]).await;
    let told = acme.post("/.search", &json!({ "startIndex": 7, "count": 5 })).await.body;
    assert_eq!((names(&told), &told["totalResults"]), (vec!["user-6", "group-0"], &json!(8)));
    let told = acme.post("/.search", &json!({ "startIndex": 8, "count": 5 })).await.body;
    assert_eq!(names(&told), ["group-0"]);
    let told = acme.post("/.search", &json!({ "count": 7 })).await.body;
    assert_eq!((names(&told).len(), &told["totalResults"]), (7, &json!(8)));
}

async fn long_pages_end_early(database: Database) {
    let acme = world(&database).await.acme;
    acme.group("group", &[]).await;
    let roles: Vec<String> = (0..14).map(|role| format!("{role:04000}")).collect();
    for number in 0..90 {
        let user = json!({ "userName": format!("user-{number:02}"), "roles": roles });
        assert_eq!(acme.post("/Users", &user).await.status, 201);
    }
    let expected: Vec<String> = (0..90).map(|number| format!("user-{number:02}")).collect();
    // By the database, by a scan, and with groups after them.
    for (filter, more) in [("", 0), ("&filter=userName%20sw%20%22user%22", 0), ("/.search", 1)] {
        let (mut found, mut pages) = (Vec::new(), 0);
        while found.len() < 90 + more {
            let start = found.len() + 1;
            let told = if more > 0 {
                acme.post(filter, &json!({ "startIndex": start })).await.body
            } else {
                acme.get(&format!("/Users?startIndex={start}{filter}")).await.body
            };
            let page = names(&told);
            assert!(!page.is_empty() && told.to_string().len() < 6 << 20, "{filter} {start}");
            assert_eq!((&told["totalResults"], &told["itemsPerPage"]), (&json!(90 + more), &json!(page.len())));
            found.extend(page.into_iter().map(str::to_owned));
            pages += 1;
        }
        assert_eq!((&found[..90], pages), (&expected[..], 2), "{filter}");
    }
}

async fn order(database: Database) {
    let acme = world(&database).await.acme;
    people(&acme).await;
    for (by, expected) in [
        ("userName", ["ada", "Bob", "carol", "dan"]),
        ("userName&sortOrder=descending", ["dan", "carol", "Bob", "ada"]),
        ("displayName", ["ada", "Bob", "carol", "dan"]),
        ("meta.created", ["carol", "ada", "dan", "Bob"]),
        // What has no title comes last, descending first.
        ("title", ["carol", "Bob", "ada", "dan"]),
        ("title&sortOrder=descending", ["dan", "ada", "Bob", "carol"]),
        // By the primary address.
        ("emails", ["ada", "Bob", "carol", "dan"]),
        ("id&sortOrder=descending", ["Bob", "dan", "ada", "carol"]),
    ] {
        assert_eq!(names(&acme.get(&format!("/Users?sortBy={by}")).await.body), expected, "{by}");
        let page = acme.get(&format!("/Users?count=2&startIndex=2&sortBy={by}")).await.body;
        assert_eq!((names(&page), &page["totalResults"]), (expected[1..3].to_vec(), &json!(4)), "{by}");
    }
}

async fn what_is_shown(database: Database) {
    let acme = world(&database).await.acme;
    people(&acme).await;
    let show = async |what: &str| {
        let told = acme.get(&format!("/Users?filter=userName%20eq%20%22ada%22&{what}")).await.body;
        let mut one = told["Resources"][0].clone();
        one["id"].take();
        one["schemas"].take();
        one
    };
    let base = json!({ "id": null, "schemas": null });
    let with = |more: Value| {
        let mut whole = base.clone();
        whole.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        whole
    };
    assert_eq!(show("attributes=userName,title").await, with(json!({ "userName": "ada", "title": "Countess" })));
    assert_eq!(show("attributes=password,nothing").await, base);
    let emails = json!([{ "value": "ada@home.example" }, { "value": "ada@acme.example" }]);
    assert_eq!(show("attributes=emails.value").await, with(json!({ "emails": emails })));
    let typed =
        json!([{ "value": "ada@home.example", "type": "home" }, { "value": "ada@acme.example", "type": "work" }]);
    assert_eq!(show("attributes=emails.value,%20emails.type").await, with(json!({ "emails": typed })));
    let engines = json!({ ENTERPRISE: { "department": "Engines" } });
    assert_eq!(show(&format!("attributes={ENTERPRISE}:department")).await, with(engines.clone()));
    assert_eq!(show(&format!("attributes={ENTERPRISE}")).await, with(engines));
    let less = show(&format!("excludedAttributes=emails.type,id,name,meta,{ENTERPRISE}:department")).await;
    assert_eq!(less["emails"][1], json!({ "value": "ada@acme.example", "primary": true }));
    assert!(less.get("meta").is_none() && less.get("id").is_some() && less["userName"] == "ada", "{less}");
    assert_eq!(acme.get("/Users?attributes=id&excludedAttributes=id").await.refusal(), (400, "invalidValue"));
    // A change shows no more than is asked for.
    let made = acme.post("/Users?attributes=userName", &json!({ "userName": "eve", "title": "x" })).await;
    assert_eq!((made.status, made.body.get("title")), (201, None));
}
