//! The PostgreSQL that has the bus of `fanfare serve` and `fanfare bus`, or publishes to it. Builds without it have
//! `absent.rs` instead.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;

use super::UsageError;
use super::redis::password;
use crate::cli::BusPlace;
use crate::config::{
    Config, DurableBusConfig, POSTGRES_PASSWORD_VARIABLE, PostgresConfig, PostgresUrl, Secret, redact_url,
};
use crate::protocol::publish::PublishLimits;
use crate::redis_address::RedisAddress;
use crate::sources::bus::cursor::CursorEngine;
use crate::sources::bus::lead::LeadEngine;
use crate::sources::bus::postgres::{PostgresAddress, PostgresBus, PostgresLead, PostgresSettings, SCHEMA};
use crate::sources::bus::redis_stream::marker_channel;
use crate::sources::bus::tools::BusTools;
use crate::sources::bus::{BusBounds, Engine};

/// The SQL that installs the bus.
pub(super) fn installation(_: &BusPlace) -> anyhow::Result<String> {
    Ok(SCHEMA.trim_end().to_owned())
}

/// The bus at this place, which is to keep this number of entries.
pub(super) fn bus_at(place: &BusPlace, url: &str, entries_max: u64) -> anyhow::Result<Box<dyn BusTools>> {
    let refused = |reason: String| UsageError(format!("--postgres-url {}: {reason}", redact_url(url)));
    let url: PostgresUrl = url.parse().map_err(refused)?;
    let file = place.postgres_password_file.as_deref();
    let password = password("--postgres-password-file", file, POSTGRES_PASSWORD_VARIABLE)?;
    let read = |path: &Path| std::fs::read(path).with_context(|| format!("--postgres-tls-ca {}", path.display()));
    let ca = place.postgres_tls_ca.as_deref().map(read).transpose()?;
    Ok(Box::new(PostgresBus::new(PostgresSettings {
        address: address(&url, password.as_ref(), ca.as_deref())?,
        bounds: Arc::default(),
        entries_max,
        // Nothing is appended or read.
        id_memory: Duration::ZERO,
        limits: PublishLimits::NONE,
    })))
}

/// What makes the engines of a node.
pub(super) fn engines(
    config: &Config,
    postgres: &PostgresConfig,
    bus: &DurableBusConfig,
    bounds: &Arc<BusBounds>,
) -> anyhow::Result<Box<dyn Fn() -> Box<dyn Engine>>> {
    let settings = settings(config, postgres, bus, Arc::clone(bounds))?;
    Ok(Box::new(move || Box::new(PostgresBus::new(settings.clone()))))
}

/// An engine of a node that keeps cursors.
pub(super) fn cursor_engine(
    config: &Config,
    postgres: &PostgresConfig,
    bus: &DurableBusConfig,
    bounds: &Arc<BusBounds>,
) -> anyhow::Result<Box<dyn CursorEngine>> {
    Ok(Box::new(PostgresBus::new(settings(config, postgres, bus, Arc::clone(bounds))?)))
}

/// What transactions publish, to go onto another bus.
pub(super) fn log_to_feed(
    config: &Config,
    postgres: &PostgresConfig,
    bus: &DurableBusConfig,
) -> anyhow::Result<Box<dyn Engine>> {
    Ok(Box::new(PostgresBus::to_feed(settings(config, postgres, bus, Arc::default())?)))
}

/// Where nodes take the lead of what the channels of this Redis carry.
pub(super) fn lead_engine(
    config: &Config,
    postgres: &PostgresConfig,
    bus: &DurableBusConfig,
    bounds: &Arc<BusBounds>,
    redis: RedisAddress,
) -> anyhow::Result<Box<dyn LeadEngine>> {
    let settings = settings(config, postgres, bus, Arc::clone(bounds))?;
    Ok(Box::new(PostgresLead::new(settings, redis, marker_channel(&bus.name))))
}

fn settings(
    config: &Config,
    postgres: &PostgresConfig,
    bus: &DurableBusConfig,
    bounds: Arc<BusBounds>,
) -> anyhow::Result<PostgresSettings> {
    Ok(PostgresSettings {
        address: address(&postgres.url, postgres.password.as_ref(), postgres.tls_ca.as_deref())?,
        bounds,
        entries_max: bus.entries_max,
        id_memory: bus.id_memory,
        limits: config.limits.publish(),
    })
}

fn address(url: &PostgresUrl, password: Option<&Secret>, ca: Option<&[u8]>) -> Result<PostgresAddress, UsageError> {
    let address = PostgresAddress::new(url.expose(), password.map(Secret::expose), ca);
    address.map_err(|error| UsageError(format!("--postgres-url {url}: {error}")))
}
