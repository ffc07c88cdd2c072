//! What Okta and Entra ID send when they provision, replayed in order: the requests of their documentation
//! (developer.okta.com/docs/api/openapi/okta-scim, learn.microsoft.com/entra/identity/app-provisioning/use-scim-to-provision-users-and-groups).

use serde_json::Value;

use super::world;
use crate::tests::{Database, on_both};

on_both! {
    okta,
    entra_id,
}

/// Whether all that is expected is there. Null = is not there; a list has as many values, in order.
fn includes(found: &Value, expected: &Value) -> bool {
    match (found, expected) {
        (Value::Object(found), Value::Object(expected)) => {
            expected.iter().all(|(name, value)| includes(found.get(name).unwrap_or(&Value::Null), value))
        }
        (Value::Array(found), Value::Array(expected)) => {
            found.len() == expected.len()
                && found.iter().zip(expected).all(|(found, expected)| includes(found, expected))
        }
        (found, expected) => found == expected,
    }
}

/// Replays a dialogue. The id of what an answer made stands for its name from then on.
async fn replay(database: Database, text: &str) {
    let acme = world(&database).await.acme;
    let steps: Vec<Value> = serde_json::from_str(text).expect("a list of steps");
    assert!(steps.len() > 10);
    let mut ids: Vec<(String, String)> = Vec::new();
    for step in steps {
        let about = step["about"].as_str().expect("a text");
        let named = |text: String| ids.iter().fold(text, |text, (name, id)| text.replace(name.as_str(), id));
        let step: Value = serde_json::from_str(&named(step.to_string())).expect("JSON");
        let request = |name: &str| step["request"][name].as_str().expect("a text").to_owned();
        let body = step["request"].get("body");
        let told =
            acme.send(&request("method"), &request("path"), body, &[("content-type", "application/scim+json")]).await;
        let expected = &step["answer"];
        assert_eq!(told.status, expected["status"], "{about}: {told:?}");
        if let Some(body) = expected.get("body") {
            assert!(includes(&told.body, body), "{about}: {told:?}");
        }
        if let Some(name) = expected["id"].as_str() {
            ids.push((name.to_owned(), told.id()));
        }
    }
}

async fn okta(database: Database) {
    replay(database, include_str!("fixtures/okta.json")).await;
}

async fn entra_id(database: Database) {
    replay(database, include_str!("fixtures/entra.json")).await;
}
