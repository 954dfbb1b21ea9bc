//! Tests of the coherence layer as a whole, without a network: against a model of the server in every order of events
//! that chance comes up with, and with real locks in every order that Shuttle does. What befell the model is then done
//! to a real server.

/// Of the integration tests' fixtures, those that know nothing of the proxy.
#[cfg(not(feature = "shuttle"))]
#[path = "../../../tests/common"]
#[allow(dead_code, reason = "what is used of them is what a replay needs")]
mod common {
    mod client;
    mod patience;
    mod process;
    mod redis;
    pub(crate) mod resp;

    pub(crate) use self::{
        client::Client,
        patience::eventually,
        process::{Process, free_port},
        redis::Redis,
    };
}
#[cfg(feature = "shuttle")]
mod interleavings;
#[cfg(not(feature = "shuttle"))]
mod model;
#[cfg(not(feature = "shuttle"))]
#[path = "../../../tests/model/replay.rs"]
#[allow(dead_code, reason = "its other user takes single steps")]
mod replay;
#[cfg(not(feature = "shuttle"))]
#[path = "../../../tests/model/server.rs"]
mod server;
#[cfg(not(feature = "shuttle"))]
mod world;
