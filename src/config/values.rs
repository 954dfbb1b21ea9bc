//! The values of the configuration that need a type of their own: secret, listen address, upstream URL.
//!
//! They are parsed once, here, and trusted from then on. A [`Secret`] refuses to be printed: whatever formats
//! it, on purpose or by `{:?}` of something that holds it, gets three asterisks. No error made here repeats
//! its input, since the input may be a URL with a password in it.

use std::{
    fmt::{self, Display},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    str::FromStr,
};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use url::{Host, Url};

use crate::ids::Database;

/// Why a text is not a value; says what would be right and never repeats the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidValue(&'static str);

/// A password. Printing it in any way prints `***`; [`Secret::expose`] is the one way out.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes the password over.
    pub fn new(password: impl Into<String>) -> Self {
        Self(password.into())
    }

    /// The password itself, to be sent to the upstream and nowhere else.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Where clients are accepted. Written `127.0.0.1:6380`, `[::1]:6380` or `unix:/run/nearhit.sock`.
///
/// Names are not taken: a name may resolve to several addresses, and to others tomorrow, while what a
/// listener is open to should be readable from the file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ListenAddress {
    /// An address and a port; port 0 lets the system choose one.
    Tcp(SocketAddr),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl ListenAddress {
    /// Whether only this machine can reach it: loopback, or a Unix socket.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().to_canonical().is_loopback(),
            Self::Unix(_) => true,
        }
    }

    /// Whether connecting to `url` would reach this listener itself, as far as it shows without a resolver.
    pub(super) fn is_reached_by(&self, url: &UpstreamUrl) -> bool {
        let Self::Tcp(listen) = self else { return false };
        let target = match url.host.as_str() {
            "localhost" => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            host => host.parse().ok(),
        };
        target.is_some_and(|target: IpAddr| {
            let everywhere = listen.ip().is_unspecified() && target.is_loopback();
            listen.port() == url.port && (listen.ip() == target || everywhere)
        })
    }
}

impl FromStr for ListenAddress {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_prefix("unix:") {
            Some("") => Err(InvalidValue("a path after `unix:`, such as \"unix:/run/nearhit.sock\"")),
            Some(path) => Ok(Self::Unix(path.into())),
            None => text.parse().map(Self::Tcp).map_err(|_| {
                InvalidValue("an IP address and a port, such as \"127.0.0.1:6380\" or \"[::1]:6380\"")
            }),
        }
    }
}

impl Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Where the upstream is and who we are to it: `redis://[user][:password@]host[:port][/database]`.
///
/// `rediss://` is the same over TLS. User and password are percent-encoded in the text, not in the fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamUrl {
    /// A name or an IP address, IPv6 without its brackets. Resolved anew at every dial, never here.
    pub host: String,
    /// Never 0.
    pub port: u16,
    /// Whether the connection is wrapped in TLS.
    pub tls: bool,
    /// The ACL user; `None` is the server's default user.
    pub user: Option<String>,
    /// From the URL, or from `upstream.password_file` once a configuration is loaded.
    pub password: Option<Secret>,
    /// The database that a client begins in.
    pub database: Database,
}

/// The port of a URL that names none.
const REDIS_PORT: u16 = 6379;

/// What may stand as it is in the user part of a URL: the unreserved characters of RFC 3986.
const USER_INFO: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

impl Default for UpstreamUrl {
    fn default() -> Self {
        Self {
            host: "127.0.0.1".to_owned(),
            port: REDIS_PORT,
            tls: false,
            user: None,
            password: None,
            database: Database(0),
        }
    }
}

impl FromStr for UpstreamUrl {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // The parser would drop blanks and line breaks silently, from passwords too.
        if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(InvalidValue("a URL without blanks; one within a password is written %20"));
        }
        let url = Url::parse(text).map_err(|_| {
            InvalidValue(
                "redis://[user][:password@]host[:port][/database], with every : / ? # [ ] @ % of a user or \
                 password percent-encoded",
            )
        })?;
        let tls = match url.scheme() {
            "redis" => false,
            "rediss" => true,
            _ => return Err(InvalidValue("a URL that begins with redis:// or rediss://")),
        };
        let host = match url.host() {
            Some(Host::Ipv6(address)) => address.to_string(),
            Some(Host::Ipv4(address)) => address.to_string(),
            Some(Host::Domain(name)) if !name.is_empty() => name.to_owned(),
            _ => return Err(InvalidValue("a URL with a host, such as redis://127.0.0.1:6379")),
        };
        if url.query().is_some() || url.fragment().is_some() {
            return Err(InvalidValue(
                "a URL that ends with the database; a ? or # within a password is written %3F or %23",
            ));
        }
        let port = match url.port() {
            Some(0) => return Err(InvalidValue("a port from 1 to 65535")),
            port => port.unwrap_or(REDIS_PORT),
        };
        let user = Some(decode(url.username())?).filter(|user| !user.is_empty());
        let password = url.password().map(decode).transpose()?.map(Secret);
        Ok(Self { host, port, tls, user, password, database: database(url.path())? })
    }
}

/// The database that the path of a URL names: none is 0.
fn database(path: &str) -> Result<Database, InvalidValue> {
    match path.strip_prefix('/').unwrap_or(path) {
        "" => Ok(Database(0)),
        digits if digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse().map(Database).map_err(|_| ()),
        _ => Err(()),
    }
    .map_err(|()| InvalidValue("a database number at the end of the URL, as in redis://127.0.0.1:6379/0"))
}

