//! The Redis wire protocol, pure: bytes in, spans and lengths out.
//!
//! Two scanners delimit what arrives: [`RequestScanner`] the requests of clients, [`ReplyScanner`] the replies and
//! pushes of servers. They allocate nothing in steady state and never build a tree, because nearhit passes bytes
//! on rather than values, and because a tree is what a hostile peer would use to exhaust stack and memory.
//! [`reply`] looks into a raw reply, [`Value`] is a reply made here. Nothing in this room reads a socket or a clock.

mod args;
mod error;
mod header;
mod inline;
mod output;
pub mod reply;
mod request;
mod scan;
mod value;

pub use args::{Args, encode_request};
pub use error::RequestError;
pub use output::{OutputBuffer, Raw, SHARED_BYTES_MIN};
pub use reply::Elements;
pub use request::{Limits, RequestScanner, Scanned};
pub use scan::{Frame, FrameKind, ReplyScanner, ScanError};
pub use value::Value;

/// The version of the protocol that a client or a lane speaks; every connection begins with RESP2.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// What a connection speaks until HELLO 3.
    #[default]
    Resp2,
    /// What `HELLO 3` switches to: maps, sets, doubles, a null of its own, pushes.
    Resp3,
}
