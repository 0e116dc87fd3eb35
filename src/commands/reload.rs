//! Reloading `fanfare serve`: what SIGHUP reads again, and where it goes.
//!
//! ```text
//!  signals ──▶ ReloadRequests (one waits at most) ──▶ the thread "reload" reads files ──▶ the loops put in force
//!                                                             ▲                                │
//!                                                             └────────── reloaded ────────────┘
//! ```
//!
//! Invariants: neither a loop nor the handling of signals waits for a file. Only one reload is under way at a time,
//! and the service manager is notified of its end before the start of the next one. A reload changes everything that it
//! may change, or nothing.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::settings::settings;
use super::{systemd, tls};
use crate::cli::ServeArgs;
use crate::config::{ConfigError, Environment, Loaded};
use crate::io::handshakes::CurrentConfig;
use crate::observe::logging::FilterControl;
use crate::server::Reloads;
use crate::sources::channel::Control;
use crate::sources::sequencer::Sequencer;

/// Reads the configuration again, in a separate thread.
pub(super) struct Reloader {
    pub(super) args: ServeArgs,
    pub(super) env: Environment,
    /// The configuration in force.
    pub(super) loaded: Loaded,
    pub(super) descriptors: u64,
    pub(super) https_port: Option<u16>,
    /// What handshakes use, if a listener speaks TLS.
    pub(super) tls: Option<CurrentConfig>,
    pub(super) log: FilterControl,
    /// That of each loop.
    pub(super) reloads: Vec<Reloads>,
    /// Receives a message when all loops have finished a reload.
    pub(super) reloaded: Receiver<()>,
}

impl Reloader {
    /// Starts the thread, which handles requests for as long as the process runs.
    pub(super) fn start(mut self, sequencer: &Arc<Sequencer>) -> io::Result<ReloadRequests> {
        let (requests, waiting) = bounded(1);
        let is_under_way = Arc::<AtomicBool>::default();
        let reload_requests = ReloadRequests {
            requests: Some(requests),
            waiting: waiting.clone(),
            is_under_way: Arc::clone(&is_under_way),
        };
        let sequencer = Arc::clone(sequencer);
        let reload = move || {
            for () in waiting {
                is_under_way.store(true, Ordering::Relaxed);
                systemd::notify_reloading();
                if let Err(error) = self.reload() {
                    tracing::error!(
                        error = format!("{error:#}"),
                        "not reloaded: the previous configuration stays in force"
                    );
                }
                // After a failure too: the first loop notifies the service manager that the reload is over.
                sequencer.control(&Control::Reload);
                let _ = self.reloaded.recv(); // without a loop there is nothing left to reload
                is_under_way.store(false, Ordering::Relaxed);
            }
        };
        thread::Builder::new().name("reload".to_owned()).spawn(reload)?;
        Ok(reload_requests)
    }

    /// Hands new settings to the loops. Every step that can fail comes before the first change.
    fn reload(&mut self) -> anyhow::Result<()> {
        let loaded = self.read()?;
        let renewed = match &self.tls {
            Some(_) => tls::renewed(&self.loaded.config.certificates, &loaded.config.certificates)?,
            None => None,
        };
        self.log.set(&loaded.config.log.filter)?;
        for warning in &loaded.warnings {
            tracing::warn!("{warning}");
        }
        if let (Some(tls), Some(renewed)) = (&self.tls, renewed) {
            tls.replace(renewed);
            tracing::info!("new handshakes use the new certificates");
        }
        let settings = settings(&loaded.config, self.descriptors, self.https_port);
        self.reloads.iter().for_each(|reloads| reloads.put(settings.clone()));
        self.loaded = loaded;
        Ok(())
    }

    fn read(&self) -> Result<Loaded, ConfigError> {
        self.loaded.reload(&self.args.flags, self.args.config.as_deref(), &self.env)
    }
}

/// Requests reloads, and never waits for one.
pub(super) struct ReloadRequests {
    /// `None` once the server shuts down.
    requests: Option<Sender<()>>,
    waiting: Receiver<()>,
    is_under_way: Arc<AtomicBool>,
}

impl ReloadRequests {
    /// Requests a reload. It follows the one under way; if one already waits, that one serves both requests.
    pub(super) fn request(&mut self) {
        let Some(requests) = &self.requests else {
            return tracing::warn!("not reloaded: the server is shutting down");
        };
        if self.is_under_way.load(Ordering::Relaxed) {
            tracing::warn!("a reload is under way: the next one waits for it");
        }
        let _ = requests.try_send(());
    }

    /// Stops further reloads from starting: the server shuts down.
    pub(super) fn close(&mut self) {
        self.requests = None;
        let _ = self.waiting.try_recv();
    }
}
