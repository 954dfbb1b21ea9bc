//! nearhit: a transparent, coherent caching proxy for Redis and Valkey.
//!
//! The layers, lowest first; a module imports from lower layers, or from its left neighbours in its own
//! (`tests/tidy.rs` holds this): `clock`, `ids`, `net`, `config`, `metrics`, `mutation`, `sync`, `resp`, `command` ·
//! `cache`, `upstream` · `coherence` · `session` · `server`. See `docs/ARCHITECTURE.md`.

pub mod cache;
pub mod clock;
pub mod coherence;
pub mod command;
pub mod config;
pub mod ids;
pub mod metrics;
pub mod mutation;
pub mod net;
pub mod resp;
pub mod server;
pub mod session;
mod sync;
pub mod upstream;
