//! Nothing is taken before the organisation's admin opted in.

use directory::OptIn;

use super::{World, now};

const EVENT: &str =
    r#"{"specversion":"1.0","id":"e1","source":"s","type":"t","time":"2026-11-23T10:00:00Z","subject":"u"}"#;
const EVENTS: &str = "application/cloudevents+json";

#[tokio::test]
async fn every_door_refuses_and_nothing_reaches_the_log() {
    let world = World::new().await;
    let acme = "acme".parse().expect("an id");
    let switch = async |level| {
        world.directory.set_opt_in(&acme, level, "a test", now()).await.expect("there");
    };
    let doors = [
        ("/v1/events", EVENTS, EVENT),
        ("/v1/logs", "application/json", r#"{"resourceLogs":[]}"#),
        ("/v1/metrics", "application/json", r#"{"resourceMetrics":[]}"#),
        ("/v1/traces", "application/json", r#"{"resourceSpans":[]}"#),
    ];
    for level in [OptIn::TeamOnly, OptIn::Off, OptIn::Pseudonymous, OptIn::Off, OptIn::Named] {
        switch(level).await;
        for (path, kind, body) in doors {
            let answer = world.send(world.post(path, kind).body(body.into()).expect("a request")).await;
            let is_off = level == OptIn::Off;
            assert_eq!(answer.status == 403, is_off, "{path} at {level}: {answer:?}");
            assert!(!is_off || answer.json().to_string().contains("opted in"), "{path}: {answer:?}");
            assert_eq!(world.take().is_empty(), is_off || path != "/v1/events", "{path} at {level}");
        }
    }
    // The reason is told before the body is read: what was refused is not even looked at.
    switch(OptIn::Off).await;
    let answer = world.events(EVENTS, "no event").await;
    assert_eq!(
        (answer.status.as_u16(), answer.json()["type"].as_str()),
        (403, Some("https://daybook.dev/problems/not_opted_in"))
    );
    assert!(world.take().is_empty());
}
