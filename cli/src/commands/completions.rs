//! `daybook completions`.

use std::io::Write as _;

use clap::CommandFactory as _;

use crate::{
    args::{Cli, CompletionsArgs},
    fault::{During as _, Result},
};

pub(crate) fn run(args: &CompletionsArgs) -> Result<()> {
    // By way of a buffer: clap_complete panics where the pipe is closed.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "daybook", &mut script);
    std::io::stdout().lock().write_all(&script).during("cannot write the script")
}
