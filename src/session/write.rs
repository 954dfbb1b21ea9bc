//! Writes: the keys are blocked before they are sent and dropped again before they are acknowledged.

use std::rc::Rc;

use smallvec::SmallVec;

use super::{Inner, Next, Session, ticket::Work};
use crate::{
    coherence::{Batch, WriteKind},
    command::{Access, Class, Command},
    config::Scripts,
    mutation::Mutation,
    resp::{Args, Raw},
};

impl Session {
    /// A command that may change something.
    pub(super) fn forward_write(
        self: &Rc<Self>,
        inner: &mut Inner,
        command: &Command,
        class: Class,
        batch: &Batch,
        args: Args<'_>,
        request: Raw<'_>,
    ) -> Next {
        if inner.waits > 0 {
            return Next::Hold;
        }
        let lane = match self.lane(inner) {
            Ok(lane) => lane,
            Err(reason) => return inner.no_lane(reason),
        };
        let kind = self.write_kind(class);
        let (mut writes, mut sources) = (SmallVec::<[&[u8]; 4]>::new(), Keys::new());
        command.for_each_key(&args, |key, access| match access {
            Access::Write => writes.push(key),
            Access::Read => sources.push(key.into()),
        });
        let guard = self.worker.shared.coherence.begin_write(kind, writes.into_iter());
        self.worker.counters.writes.add(1);
        let mut place = inner.place();
        place.barrier = kind != WriteKind::Declared;
        // What it reads it shows, or copies: no hit on that may overtake it (invariant 1).
        place.reading = sources.iter().map(|key| self.worker.hash(key)).collect();
        inner.last_write = Some(place.seq);
        let work = Work::Write { guard, sources, users: command.changes_users(&args) };
        self.send(inner, batch, &lane, place, work, |out| out.push(request))
    }

    /// What a class of command does to the cache.
    pub(super) fn write_kind(&self, class: Class) -> WriteKind {
        match class {
            Class::Script | Class::Unknown if Mutation::UnknownWritersIgnored.is_on() => WriteKind::Declared,
            Class::Flush => WriteKind::Flush,
            Class::Script if self.worker.shared.config.coherence.scripts == Scripts::Declared => {
                WriteKind::Declared
            }
            Class::Script | Class::Unknown => WriteKind::Undeclared,
            _ => WriteKind::Declared,
        }
    }
}

/// Keys by name, owned.
pub(super) type Keys = Vec<Box<[u8]>>;

/// The keys that a command writes, and those that it only reads.
pub(super) fn keys(command: &Command, args: Args<'_>) -> (Keys, Keys) {
    let (mut writes, mut reads) = (Vec::new(), Vec::new());
    command.for_each_key(&args, |key, access| match access {
        Access::Write => writes.push(key.into()),
        Access::Read => reads.push(key.into()),
    });
    (writes, reads)
}
