//! Reloading: settings that change while the server runs. Nobody is dropped: what is open stays, under the new limits.

use std::sync::{Arc, Mutex, PoisonError};

use super::origins::RefusedOrigins;
use super::publish_rate::PublishRates;
use super::settings::Settings;
use super::stream::Preambles;
use super::{News, Server};
use crate::io::Io;

/// The way of new settings into the loop: the newest ones, until it takes them.
#[derive(Clone, Debug, Default)]
pub struct Reloads(Arc<Mutex<Option<Settings>>>);

impl Reloads {
    /// Leaves settings for the loop, which looks when it hears [`Control::Reload`](crate::sources::channel::Control).
    pub fn put(&self, settings: Settings) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(settings);
    }

    fn take(&self) -> Option<Settings> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl<I: Io> Server<I> {
    /// Puts the settings in force that were left, if any; whoever asked is told that it is done either way.
    pub(super) fn reload(&mut self) {
        if let Some(settings) = self.reloads.take() {
            self.put_in_force(settings);
            tracing::info!(streams = self.streams, "reloaded");
        }
        self.supervisor.tell(News::Reloaded);
    }

    fn put_in_force(&mut self, settings: Settings) {
        let (old, new) = (&self.settings.limits, &settings.limits);
        if old.accepts_per_second_max != new.accepts_per_second_max {
            self.acceptor.limit_rate(new.accepts_per_second_max, self.now);
        }
        if old.events_per_second_max != new.events_per_second_max {
            self.publish_rates = PublishRates::new(new.events_per_second_max);
        }
        self.settings = settings;
        self.recount_addresses();
        // What is kept for the old ones: reconnection times, and who was told of a refused origin.
        self.preambles = Preambles::default();
        self.refused_origins = RefusedOrigins::default();
    }
}
