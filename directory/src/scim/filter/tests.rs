//! Filters: read, written, and what they hold for.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Filter, Op, matches, parse};
use crate::scim::{path::Path, schema::Type};

fn ada() -> Value {
    json!({
        "id": "2819c223", "externalId": "X1", "userName": "Ada@Acme.example", "active": true, "title": "",
        "name": { "familyName": "Lovelace" },
        "emails": [
            { "value": "ada@acme.example", "type": "work", "primary": true },
            { "value": "ada@home.example", "type": "home" },
        ],
        "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User": { "department": "Engines", "manager": { "value": "9" } },
        "meta": { "created": "2026-03-04T05:06:07.000000Z", "resourceType": "User" },
    })
}

#[test]
fn what_holds() {
    let ada = ada();
    let ada = ada.as_object().expect("an object");
    for (text, expected) in [
        ("userName eq \"ada@acme.example\"", true),
        ("USERNAME EQ \"ADA@ACME.EXAMPLE\"", true),
        ("urn:ietf:params:scim:schemas:core:2.0:User:userName sw \"ada\"", true),
        ("externalId eq \"x1\"", false),
        ("externalId eq \"X1\"", true),
        ("userName ne \"ada@acme.example\"", false),
        ("userName co \"acme\" and name.familyName ew \"LACE\"", true),
        ("title pr", false),
        ("name pr", true),
        ("nickName pr", false),
        ("nickName eq null", true),
        ("nickName ne \"x\"", true),
        ("nickName eq \"x\"", false),
        ("unknown pr", false),
        ("unknown eq \"x\"", false),
        ("not (unknown pr)", true),
        ("active eq true", true),
        ("active eq \"True\"", true),
        ("active eq false", false),
        ("active ne false", true),
        ("emails co \"home.example\"", true),
        ("emails.type eq \"home\"", true),
        // One value for which both hold, and not two.
        ("emails[type eq \"work\" and value co \"home\"]", false),
        ("emails.type eq \"work\" and emails.value co \"home\"", true),
        ("emails[type eq \"work\"].value eq \"ada@acme.example\"", true),
        ("emails[type eq \"home\"].value eq \"ada@acme.example\"", false),
        ("emails[primary eq true]", true),
        ("emails[not (type eq \"work\")]", true),
        ("meta.created gt \"2026-03-04T06:06:06+01:00\"", true),
        ("meta.created ge \"2026-03-04T05:06:07Z\"", true),
        ("meta.created lt \"2026-03-04T05:06:07Z\"", false),
        ("urn:ietf:params:scim:schemas:extension:enterprise:2.0:User:department eq \"engines\"", true),
        ("urn:ietf:params:scim:schemas:extension:enterprise:2.0:user:manager eq \"9\"", true),
        ("urn:ietf:params:scim:schemas:extension:enterprise:2.0:User:manager.value eq \"9\"", true),
        ("department eq \"engines\"", false),
        // `and` binds closer than `or`.
        ("title pr and title pr or active eq true", true),
        ("title pr and (title pr or active eq true)", false),
        ("userName gt \"ac\" and userName lt \"ae\"", true),
    ] {
        let filter = parse(text).unwrap_or_else(|problem| panic!("{text}: {problem:?}"));
        assert_eq!(matches(&filter, Type::User, ada), expected, "{text}");
    }
}

#[test]
fn what_is_no_filter() {
    let deep = format!("{}title pr{}", "(".repeat(33), ")".repeat(33));
    let long = format!("title eq \"{}\"", "x".repeat(9_000));
    for text in [
        "",
        " ",
        "title",
        "title eq",
        "title is \"x\"",
        "title eq x",
        "title eq \"x",
        "title eq \"x\\\"",
        "title eq \"x\" and",
        "title eq \"x\" title pr",
        "(title pr",
        "title pr)",
        "not title pr",
        "1st pr",
        "emails[type eq \"work\"",
        "emails[emails[type pr]]",
        "emails.value[type pr]",
        "emails[type eq \"work\"].",
        "emails[type eq \"work\"].a.b eq \"x\"",
        "title gt true",
        "title co 5",
        "title eq [1]",
        "title eq {\"a\":1}",
        "http://x:title pr",
        &deep,
        &long,
    ] {
        let problem = parse(text).expect_err(text);
        assert_eq!((problem.status, problem.to_json()["scimType"].as_str()), (400, Some("invalidFilter")), "{text}");
    }
    assert!(parse(&deep[1..deep.len() - 1]).is_ok(), "as deep as may be");
}

fn path() -> impl Strategy<Value = Path> {
    let name = "[a-zA-Z][a-zA-Z0-9_-]{0,6}";
    let schema = prop::option::of(Just("urn:ietf:params:scim:schemas:core:2.0:User".to_owned()));
    (schema, name, prop::option::of("[$]?[a-z][a-zA-Z0-9]{0,4}")).prop_map(|(schema, name, sub)| Path {
        schema,
        name,
        sub,
    })
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<String>().prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        Just(Value::Null)
    ]
}

fn comparison() -> impl Strategy<Value = Filter> {
    let text = any::<String>().prop_map(Value::from);
    prop_oneof![
        path().prop_map(Filter::Present),
        (path(), prop::sample::select(vec![Op::Eq, Op::Ne]), value()).prop_map(|(path, op, value)| Filter::Compare {
            path,
            op,
            value
        }),
        (path(), prop::sample::select(vec![Op::Co, Op::Sw, Op::Ew, Op::Gt, Op::Ge, Op::Lt, Op::Le]), text)
            .prop_map(|(path, op, value)| Filter::Compare { path, op, value }),
    ]
}

fn joined(inner: impl Strategy<Value = Filter> + Clone + 'static) -> impl Strategy<Value = Filter> {
    prop_oneof![
        prop::collection::vec(inner.clone(), 2..4).prop_map(Filter::And),
        prop::collection::vec(inner.clone(), 2..4).prop_map(Filter::Or),
        inner.prop_map(|one| Filter::Not(Box::new(one))),
    ]
}

fn filters() -> impl Strategy<Value = Filter> {
    let within = comparison().prop_recursive(2, 8, 3, |inner| joined(inner).boxed());
    let within = (path(), within)
        .prop_map(|(path, filter)| Filter::Within { path: Path { sub: None, ..path }, filter: Box::new(filter) });
    prop_oneof![comparison(), within].prop_recursive(4, 16, 3, |inner| joined(inner).boxed())
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(filter in filters()) {
        let text = filter.to_string();
        prop_assume!(text.len() < 8_000);
        prop_assert_eq!(parse(&text).expect("a filter"), filter);
    }

    #[test]
    fn whatever_is_sent_is_answered(text in "(?:[a-z.:$]{0,5}|[ ()\\[\\]\"\\\\]| eq | pr| and | or |not|true|null|-?[0-9]|é){0,24}") {
        if let Ok(filter) = parse(&text) {
            let ada = ada();
            let held = matches(&filter, Type::User, ada.as_object().expect("an object"));
            let not = matches(&Filter::Not(Box::new(filter)), Type::User, ada.as_object().expect("an object"));
            prop_assert_ne!(held, not);
        }
    }
}
