//! Isolation under statements that nobody thought of: out of a seed, as each organisation and each role that sees a part.
//!
//! `cargo xtask isolation --statements N --seed S` runs as many as one likes.

use std::collections::BTreeSet;

use datafusion::prelude::SessionContext;
use futures::future::join_all;

use super::{
    generator::Generator,
    isolation::{FILE, foreign, shown},
    roles::{filled, key, named, own_people, roles},
    world::{ORGS, World, org},
};
use crate::{Access, policy};

/// Statements at once.
const ABREAST: usize = 4;

fn setting(name: &str, default: u64) -> u64 {
    let value = std::env::var(name).ok();
    value.map_or(default, |value| value.parse().unwrap_or_else(|_| panic!("{name} is no number: {value}")))
}

/// What the owner of a session is shown, in threads whose stack is large enough for any of these.
async fn asked(world: &World, context: &SessionContext, statement: &str) -> String {
    let (context, statement) = (context.clone(), statement.to_owned());
    world.query.pool().handle().spawn(async move { shown(&context, &statement).await }).await.expect("no panic")
}

async fn session(world: &World, access: &Access) -> SessionContext {
    world.query.catalog().session(access).await.expect("a session")
}

/// Whether rows were shown, or else an error.
fn is_answer(text: &str) -> bool {
    text.starts_with('+')
}

#[tokio::test]
async fn no_generated_statement_shows_what_is_not_ones_own() {
    let (statements, seed) = (setting("DAYBOOK_ISOLATION_STATEMENTS", 1000), setting("DAYBOOK_ISOLATION_SEED", 1));
    let served = filled().await;
    let world = &served.world;
    let (roles, mut parts) = (roles(), Vec::new());
    for role in &roles[3..] {
        let key = key(world, role).await;
        let admitted = policy::admit(&world.query, &key).await.expect("readable");
        parts.push((role, session(world, &admitted.expect("a key").1).await));
    }
    let whole = join_all(ORGS.map(async |(own, _)| (own, session(world, &Access::Org(org(own))).await))).await;
    let mut generator = Generator::new(seed);
    let (mut number, mut answers, mut with_rows) = (0_u64, 0_u64, 0_u64);
    while number < statements {
        let batch: Vec<_> = (0..ABREAST).map(|_| generator.statement()).collect();
        let outcomes = join_all(batch.iter().zip(number..).map(async |(statement, number)| {
            let context = format!("seed {seed}, number {number}, `{statement}`");
            let mut texts = Vec::new();
            for (own, of_own) in &whole {
                let text = asked(world, of_own, statement).await;
                let found = foreign(&text, statement, own);
                assert!(found.is_empty(), "{context} as {own} shows {found:?}:\n{text}");
                assert!(!text.contains(FILE), "{context} as {own} shows a file:\n{text}");
                texts.push(text);
            }
            let (role, of_role) = &parts[number as usize % parts.len()];
            let text = asked(world, of_role, statement).await;
            let (found, people) = (foreign(&text, statement, "acme"), named(&text));
            let allowed: BTreeSet<_> = own_people(role).union(&named(statement)).copied().collect();
            assert!(found.is_empty(), "{context} as {role} shows {found:?}:\n{text}");
            assert!(people.is_subset(&allowed), "{context} as {role} shows {people:?}:\n{text}");
            texts.swap_remove(0)
        }))
        .await;
        answers += outcomes.iter().filter(|text| is_answer(text)).count() as u64;
        with_rows += outcomes.iter().filter(|text| is_answer(text) && text.lines().count() > 4).count() as u64;
        number += ABREAST as u64;
    }
    eprintln!("seed {seed}: of {number} statements {answers} were answered, {with_rows} with rows");
    assert!(answers * 10 >= number * 7, "only {answers} of {number} statements are sound");
    assert!(with_rows * 2 >= number, "only {with_rows} of {number} statements show rows");
}

/// The generator can fail: without the fence more than a third of its statements show foreign rows to someone. Of the others some have no rows,
/// some explain, some name whom they would show, and some show nothing that tells whose it is.
#[tokio::test]
async fn without_the_fence_generated_statements_turn_red() {
    let served = filled().await;
    let unfenced = session(&served.world, &Access::Operator).await;
    let mut generator = Generator::new(1);
    let mut red = 0;
    for _ in 0..100 {
        let statement = generator.statement();
        let text = asked(&served.world, &unfenced, &statement).await;
        red += usize::from(ORGS.iter().any(|(own, _)| !foreign(&text, &statement, own).is_empty()));
    }
    assert!(red > 33, "{red} of 100");
}
