//! Tests of the coherence layer as a whole, without a network: against a model of the server in every order of events
//! that chance comes up with, and with real locks in every order that Shuttle does.

#[cfg(feature = "shuttle")]
mod interleavings;
#[cfg(not(feature = "shuttle"))]
mod model;
#[cfg(not(feature = "shuttle"))]
#[path = "../../../tests/model/server.rs"]
mod server;
#[cfg(not(feature = "shuttle"))]
mod world;
