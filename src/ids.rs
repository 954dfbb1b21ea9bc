//! Newtypes for the numbers that look alike.

/// A verified user of the upstream, by name; 0 is a client that has not authenticated. Never a password.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IdentityId(pub u32);

/// A database number, as in SELECT.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Database(pub u32);

/// A client of this proxy, unique for the life of the process; what CLIENT ID answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId(pub u64);

/// A worker thread, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WorkerId(pub usize);

/// The contents of the upstream as the cache knows them: entries of another generation are dead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Generation(pub u64);

/// A server process (its run id and role), interned; 0 is "not known", and equals nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ServerId(pub u32);

impl ServerId {
    /// Not known yet, or could not be found out.
    pub const UNKNOWN: Self = Self(0);

    /// Whether both are known and the same process.
    pub fn is_same(self, other: Self) -> bool {
        self != Self::UNKNOWN && self == other
    }

    /// Whether both are known and not the same process.
    pub fn is_another(self, other: Self) -> bool {
        self != Self::UNKNOWN && other != Self::UNKNOWN && self != other
    }
}
