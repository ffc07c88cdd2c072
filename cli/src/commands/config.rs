//! `daybook config`.

use crate::{
    args::{ConfigCommand, ConfigCommandArgs},
    config::Sources,
    fault::Result,
    output,
};

pub(crate) fn run(args: &ConfigCommandArgs, sources: &Sources) -> Result<()> {
    match args.command {
        ConfigCommand::Show => output::text(&sources.show()),
        ConfigCommand::Validate => {
            sources.config()?;
            output::text("the configuration is valid\n")
        }
    }
}
