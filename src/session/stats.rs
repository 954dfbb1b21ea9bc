//! Figures for the operator: INFO's `# Nearhit` section and the PROXY command.

use super::{Inner, Next, Session};
use crate::{
    clock,
    coherence::Canary,
    resp::{Args, Value},
};

impl Session {
    /// The `# Nearhit` section of INFO.
    pub(super) fn own_section(&self) -> String {
        let lines = self.figures().into_iter().map(|(name, value)| format!("nearhit_{name}:{value}\r\n"));
        std::iter::once("# Nearhit\r\n".to_owned()).chain(lines).collect()
    }

    /// `PROXY STATS` and `PROXY HELP`.
    pub(super) fn proxy(&self, inner: &mut Inner, args: Args<'_>) -> Next {
        if !self.may_use_proxy(inner) {
            return inner.refuse("NOPERM PROXY is for loopback clients or admin.proxy_users only");
        }
        match args.get(1) {
            Some(name) if name.eq_ignore_ascii_case(b"STATS") && args.len() == 2 => {
                let pairs = self.figures().into_iter().map(|(name, value)| {
                    let number = value.parse().map(Value::Integer);
                    (Value::bulk(name), number.unwrap_or_else(|_| Value::bulk(value)))
                });
                inner.reply(&Value::Map(pairs.collect()))
            }
            Some(name) if name.eq_ignore_ascii_case(b"HELP") && args.len() == 2 => {
                let lines = [
                    "PROXY <subcommand>. Subcommands are:",
                    "STATS",
                    "    Figures of this proxy.",
                    "HELP",
                    "    This text.",
                ];
                inner.reply(&Value::Array(lines.into_iter().map(|line| Value::Simple(line.into())).collect()))
            }
            Some(name) => {
                let name = String::from_utf8_lossy(name);
                let text = format!(
                    "ERR unknown subcommand or wrong number of arguments for '{name}'. Try PROXY HELP."
                );
                inner.refuse(&text)
            }
            None => inner.wrong_arity("proxy"),
        }
    }

    fn may_use_proxy(&self, inner: &Inner) -> bool {
        let users = &self.worker.shared.config.admin.proxy_users;
        match (&inner.profile.identity.user, users.is_empty()) {
            (_, true) => self.info.peer.is_local(),
            (Some(user), false) => users.iter().any(|name| name.as_bytes() == user),
            (None, false) => users.iter().any(|name| name == "default"),
        }
    }

    fn figures(&self) -> Vec<(&'static str, String)> {
        let shared = &self.worker.shared;
        let totals = shared.metrics.totals();
        let coherence = &shared.coherence;
        let (certifier, cache) = (coherence.certifier(), coherence.cache());
        let now = clock::now();
        let phase = certifier.phase();
        let evictions = cache.evictions();
        let staleness = coherence.canary().map(Canary::staleness).unwrap_or_default();
        let mut figures: Vec<(&'static str, u64)> = vec![
            ("commands_processed", totals.commands),
            ("hits", totals.hits),
            ("misses", totals.misses),
            ("joins", totals.joins),
            ("bypasses", totals.bypasses),
            ("fills", totals.fills),
            ("fills_refused", totals.fills_refused),
            ("writes", totals.writes),
            ("invalidations", totals.invalidations),
            ("invalidations_all", totals.invalidations_all),
            ("generation", coherence.generation().0),
            ("evictions", evictions.by_count + evictions.by_bytes),
            ("evictions_by_count", evictions.by_count),
            ("evictions_by_bytes", evictions.by_bytes),
            ("entries", cache.entries() as u64),
            ("bytes", cache.bytes() as u64),
            ("lanes", totals.lanes),
            ("lanes_lost", totals.lanes_lost),
            ("pool_in_use", totals.pool_in_use),
            ("blocking_in_use", totals.blocking_in_use),
            ("subscribed_in_use", totals.subscribed_in_use),
            ("hub_clients", totals.hub_clients),
            ("pool_connections", u64::from(shared.transactions.connections())),
            ("blocking_connections", u64::from(shared.blocking.connections())),
            ("subscribed_connections", u64::from(shared.subscribed.connections())),
            ("hubs", totals.hubs),
            ("fences", totals.fences),
            ("certifications", totals.certifications),
            ("reconnects", totals.link_connects.saturating_sub(1)),
            ("link_losses", totals.link_losses),
            ("upstream_up", u64::from(!shared.health.is_down())),
            ("upstream_downs", totals.upstream_downs),
            ("upstream_commands", totals.upstream_commands),
            ("upstream_commands_saved", totals.upstream_commands_saved),
            ("touches", totals.touches),
            ("retried_reads", totals.retried_reads),
            ("timeouts", totals.timeouts),
            ("auth_failures", totals.auth_failures),
            ("auth_throttled", totals.auth_throttled),
            ("auth_disowned", totals.auth_disowned),
            ("audit_agreements", totals.audit_agreements),
            ("audit_explained", totals.audit_explained),
            ("audit_violations", totals.audit_violations),
            ("audit_inconclusive", totals.audit_inconclusive),
            ("audit_skipped", totals.audit_skipped),
            ("staleness_count", staleness.count),
            ("staleness_sum_us", staleness.sum_us),
            ("staleness_p50_us", staleness.p50_us),
            ("staleness_p99_us", staleness.p99_us),
            ("staleness_max_us", staleness.max_us),
            ("staleness_missed", staleness.missed),
            ("output_limit_disconnections", totals.output_limit_disconnections),
            ("slow_reader_disconnections", totals.slow_reader_disconnections),
            ("connected_clients", totals.clients),
            ("connections_received", totals.connections_received),
            ("connections_rejected", totals.connections_rejected),
            ("handshakes_failed", totals.handshakes_failed),
        ];
        if coherence.canary().is_some() {
            figures.extend(staleness.buckets);
        }
        let mut all: Vec<_> = figures.into_iter().map(|(name, value)| (name, value.to_string())).collect();
        all.push(("link_state", phase.name(certifier.is_leased(now)).to_owned()));
        let age = now.since(certifier.certified());
        all.push((
            "lease_age_ms",
            if certifier.certified().0 == 0 { "-1".into() } else { age.as_millis().to_string() },
        ));
        all.push(("version", env!("CARGO_PKG_VERSION").to_owned()));
        all
    }
}
