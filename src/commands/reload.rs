//! Reloading `fanfare serve`: what SIGHUP reads again, and where it goes.

use super::settings::settings;
use super::systemd;
use crate::cli::ServeArgs;
use crate::config::{Environment, Loaded};
use crate::observe::logging::FilterControl;
use crate::server::Reloads;

/// Reads the configuration again. Lives in the thread for signals: the loop waits for no file.
pub(super) struct Reloader {
    pub(super) args: ServeArgs,
    pub(super) env: Environment,
    /// What is in force.
    pub(super) loaded: Loaded,
    pub(super) descriptors: u64,
    pub(super) log: FilterControl,
    pub(super) reloads: Reloads,
}

impl Reloader {
    /// Leaves new settings for the loop; after a mistake none, and everything is as it was.
    pub(super) fn read_again(&mut self) {
        systemd::tell_reloading();
        match self.loaded.reload(&self.args.flags, self.args.config.as_deref(), &self.env) {
            Err(error) => tracing::error!(%error, "not reloaded: everything is as it was"),
            Ok(loaded) => {
                for warning in &loaded.warnings {
                    tracing::warn!("{warning}");
                }
                if let Err(error) = self.log.set(&loaded.config.log.filter) {
                    tracing::error!(%error, "the log level is as it was");
                }
                self.reloads.put(settings(&loaded.config, self.descriptors));
                self.loaded = loaded;
            }
        }
    }
}
