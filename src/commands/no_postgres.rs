//! Stands in for PostgreSQL in builds without it.

use std::sync::Arc;

use super::UsageError;
use crate::cli::BusPlace;
use crate::config::{Config, DurableBusConfig, PostgresConfig};
use crate::redis_address::RedisAddress;
use crate::sources::bus::lead::LeadEngine;
use crate::sources::bus::tools::BusTools;
use crate::sources::bus::{BusBounds, Engine};

pub(super) fn schema() -> anyhow::Result<&'static str> {
    Err(absent())
}

pub(super) fn bus_at(_: &BusPlace, _: &str, _: u64) -> anyhow::Result<Box<dyn BusTools>> {
    Err(absent())
}

pub(super) fn engines(
    _: &Config,
    _: &PostgresConfig,
    _: &DurableBusConfig,
    _: &Arc<BusBounds>,
) -> anyhow::Result<Box<dyn Fn() -> Box<dyn Engine>>> {
    Err(absent())
}

pub(super) fn log_to_feed(_: &Config, _: &PostgresConfig, _: &DurableBusConfig) -> anyhow::Result<Box<dyn Engine>> {
    Err(absent())
}

pub(super) fn lead_engine(
    _: &Config,
    _: &PostgresConfig,
    _: &DurableBusConfig,
    _: &Arc<BusBounds>,
    _: RedisAddress,
) -> anyhow::Result<Box<dyn LeadEngine>> {
    Err(absent())
}

fn absent() -> anyhow::Error {
    let reason = "this fanfare was built without the cargo feature postgres: build it with --features postgres";
    UsageError(reason.to_owned()).into()
}