fn decode(text: &str) -> Result<String, InvalidValue> {
    let decoded = percent_decode_str(text).decode_utf8();
    decoded.map(Into::into).map_err(|_| InvalidValue("a user and a password that are UTF-8 once decoded"))
}

/// Prints the URL with its password as `***`; all else is read back as it was.
impl Display for UpstreamUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.tls { "rediss://" } else { "redis://" })?;
        if let Some(user) = &self.user {
            utf8_percent_encode(user, USER_INFO).fmt(f)?;
        }
        if let Some(password) = &self.password {
            write!(f, ":{password}")?;
        }
        if self.user.is_some() || self.password.is_some() {
            f.write_str("@")?;
        }
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)?;
        } else {
            write!(f, "{}:{}", self.host, self.port)?;
        }
        match self.database {
            Database(0) => Ok(()),
            Database(number) => write!(f, "/{number}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> UpstreamUrl {
        text.parse().unwrap_or_else(|why| panic!("{text}: {why}"))
    }

    #[test]
    fn urls_are_taken_apart() {
        let bare = UpstreamUrl { host: "cache.example".into(), ..UpstreamUrl::default() };
        assert_eq!(url("redis://cache.example"), bare);
        assert_eq!(url("redis://cache.example/"), bare);
        assert_eq!(url("redis://cache.example:6379/0"), bare);

        let full = url("rediss://app:s3cret@10.0.0.7:7000/12");
        assert_eq!((full.host.as_str(), full.port, full.tls), ("10.0.0.7", 7000, true));
        assert_eq!(full.user.as_deref(), Some("app"));
        assert_eq!(full.password, Some(Secret::new("s3cret")));
        assert_eq!(full.database, Database(12));

        let v6 = url("redis://[fd00::1]:6380");
        assert_eq!((v6.host.as_str(), v6.port), ("fd00::1", 6380));
    }

    #[test]
    fn user_and_password_are_percent_decoded() {
        let url = url("redis://a%40b:p%2Fw%3A%25%C3%A9@h");
        assert_eq!(url.user.as_deref(), Some("a@b"));
        assert_eq!(url.password.map(|p| p.expose().to_owned()).as_deref(), Some("p/w:%é"));
        assert_eq!(self::url("redis://:only@h").user, None);
        assert_eq!(self::url("redis://user@h").password, None);
    }

    #[test]
    fn printed_urls_hide_the_password_and_read_back() {
        for text in ["redis://127.0.0.1:6379", "rediss://a%40b@[fd00::1]:1/3", "redis://h:1/4294967295"] {
            assert_eq!(url(text).to_string(), text);
        }
        let with_password = url("redis://app:hush@h:1/2");
        assert_eq!(with_password.to_string(), "redis://app:***@h:1/2");
        assert!(!format!("{with_password:?}").contains("hush"));
        assert_eq!(url("redis://:hush@h:1").to_string(), "redis://:***@h:1");
    }

    #[test]
    fn what_is_no_url_is_refused_without_being_repeated() {
        for text in [
            "",
            "127.0.0.1:6379",
            "redis:",
            "redis://",
            "redis://:6379",
            "redis:///0",
            "redis://:hush@",
            "http://hush:hush@h",
            "redis://:hush@h:0",
            "redis://:hush@h:65536",
            "redis://:hu#sh@h",
            "redis://:hu/sh@h",
            "redis://h#hush",
            "redis://h?password=hush",
            "redis://:hush@h/zero",
            "redis://:hush@h/0/1",
            "redis://:hush@h/-1",
            "redis://:hush@h/+1",
            "redis://:hush@h/4294967296",
            "redis://:hush%ff@h",
            " redis://:hush@h",
            "redis://:hush@h\n",
            "redis://:hu\tsh@h",
        ] {
            let why = text.parse::<UpstreamUrl>().expect_err(text).to_string();
            assert!(!why.contains("hush"), "{text}: {why}");
        }
    }

    #[test]
    fn listen_addresses() {
        for (text, local) in [
            ("127.0.0.1:6380", true),
            ("127.9.9.9:0", true),
            ("[::1]:6380", true),
            ("[::ffff:127.0.0.1]:6380", true),
            ("unix:/run/n.sock", true),
            ("0.0.0.0:6380", false),
            ("[::]:6380", false),
            ("10.0.0.1:1", false),
        ] {
            let address: ListenAddress = text.parse().unwrap();
            assert_eq!(address.is_local(), local, "{text}");
            assert_eq!(address.to_string(), text);
        }
        for text in
            ["", "unix:", "6380", ":6380", "localhost:6380", "127.0.0.1", "::1:6380", "127.0.0.1:65536"]
        {
            text.parse::<ListenAddress>().expect_err(text);
        }
    }

    #[test]
    fn a_listener_that_is_its_own_upstream_is_recognized() {
        for (listen, upstream, same) in [
            ("127.0.0.1:6379", "redis://127.0.0.1", true),
            ("127.0.0.1:6379", "redis://localhost", true),
            ("0.0.0.0:6379", "redis://127.0.0.1", true),
            ("[::]:6379", "redis://[::1]", true),
            ("127.0.0.1:6380", "redis://127.0.0.1", false),
            ("127.0.0.1:6379", "redis://10.0.0.1", false),
            ("0.0.0.0:6379", "redis://10.0.0.1", false),
            ("0.0.0.0:6379", "redis://redis", false),
            ("unix:/x", "redis://127.0.0.1", false),
        ] {
            let listen: ListenAddress = listen.parse().unwrap();
            assert_eq!(listen.is_reached_by(&url(upstream)), same, "{listen} {upstream}");
        }
    }
}
