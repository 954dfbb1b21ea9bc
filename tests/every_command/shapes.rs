//! Requests made from what the server says of a command: its minimal form, each option alone, each branch, lists of
//! several, whatever chance puts together, and what is one argument short or over.

use std::collections::HashSet;

use fastrand::Rng;

use super::{
    catalog::{Argument, Entry, Kind},
    values::value,
};

pub(crate) type Request = Vec<Vec<u8>>;

/// Requests of one command; `rounds` is how often each form is filled with values.
pub(crate) fn shapes(entry: &Entry, rounds: u32, rng: &mut Rng) -> Vec<Request> {
    let mut plans = vec![Plan::default()];
    features(&entry.arguments, &mut Vec::new(), &mut plans);
    let mut requests = Vec::new();
    for _ in 0..rounds {
        requests.extend(plans.iter().map(|plan| plan.request(entry, rng)));
        let chance = Plan { optional: 0.4, ..Plan::default() };
        requests.extend([chance.request(entry, rng), chance.request(entry, rng)]);
        requests.extend(of_wrong_arity(entry, &plans[0].request(entry, rng)));
    }
    if entry.is_container {
        requests.push(vec![entry.name.clone().into(), b"nosuch".to_vec()]);
        requests.push(vec![entry.name.clone().into(), b"".to_vec(), b"a".to_vec()]);
    }
    for request in &mut requests {
        vary_case(entry, request, rng);
    }
    rng.shuffle(&mut requests);
    requests
}

/// Which options, branches and repetitions a request has; what is not named is left out, is the first, is one.
#[derive(Clone, Default)]
struct Plan {
    /// Arguments that are in it, though optional, or though another branch comes first.
    with: HashSet<usize>,
    /// The one that is given more than once, and how often.
    several: Option<(usize, usize)>,
    /// How likely any other option is.
    optional: f32,
}

/// A plan for each thing that can be different.
fn features(arguments: &[Argument], above: &mut Vec<usize>, plans: &mut Vec<Plan>) {
    for argument in arguments {
        above.push(argument.id);
        let with: HashSet<usize> = above.iter().copied().collect();
        if argument.is_multiple {
            let times = 2 + argument.id % 2;
            let several = Some((argument.id, times));
            plans.push(Plan { with: with.clone(), several, optional: 0.0 });
        }
        plans.push(Plan { with, several: None, optional: 0.0 });
        features(&argument.arguments, above, plans);
        above.pop();
    }
    // What is always there makes no difference to the minimal form, but that its values are others.
    if above.is_empty() && plans.len() > 24 {
        plans.dedup_by(|one, other| one.several == other.several && one.with == other.with);
    }
}

impl Plan {
    fn request(&self, entry: &Entry, rng: &mut Rng) -> Request {
        let mut request: Request = entry.words().iter().map(|word| word.as_bytes().to_vec()).collect();
        self.all(entry, &entry.arguments, rng, &mut request);
        request
    }

    fn all(&self, entry: &Entry, arguments: &[Argument], rng: &mut Rng, request: &mut Request) {
        let mut numkeys = None;
        let mut keys = None;
        for argument in arguments {
            if argument.is_optional && !self.with.contains(&argument.id) && rng.f32() >= self.optional {
                continue;
            }
            let times = match self.several {
                Some((id, times)) if id == argument.id => times,
                // As many ids as keys, as many values as fields: mostly.
                _ if argument.is_multiple && rng.f32() < 0.9 => keys.unwrap_or(1),
                _ => 1,
            };
            if argument.name == "numkeys" {
                numkeys = Some(request.len());
            }
            for time in 0..times {
                if time == 0 || argument.repeats_token {
                    request.extend(argument.token.clone().map(String::into_bytes));
                }
                self.one(entry, argument, rng, request);
            }
            if argument.kind == Kind::Key && argument.is_multiple {
                keys = Some(times);
            }
        }
        if let Some(at) = numkeys.filter(|_| rng.f32() < 0.85) {
            request[at] = keys.unwrap_or(0).to_string().into_bytes();
        }
    }

    fn one(&self, entry: &Entry, argument: &Argument, rng: &mut Rng, request: &mut Request) {
        match argument.kind {
            Kind::Token => {}
            Kind::Block => self.all(entry, &argument.arguments, rng, request),
            Kind::OneOf => {
                let chosen = argument.arguments.iter().find(|branch| self.with.contains(&branch.id));
                let branch = match chosen {
                    Some(branch) => branch,
                    None if self.optional > 0.0 => rng.choice(&argument.arguments).expect("branches"),
                    None => &argument.arguments[0],
                };
                self.all(entry, std::slice::from_ref(branch), rng, request);
            }
            _ => request.push(value(entry, argument, rng)),
        }
    }
}

/// One argument short of the least, and one over where there is a most.
fn of_wrong_arity(entry: &Entry, minimal: &Request) -> Vec<Request> {
    let least = usize::try_from(entry.arity.unsigned_abs()).expect("a small number");
    let words = entry.words().len();
    let mut requests = Vec::new();
    if least > words {
        requests.push(minimal.iter().take(least - 1).cloned().collect());
    }
    if entry.arity > 0 {
        let over = minimal.iter().cloned().chain([b"surplus".to_vec()]);
        requests.push(over.collect());
    }
    requests
}

fn vary_case(entry: &Entry, request: &mut Request, rng: &mut Rng) {
    if rng.f32() < 0.5 {
        let words = entry.words().len().min(request.len());
        for byte in request[..words].iter_mut().flatten() {
            if rng.bool() {
                *byte = byte.to_ascii_uppercase();
            }
        }
    }
}
