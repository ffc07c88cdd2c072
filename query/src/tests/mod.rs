//! The service over a lake in memory that holds three organisations, each row a canary of its own.

mod asked;
mod flight;
mod generated;
mod generator;
mod hot;
mod isolation;
mod limits;
mod pg;
mod resources;
mod rest;
mod roles;
mod slow;
mod statements;
mod views;
mod walk;
mod world;
