//! Random histories of many clients through a real proxy on a real Redis, while something or other is done to the
//! connections between them, and the question whether what was seen can be explained.
//!
//! `run.rs` makes one, with the clients of `actors.rs` or `contests.rs` and a trouble of `trouble.rs`, and has it judged by
//! `checker.rs` or `versions.rs`. `scenes/` has others, with keys of every type.

// Each test file compiles this module for itself and uses a part of it.
#![allow(dead_code)]

mod actors;
mod caller;
mod checker;
mod checker_tests;
mod contests;
mod generator;
mod outside;
mod recorder;
pub(crate) mod run;
pub(crate) mod scenes;
mod strikes;
pub(crate) mod trouble;
mod versions;
