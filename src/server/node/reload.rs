//! How new settings reach the loop while it runs.

use std::sync::{Arc, Mutex, PoisonError};

use crate::server::settings::Settings;

/// The newest settings, until the loop takes them.
#[derive(Clone, Debug, Default)]
pub struct Reloads(Arc<Mutex<Option<Settings>>>);

impl Reloads {
    /// Leaves settings for the loop, which takes them on [`Control::Reload`](crate::sources::channel::Control).
    pub fn put(&self, settings: Settings) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(settings);
    }

    pub(crate) fn take(&self) -> Option<Settings> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
