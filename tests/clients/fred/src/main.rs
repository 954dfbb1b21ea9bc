//! The workload of fred. Its arguments are the steps to run, for looking into a failure; without any it runs all.

mod connections;
mod messages;
mod place;
mod transactions;
mod transcript;
mod values;

use std::env;

use fred::prelude::*;
use futures::future::LocalBoxFuture;

use crate::place::{client, custom};
use crate::transcript::Transcript;

const ROUNDS: usize = 2;

type Step = for<'a> fn(&'a mut Transcript) -> LocalBoxFuture<'a, ()>;

const STEPS: [(&str, Step); 16] = [
    ("hot", |said| Box::pin(values::hot(said))),
    ("strings", |said| Box::pin(values::strings(said))),
    ("collections", |said| Box::pin(values::collections(said))),
    ("expiry", |said| Box::pin(values::expiry(said))),
    ("binary", |said| Box::pin(values::binary(said))),
    ("scans", |said| Box::pin(values::scans(said))),
    ("pipelines", |said| Box::pin(transactions::pipelines(said))),
    ("transactions", |said| Box::pin(transactions::transactions(said))),
    ("scripts", |said| Box::pin(transactions::scripts(said))),
    ("subscriptions", |said| Box::pin(messages::subscriptions(said))),
    ("blocking", |said| Box::pin(messages::blocking(said))),
    ("streams", |said| Box::pin(messages::streams(said))),
    ("tracking", |said| Box::pin(messages::tracking(said))),
    ("pools", |said| Box::pin(connections::pools(said))),
    ("users", |said| Box::pin(connections::users(said))),
    ("kills", |said| Box::pin(connections::kills(said))),
];

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let wanted: Vec<String> = env::args().skip(1).collect();
    for round in 0..ROUNDS {
        let cleaner = client(0).await?;
        custom(&cleaner, &["FLUSHALL"]).await?;
        custom(&cleaner, &["SCRIPT", "FLUSH"]).await?;
        cleaner.quit().await?;
        for (name, step) in STEPS {
            if wanted.is_empty() || wanted.iter().any(|one| one == name) {
                step(&mut Transcript::new(format!("{round}/{name}"))).await;
            }
        }
    }
    println!("done");
    Ok(())
}
