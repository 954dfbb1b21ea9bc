//! Tests of the coherence layer as a whole, without a network: real locks in every order that Shuttle can think of.

#[cfg(feature = "shuttle")]
mod interleavings;
