//! Reloading: settings that change while the server runs. What is open stays, under the new
//! limits, but for streams that would not be let in any more: a sweep ends those.

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

    /// Looks at every stream again, unless none can be without leave: all took no token, and none does now.
    fn review_streams(&mut self) {
        if let Some(jwt) = &self.settings.jwt {
            self.denials.limit(jwt.denied_tokens_max);
        }
        if self.settings.jwt.is_some() || !self.credentials.is_empty() {
            self.sweeps.review();
        }
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
        self.review_streams();
        // What is kept for the old ones: reconnection times, and who was told of a refused origin.
        self.preambles = Preambles::default();
        self.refused_origins = RefusedOrigins::default();
    }
}
