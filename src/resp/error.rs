//! What is wrong with a client's bytes, in Redis's words.

/// Why a client is cut off; the client's fault, every one. Displayed it is what follows `-ERR ` in the reply, except
/// that [`RequestError::encode`] alone is faithful to an unexpected byte that is not ASCII.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// 64 KiB without the end of the array's header.
    #[error("Protocol error: too big mbulk count string")]
    CountLineTooLong,
    /// The array's header is not a number, or a number over the limit.
    #[error("Protocol error: invalid multibulk length")]
    CountInvalid,
    /// More than 10 arguments before AUTH.
    #[error("Protocol error: unauthenticated multibulk length")]
    CountUnauthenticated,
    /// 64 KiB without the end of a bulk string's header.
    #[error("Protocol error: too big bulk count string")]
    BulkLineTooLong,
    /// An element of the array is not a bulk string.
    #[error("Protocol error: expected '$', got '{}'", printable(*.0))]
    BulkExpected(u8),
    /// A bulk string's header is not a number, or a number out of range.
    #[error("Protocol error: invalid bulk length")]
    BulkInvalid,
    /// An argument of more than 16 KiB before AUTH.
    #[error("Protocol error: unauthenticated bulk length")]
    BulkUnauthenticated,
    /// An inline command whose quotes do not close, or close in mid-word.
    #[error("Protocol error: unbalanced quotes in request")]
    QuotesUnbalanced,
    /// 64 KiB without the end of an inline command.
    #[error("Protocol error: too big inline request")]
    InlineTooLong,
    /// The request as a whole is over [`Limits::request_bytes_max`](super::Limits::request_bytes_max). Redis hangs up on its counterpart
    /// (`client-query-buffer-limit`) without a word; this says why.
    #[error("Protocol error: request is larger than {bytes_max} bytes")]
    RequestTooLarge {
        /// The limit.
        bytes_max: usize,
    },
}

impl RequestError {
    /// Appends the error reply, byte for byte as Redis writes it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"-ERR ");
        if let Self::BulkExpected(byte) = *self
            && !byte.is_ascii()
        {
            out.extend_from_slice(b"Protocol error: expected '$', got '");
            out.extend_from_slice(&[byte, b'\'']);
        } else {
            out.extend_from_slice(self.to_string().as_bytes());
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// Redis blanks line ends inside an error.
fn printable(byte: u8) -> char {
    if matches!(byte, b'\r' | b'\n') { ' ' } else { char::from(byte) }
}
