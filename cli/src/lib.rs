//! The command line of Daybook: configuration, wiring, and everything that a person types.
//!
//! ```text
//! args ─► config ─► commands ─► the other rooms (lake, ingest, aggregate, directory, query)
//!                      └─► serve: the only place that wires them together
//! ```
//!
//! [`generate`] is open to end-to-end tests and measurements, which need the same made-up world as the demo.

mod args;
mod commands;
mod config;
mod demo;
mod fault;
pub mod generate;
mod http;
mod output;
mod parts;
mod registry;
mod sender;
mod serve;
mod teams;
mod telemetry;

use std::process::ExitCode;

use clap::Parser as _;

use crate::{
    args::{Cli, Command},
    config::Sources,
    fault::{Exit, Fault, Result},
};

/// Runs the command line of this process. Ends the process itself where clap does (`--help`, a wrong option).
#[must_use]
pub fn main() -> ExitCode {
    let outcome = run(Cli::parse());
    let exit = match outcome {
        Ok(()) => Exit::Success,
        Err(fault) => {
            let exit = fault.exit;
            output::note(&format!("{:?}", miette::Report::new(fault)));
            exit
        }
    };
    ExitCode::from(exit as u8)
}

fn run(cli: Cli) -> Result<()> {
    // What needs no configuration must work with a broken one.
    match &cli.command {
        Command::Completions(args) => return commands::completions::run(args),
        Command::Generate(args) => return commands::generate::run(args, parts::now()),
        _ => {}
    }
    let sources = Sources::read(&cli.config)?;
    if let Command::Config(args) = &cli.command {
        return commands::config::run(args, &sources);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        // The parser of SQL walks its trees by recursion.
        .thread_stack_size(STACK_BYTES)
        .build()
        .map_err(|error| Fault::failed("cannot start the threads").source(error))?;
    let outcome = runtime.block_on(command(cli.command, sources));
    // A thread that waits for input (`emit -`) must not keep the process.
    runtime.shutdown_background();
    outcome
}

/// Stack of a thread.
const STACK_BYTES: usize = 16 << 20;

async fn command(command: Command, sources: Sources) -> Result<()> {
    if !matches!(command, Command::Serve(_)) {
        // A person sits before these: only what is amiss, unless they ask for more.
        let settings = sources.config()?.telemetry;
        let level = if sources.is_set("telemetry.level") { settings.level.clone() } else { "warn".to_owned() };
        telemetry::start(&settings, &level);
    }
    match command {
        Command::Demo(args) => demo::run(&args, sources).await,
        Command::Serve(args) => serve::run(&args, sources).await,
        Command::Emit(args) => commands::emit::run(&args).await,
        Command::Rollup(args) => commands::rollup::run(&args, &sources, parts::now()).await,
        Command::Maintain(args) => commands::maintain::run(&args, &sources).await,
        Command::DeadLetters(args) => commands::dead_letters::run(&args, &sources).await,
        Command::Status(args) => commands::status::run(&args, &sources).await,
        Command::Query(args) => commands::query::run(&args, &sources).await,
        Command::Org(args) => commands::org::run(&args, &sources, parts::now()).await,
        Command::OptIn(args) => commands::opt_in::run(&args, &sources, parts::now()).await,
        Command::Audit(args) => commands::audit::run(&args, &sources).await,
        Command::Team(args) => commands::team::run(&args, &sources).await,
        Command::Key(args) => commands::key::run(&args, &sources, parts::now()).await,
        Command::Token(args) => commands::token::run(&args, &sources, parts::now()).await,
        Command::Generate(_) | Command::Config(_) | Command::Completions(_) => unreachable!("run before"),
    }
}
