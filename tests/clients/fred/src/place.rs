//! Where and as whom the workload connects: see tests/clients/ecosystem.rs.

use std::env;
use std::future::Future;
use std::time::Duration;

use fred::prelude::*;
use fred::types::{ClusterHash, CustomCommand, InfoKind, RespVersion};
use tokio::time::sleep;

/// A reply that takes longer is lost: fred reports it, and the step says so.
const TIMEOUT: Duration = Duration::from_secs(20);
const RECONNECT_AFTER_MS: u32 = 10;
/// How what comes by itself is looked for.
const POLLS_MAX: usize = 1_000;
const POLL_INTERVAL: Duration = Duration::from_millis(10);

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("{name} is set"))
}

pub(crate) fn is_resp3() -> bool {
    variable("REDIS_PROTOCOL") == "3"
}

/// What clients and pools are built from. They connect again by themselves, as often as it takes.
pub(crate) fn builder(database: u8) -> Builder {
    let port = variable("REDIS_PORT").parse().expect("a port");
    let mut config = Config {
        server: ServerConfig::new_centralized(variable("REDIS_HOST"), port),
        version: if is_resp3() { RespVersion::RESP3 } else { RespVersion::RESP2 },
        database: Some(database),
        ..Config::default()
    };
    if let Ok(name) = env::var("REDIS_USERNAME") {
        config.username = Some(name);
        config.password = Some(variable("REDIS_PASSWORD"));
    }
    let mut builder = Builder::from_config(config);
    builder.with_performance_config(|config| config.default_command_timeout = TIMEOUT);
    builder.set_policy(ReconnectPolicy::new_constant(0, RECONNECT_AFTER_MS));
    builder
}

pub(crate) async fn client(database: u8) -> Result<Client, Error> {
    let client = builder(database).build()?;
    client.init().await?;
    Ok(client)
}

/// Any command, by its words; fred has no others than it knows.
pub(crate) async fn custom(client: &Client, words: &[&str]) -> Result<Value, Error> {
    let command = CustomCommand::new(words[0].to_owned(), ClusterHash::FirstKey, false);
    client.custom(command, words[1..].iter().map(ToString::to_string).collect::<Vec<_>>()).await
}

/// Returns once something holds that comes by itself.
pub(crate) async fn until<F: Future<Output = bool>>(mut holds: impl FnMut() -> F) {
    for _ in 0..POLLS_MAX {
        if holds().await {
            return;
        }
        sleep(POLL_INTERVAL).await;
    }
    panic!("it never came true");
}

/// Whether some client of the server is blocked.
pub(crate) async fn somebody_waits(client: &Client) -> bool {
    let info: String = client.info(Some(InfoKind::Clients)).await.expect("INFO is answered");
    info.lines().any(|line| line.starts_with("blocked_clients:") && line != "blocked_clients:0")
}
