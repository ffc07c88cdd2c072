use std::sync::{Arc, Mutex};

use axum::{Router, body::Bytes, extract::State, http::HeaderMap, response::IntoResponse, routing::post};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::*;
use crate::fault::Exit;

/// Answers in turn; the last one again and again. Notes how many events each request had (`None`: no JSON array).
#[derive(Clone)]
struct Script {
    answers: Arc<Mutex<Vec<(u16, Value)>>>,
    seen: Arc<Mutex<Vec<Option<usize>>>>,
}

async fn answer(State(script): State<Script>, headers: HeaderMap, body: Bytes) -> impl IntoResponse {
    assert_eq!(headers[header::AUTHORIZATION], "Bearer dbk_test");
    assert_eq!(headers[header::CONTENT_TYPE], "application/cloudevents-batch+json");
    let events = serde_json::from_slice::<Vec<Value>>(&body).ok().map(|events| events.len());
    script.seen.lock().expect("no holder panics").push(events);
    let mut answers = script.answers.lock().expect("no holder panics");
    let (status, body) = if answers.len() > 1 { answers.remove(0) } else { answers[0].clone() };
    (StatusCode::from_u16(status).expect("the tests use valid codes"), body.to_string())
}

/// Sends `lines` to a server with these answers: the outcome, and what the server saw.
async fn check(answers: &[(u16, Value)], lines: &[&str]) -> (Result<Outcome>, Vec<Option<usize>>) {
    let script = Script { answers: Arc::new(Mutex::new(answers.to_vec())), seen: Arc::default() };
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let url = format!("http://{}/prefix", listener.local_addr().expect("it is bound")).parse().expect("it is a URL");
    let routes = Router::new().route("/prefix/v1/events", post(answer)).with_state(script.clone());
    tokio::spawn(async move { axum::serve(listener, routes).await });
    let sender = Sender::new(&url, "dbk_test".to_owned(), Duration::from_secs(5)).expect("the URL is HTTP");
    let lines =
        lines.iter().enumerate().map(|(index, json)| Line { number: index as u64 + 10, json: json.as_bytes().into() });
    let outcome = sender.send(lines.collect()).await;
    let seen = script.seen.lock().expect("no holder panics").clone();
    (outcome, seen)
}

#[tokio::test]
async fn a_refused_event_is_told_by_its_line() {
    let answer = json!({"accepted": 2, "rejected": [{"index": 1, "type": "https://x/content", "detail": "no"}]});
    let (outcome, _) = check(&[(202, answer)], &["{}", "{}", "{}"]).await;
    let outcome = outcome.expect("it was answered");
    assert_eq!(outcome.accepted, 2);
    assert_eq!(outcome.refused, [Refusal { line: 11, cause: "content".into(), detail: "no".into() }]);
}

#[tokio::test]
async fn a_collector_that_is_away_is_asked_again() {
    let away = (503, json!({"detail": "the log is away"}));
    let (outcome, seen) = check(&[away.clone(), away, (202, json!({"accepted": 1, "rejected": []}))], &["{}"]).await;
    assert_eq!(outcome.expect("it came back").accepted, 1);
    assert_eq!(seen, [Some(1); 3]);
}

#[tokio::test]
async fn a_spoilt_batch_is_split_until_the_one_at_fault_is_alone() {
    let too_large = (413, json!({"detail": "too large"}));
    let good = |number| (202, json!({"accepted": number, "rejected": []}));
    // [a b c d] no, [a b] yes, [c d] no, [c] yes, [d] no
    let answers = [too_large.clone(), good(2), too_large.clone(), good(1), too_large];
    let (outcome, seen) = check(&answers, &["{}", "{}", "{}", "{}"]).await;
    let outcome = outcome.expect("it was answered");
    assert_eq!((outcome.accepted, outcome.refused.len(), outcome.refused[0].line), (3, 1, 13));
    assert_eq!(seen, [Some(4), Some(2), Some(2), Some(1), Some(1)]);
}

#[tokio::test]
async fn a_wrong_key_ends_it_at_once() {
    let (outcome, seen) = check(&[(401, json!({"detail": "unknown key"}))], &["{}"]).await;
    let fault = outcome.expect_err("the key is wrong");
    assert_eq!(fault.exit, Exit::Failed);
    assert!(fault.to_string().contains("unknown key"), "{fault}");
    assert_eq!(seen.len(), 1);
}

#[tokio::test]
async fn an_answer_that_does_not_account_for_all_is_no_success() {
    let (outcome, _) = check(&[(200, json!({"hello": "world"}))], &["{}", "{}"]).await;
    assert!(outcome.expect_err("two events are unaccounted for").to_string().contains("0 of 2"));
}
