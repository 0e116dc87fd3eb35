//! The Redis that the server bridges: reads its password and certificates, and checks its address without connecting.

use std::path::Path;

use super::bus::{BusKind, BusOptions, DurableBusConfig};
use super::options::{RedisOptions, RedisPayload, RequiredSource};
use super::tables::{ChannelTable, Table};
use super::{ConfigError, REDIS_PASSWORD_VARIABLE, RedisUrl, SecretReader};
use crate::event::Topic;
use crate::redis_address::{AddressError, RedisAddress};

/// The Redis that the server bridges.
#[derive(Clone, Debug)]
pub struct RedisConfig {
    /// Where it is, with its password in place.
    pub url: RedisUrl,
    /// The PEM certificates to trust for it over TLS; none: this host's.
    pub tls_ca: Option<Vec<u8>>,
    /// The address to connect to, made from both.
    pub address: RedisAddress,
    /// Channels to subscribe to, and what becomes of their messages; of several that match a channel, the first one counts.
    pub tables: Vec<ChannelTable>,
    /// More channels to subscribe to; each is a topic.
    pub channels: Vec<Topic>,
    /// Patterns of channels to subscribe to.
    pub patterns: Vec<Topic>,
    /// What a message's payload is, unless a table says something else.
    pub payload: RedisPayload,
    /// The channel for what is published over HTTP.
    pub bus: String,
    /// Topics whose events are copied to the channel of the same name when they are published over HTTP.
    pub copied_channels: Vec<Topic>,
    /// The durable bus in this Redis, if there is one.
    pub stream: Option<DurableBusConfig>,
    /// True when a lost Redis makes the server unready instead of degraded.
    pub is_required: bool,
}

impl RedisConfig {
    /// True when any channel is subscribed to, for events that applications publish there.
    pub fn has_channels(&self) -> bool {
        !self.channels.is_empty() || !self.patterns.is_empty() || !self.tables.is_empty()
    }
}

impl RedisOptions {
    /// Reads the files that the options name; none without a URL.
    pub(super) fn read(
        self,
        bus: &BusOptions,
        tables: &[Table<ChannelTable>],
        secrets: &mut SecretReader<'_>,
    ) -> Result<Option<RedisConfig>, ConfigError> {
        let Some(mut url) = self.url else { return Ok(None) };
        match secrets.password("redis-password-file", self.password_file.as_deref(), REDIS_PASSWORD_VARIABLE)? {
            Some(password) => url = url.with_password(&password),
            None if url.is_redacted() => secrets.warn_of_redacted("redis-url", "redis-password-file"),
            None => {}
        }
        let refused = |option: &str, reason: String| {
            let setting = secrets.settings.get(option).to_string();
            ConfigError::Value { setting, reason }
        };
        let read_ca = |path: &Path| std::fs::read(path).map_err(|error| refused("redis-tls-ca", error.to_string()));
        let tls_ca = self.tls_ca.as_deref().map(read_ca).transpose()?;
        let address = RedisAddress::new(url.expose(), tls_ca.as_deref()).map_err(|error| match error {
            AddressError::Ca(_) => refused("redis-tls-ca", error.to_string()),
            AddressError::Url(_) | AddressError::Insecure => refused("redis-url", error.to_string()),
        })?;
        let stream = bus.of(BusKind::RedisStream);
        // A durable bus needs no channel; the default is for servers that Fanfare replaces.
        let is_without_channels = bus.is_durable() && !secrets.settings.get("redis-channel").is_explicit();
        let config = RedisConfig {
            stream,
            url,
            tls_ca,
            address,
            tables: tables.iter().map(|table| table.values.clone()).collect(),
            channels: if is_without_channels { Vec::new() } else { self.channels },
            patterns: self.patterns,
            payload: self.payload,
            bus: self.bus,
            copied_channels: self.copied_channels,
            is_required: self.ready_requires.contains(&RequiredSource::Redis),
        };
        if bus.is_durable() && config.stream.is_none() && !config.has_channels() {
            let url = secrets.settings.get("redis-url");
            secrets.warnings.push(format!("{url} has no effect: beside this bus, no channel is read but those named"));
        }
        Ok(Some(config))
    }
}
