//! Stands in for a bus in builds without it. It is compiled once for each feature that is off, as the module of its name.

use super::UsageError;
use crate::cli::BusPlace;
use crate::config::absent_feature;
use crate::sources::bus::Engine;
use crate::sources::bus::cursor::CursorEngine;
use crate::sources::bus::lead::LeadEngine;
use crate::sources::bus::tools::BusTools;

pub(super) fn installation(_: &BusPlace) -> anyhow::Result<String> {
    Err(absent())
}

pub(super) fn bus_at<Address: ?Sized>(_: &BusPlace, _: &Address, _: u64) -> anyhow::Result<Box<dyn BusTools>> {
    Err(absent())
}

pub(super) fn engines<Config, Server, Bus, Bounds>(
    _: &Config,
    _: &Server,
    _: &Bus,
    _: &Bounds,
) -> anyhow::Result<Box<dyn Fn() -> Box<dyn Engine>>> {
    Err(absent())
}

#[allow(dead_code, reason = "not every bus keeps cursors")]
pub(super) fn cursor_engine<Config, Server, Bus, Bounds>(
    _: &Config,
    _: &Server,
    _: &Bus,
    _: &Bounds,
) -> anyhow::Result<Box<dyn CursorEngine>> {
    Err(absent())
}

#[allow(dead_code, reason = "not every engine has transactions")]
pub(super) fn log_to_feed<Config, Server, Bus>(_: &Config, _: &Server, _: &Bus) -> anyhow::Result<Box<dyn Engine>> {
    Err(absent())
}

#[allow(dead_code, reason = "channels are not read beside every bus")]
pub(super) fn lead_engine<Config, Server, Bus, Bounds, Channels>(
    _: &Config,
    _: &Server,
    _: &Bus,
    _: &Bounds,
    _: Channels,
) -> anyhow::Result<Box<dyn LeadEngine>> {
    Err(absent())
}

fn absent() -> anyhow::Error {
    let feature = module_path!().rsplit("::").next().unwrap_or_default();
    UsageError(absent_feature(feature)).into()
}
