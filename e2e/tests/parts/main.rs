//! Daybook's processes on a real broker and a real object store, with other engines as oracles.
#![allow(clippy::disallowed_methods, reason = "tests are an edge: they may read the clock")]

mod api_contract;
mod bad_input;
mod claude_code;
mod dashboards;
mod demo;
mod direct_producers;
mod kafka_group;
mod kafka_security;
mod log_contract;
mod opt_in;
mod pipeline;
mod query_service;
mod scim;
mod shutdown;
mod sql_clients;
mod tokens;
