//! The guards of coherence, each with a switch that takes it out.
//!
//! A test that would pass without the guard it is about proves nothing. So the feature `mutations` builds a nearhit in
//! which one guard at a time can be broken, and `tests/mutations.rs` demands that the histories or the model notice.
//! Without the feature, which nothing that is released has, every switch is the constant `false` and costs nothing.
//!
//! Which one is broken says the environment variable [`VARIABLE`], or in unit tests `with`.

/// The environment variable that names the guard to break. Not `NEARHIT_...`, which is configuration.
pub const VARIABLE: &str = "MUTATION";

macro_rules! mutations {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// A guard that can be broken.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Mutation {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Mutation {
            /// All there are.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// As the environment variable and the tests call it.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }
    };
}

mutations! {
    /// Invariant 3: a reply is stored although its token has been revoked.
    NoTokenCheck = "no-token-check",
    /// Invariant 1: a client that watches keys is answered from memory.
    HitsDuringWatch = "hits-during-watch",
    /// Certification: one answer to ECHO proves what only the second does.
    OneAnswer = "one-answer",
    /// Certification: the time certified is that of the answer, not that of the question before.
    LeaseFromAnswer = "lease-from-answer",
    /// Certification: an error in answer to ECHO counts.
    BusyCertifies = "busy-certifies",
    /// Invariant 6: the invalidation of everything is passed over.
    NullIgnored = "null-ignored",
    /// Invariant 7: the time to live counts from the arrival of PTTL's answer.
    PttlFromReceipt = "pttl-from-receipt",
    /// Invariant 2: who joined at or after the deadline is answered all the same.
    JoinPastDeadline = "join-past-deadline",
    /// Invariants 4 and 5: a write is acknowledged before its keys are dropped.
    AcknowledgeBeforeDrop = "acknowledge-before-drop",
    /// Invariant 4: a write's keys are dropped when it is sent; they are neither blocked, nor dropped when it is answered.
    DropsOnce = "drops-once",
    /// Invariant 5: a fence is open before its moment is certified.
    FenceReleasedEarly = "fence-released-early",
    /// Invariant 6: an own FLUSHALL leaves the generation where it is.
    OwnFlushIgnored = "own-flush-ignored",
    /// Invariant 6: the loss of the link leaves the generation where it is.
    GenerationKept = "generation-kept",
    /// Invariant 8: a lane may end at another server than the link.
    ForeignLane = "foreign-lane",
    /// Invariant 4: EXEC does not know the first key of its queue.
    ExecMissesKey = "exec-misses-key",
    /// Invariant 5: a script or an unknown command counts as writing what it declares.
    UnknownWritersIgnored = "unknown-writers-ignored",
    /// Invariant 9: an entry counts as read when it was stored, not when it was sent.
    SeenByFillTime = "seen-by-fill-time",
    /// Invariant 9: what a reply shows is not remembered.
    SeenNotMoved = "seen-not-moved",
    /// Invariant 10: an MGET takes its parts from memory without a second look.
    TornMget = "torn-mget",
    /// Invariant 11: messages and blocking pops do not wait for the changes before them.
    MessageBeforePush = "message-before-push",
}

#[cfg(not(feature = "mutations"))]
impl Mutation {
    /// Whether this guard is broken: never.
    #[inline]
    pub const fn is_on(self) -> bool {
        false
    }
}

#[cfg(feature = "mutations")]
mod switch {
    use std::{cell::Cell, env};

    use super::{Mutation, VARIABLE};

    thread_local! {
        static BROKEN: Cell<Option<Mutation>> = Cell::new(env::var(VARIABLE).ok().map(|name| named(&name)));
    }

    fn named(name: &str) -> Mutation {
        let known = Mutation::ALL.iter().copied().find(|mutation| mutation.name() == name);
        known.unwrap_or_else(|| panic!("{VARIABLE}: no guard is called {name}"))
    }

    impl Mutation {
        /// Whether this guard is broken in this thread.
        pub fn is_on(self) -> bool {
            BROKEN.get() == Some(self)
        }
    }

    /// Breaks a guard in this thread while `run` runs, or none.
    pub fn with<R>(mutation: Option<Mutation>, run: impl FnOnce() -> R) -> R {
        struct Restore(Option<Mutation>);
        impl Drop for Restore {
            fn drop(&mut self) {
                BROKEN.set(self.0);
            }
        }
        let _restore = Restore(BROKEN.replace(mutation));
        run()
    }
}

#[cfg(feature = "mutations")]
pub use switch::with;
