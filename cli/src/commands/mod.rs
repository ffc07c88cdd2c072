//! One file for each subcommand.

pub(crate) mod audit;
pub(crate) mod completions;
pub(crate) mod config;
pub(crate) mod dead_letters;
pub(crate) mod emit;
pub(crate) mod generate;
pub(crate) mod key;
pub(crate) mod maintain;
pub(crate) mod opt_in;
pub(crate) mod org;
pub(crate) mod query;
pub(crate) mod rollup;
pub(crate) mod status;
pub(crate) mod team;
pub(crate) mod token;
