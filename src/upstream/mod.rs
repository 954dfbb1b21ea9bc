//! The upstream: how it is reached, by which connections, and whether it is there.
//!
//! `connection` dials and greets; `lane` pipelines many clients over one connection (`completion` is what it tells each), `pieces`
//! passes their large replies on, and `lanes` keeps a worker's set of them; `pool` hands out exclusive connections through bb8; `health` and `control` ask the server about
//! itself. `identity` is who a client is to the upstream. Nothing here knows of the cache or of clients' sessions.

pub mod backoff;
pub mod completion;
pub mod connection;
pub mod control;
pub mod health;
pub mod identity;
pub mod lane;
pub mod lanes;
pub mod passing;
pub mod pieces;
pub mod pool;
