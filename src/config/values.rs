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

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode, utf8_percent_encode};
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
        match (self, &url.endpoint) {
            (Self::Tcp(listen), Endpoint::Tcp { host, port } | Endpoint::Tls { host, port }) => {
                let target = match host.as_str() {
                    "localhost" => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
                    host => host.parse().ok(),
                };
                target.is_some_and(|target: IpAddr| {
                    let everywhere = listen.ip().is_unspecified() && target.is_loopback();
                    listen.port() == *port && (listen.ip() == target || everywhere)
                })
            }
            (Self::Unix(listen), Endpoint::Unix(path)) => listen == path,
            _ => false,
        }
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

/// Where the upstream is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// A port of a host.
    Tcp {
        /// A name or an IP address, IPv6 without its brackets. Resolved anew at every dial, never here.
        host: String,
        /// Never 0.
        port: u16,
    },
    /// The same, where TLS is spoken.
    Tls {
        /// See above. The server has to prove that it is this one, unless `upstream.tls.server_name` says otherwise.
        host: String,
        /// Never 0.
        port: u16,
    },
    /// A Unix socket.
    Unix(PathBuf),
}

impl Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } | Self::Tls { host, port } if host.contains(':') => {
                write!(f, "[{host}]:{port}")
            }
            Self::Tcp { host, port } | Self::Tls { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Where the upstream is and who we are to it: `redis://[user][:password@]host[:port][/database]`, the same with
/// `rediss://` over TLS, or `unix:[//[user][:password]@]/path[?db=database]`.
///
/// User, password and path are percent-encoded in the text, not in the fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamUrl {
    /// Where it is.
    pub endpoint: Endpoint,
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

/// What may stand as it is in the path of a Unix socket.
const PATH: &AsciiSet = &USER_INFO.remove(b'/');

impl Default for UpstreamUrl {
    fn default() -> Self {
        Self {
            endpoint: Endpoint::Tcp { host: "127.0.0.1".to_owned(), port: REDIS_PORT },
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
        if let Some(rest) = text.strip_prefix("unix:") {
            return unix(rest);
        }
        let url = Url::parse(text).map_err(|_| {
            InvalidValue(
                "redis://[user][:password@]host[:port][/database], with every : / ? # [ ] @ % of a user or \
                 password percent-encoded",
            )
        })?;
        let is_tls = match url.scheme() {
            "redis" => false,
            "rediss" => true,
            _ => return Err(InvalidValue("a URL that begins with redis://, rediss:// or unix:")),
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
        let endpoint = if is_tls { Endpoint::Tls { host, port } } else { Endpoint::Tcp { host, port } };
        Ok(Self { endpoint, user, password, database: database(url.path())? })
    }
}

/// What follows `unix:`. The `url` crate takes no user without a host.
fn unix(rest: &str) -> Result<UpstreamUrl, InvalidValue> {
    let wrong = InvalidValue(
        "unix:/path or unix://[user][:password]@/path, with ?db=N at the end for a database, and every : / ? # @ % \
         of a user or password, and ? # % of a path, percent-encoded",
    );
    let (credentials, rest) = match rest.strip_prefix("//") {
        Some(rest) if rest.starts_with('/') => (None, rest),
        Some(rest) => {
            let (credentials, path) = rest.split_at(rest.find('/').ok_or(wrong)?);
            (Some(credentials.strip_suffix('@').ok_or(wrong)?), path)
        }
        None => (None, rest),
    };
    let (user, password) = match credentials.unwrap_or_default().split_once(':') {
        Some((user, password)) => (user, Some(Secret(decode(password)?))),
        None => (credentials.unwrap_or_default(), None),
    };
    let (path, query) = rest.split_once('?').unwrap_or((rest, "db=0"));
    let number = query.strip_prefix("db=").filter(|number| !number.is_empty()).ok_or(wrong)?;
    if !path.starts_with('/') || path == "/" || rest.contains('#') || user.contains(['@', '#', '?']) {
        return Err(wrong);
    }
    Ok(UpstreamUrl {
        endpoint: Endpoint::Unix(decode(path)?.into()),
        user: Some(decode(user)?).filter(|user| !user.is_empty()),
        password,
        database: database(number).map_err(|_| wrong)?,
    })
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
        let has_credentials = self.user.is_some() || self.password.is_some();
        f.write_str(match self.endpoint {
            Endpoint::Tcp { .. } => "redis://",
            Endpoint::Tls { .. } => "rediss://",
            Endpoint::Unix(_) if has_credentials => "unix://",
            Endpoint::Unix(_) => "unix:",
        })?;
        if let Some(user) = &self.user {
            utf8_percent_encode(user, USER_INFO).fmt(f)?;
        }
        if let Some(password) = &self.password {
            write!(f, ":{password}")?;
        }
        if has_credentials {
            f.write_str("@")?;
        }
        let database = match &self.endpoint {
            Endpoint::Unix(path) => {
                percent_encode(path.as_os_str().as_encoded_bytes(), PATH).fmt(f)?;
                "?db="
            }
            endpoint @ (Endpoint::Tcp { .. } | Endpoint::Tls { .. }) => {
                endpoint.fmt(f)?;
                "/"
            }
        };
        match self.database {
            Database(0) => Ok(()),
            Database(number) => write!(f, "{database}{number}"),
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
        let tcp = |host: &str, port| Endpoint::Tcp { host: host.into(), port };
        let bare = UpstreamUrl { endpoint: tcp("cache.example", 6379), ..UpstreamUrl::default() };
        assert_eq!(url("redis://cache.example"), bare);
        assert_eq!(url("redis://cache.example/"), bare);
        assert_eq!(url("redis://cache.example:6379/0"), bare);

        let full = url("redis://app:s3cret@10.0.0.7:7000/12");
        assert_eq!(full.endpoint, tcp("10.0.0.7", 7000));
        let tls = Endpoint::Tls { host: "cache.example".into(), port: 6379 };
        assert_eq!(url("rediss://cache.example"), UpstreamUrl { endpoint: tls, ..UpstreamUrl::default() });
        assert_eq!(full.user.as_deref(), Some("app"));
        assert_eq!(full.password, Some(Secret::new("s3cret")));
        assert_eq!(full.database, Database(12));

        assert_eq!(url("redis://[fd00::1]:6380").endpoint, tcp("fd00::1", 6380));
    }

    #[test]
    fn paths_are_taken_apart() {
        let unix = |path: &str| Endpoint::Unix(path.into());
        let bare = UpstreamUrl { endpoint: unix("/run/r.sock"), ..UpstreamUrl::default() };
        for text in ["unix:/run/r.sock", "unix:///run/r.sock", "unix:/run/r%2Esock?db=0"] {
            assert_eq!(url(text), bare, "{text}");
        }
        let full = url("unix://a%40b:p%2Fw@/run/100%25.sock?db=12");
        assert_eq!(full.endpoint, unix("/run/100%.sock"));
        assert_eq!((full.user.as_deref(), full.database), (Some("a@b"), Database(12)));
        assert_eq!(full.password, Some(Secret::new("p/w")));
        assert_eq!(url("unix://:only@/r").user, None);
        assert_eq!(url("unix://user@/r").password, None);
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
        for text in [
            "redis://127.0.0.1:6379",
            "rediss://a%40b@[fd00::1]:1/3",
            "redis://h:1/4294967295",
            "unix:/a%3Fb",
            "unix://a@/b-c?db=7",
        ] {
            assert_eq!(url(text).to_string(), text);
        }
        let with_password = url("redis://app:hush@h:1/2");
        assert_eq!(with_password.to_string(), "redis://app:***@h:1/2");
        assert!(!format!("{with_password:?}").contains("hush"));
        assert_eq!(url("redis://:hush@h:1").to_string(), "redis://:***@h:1");
        assert_eq!(url("unix://:hush@/s").to_string(), "unix://:***@/s");
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
            "unix:",
            "unix:/",
            "unix:hush",
            "unix:///",
            "unix://hush",
            "unix://hush/s",
            "unix://:hu/sh@/s",
            "unix://:hush@host/s",
            "unix://:hush@/s?db=x",
            "unix://:hush@/s?db=",
            "unix://:hush@/s?password=hush",
            "unix://:hush@/s#hush",
            "unix://hu@sh@/s",
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
            ("127.0.0.1:6379", "rediss://localhost", true),
            ("0.0.0.0:6379", "redis://127.0.0.1", true),
            ("[::]:6379", "redis://[::1]", true),
            ("127.0.0.1:6380", "redis://127.0.0.1", false),
            ("127.0.0.1:6379", "redis://10.0.0.1", false),
            ("0.0.0.0:6379", "redis://10.0.0.1", false),
            ("0.0.0.0:6379", "redis://redis", false),
            ("unix:/x", "redis://127.0.0.1", false),
            ("unix:/x", "unix:/x", true),
            ("unix:/x", "unix:/y", false),
        ] {
            let listen: ListenAddress = listen.parse().unwrap();
            assert_eq!(listen.is_reached_by(&url(upstream)), same, "{listen} {upstream}");
        }
    }
}
