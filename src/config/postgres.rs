//! The PostgreSQL that has the bus, or publishes to it: reads its password and certificates.

use std::path::PathBuf;

use clap::Args;

use super::bus::{BusKind, BusOptions, DurableBusConfig};
use super::{ConfigError, POSTGRES_PASSWORD_VARIABLE, PostgresUrl, Secret, SecretReader};

/// The options about PostgreSQL as given; [`PostgresConfig`] is what remains of them when it is used.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "PostgreSQL")]
pub(super) struct PostgresOptions {
    /// The PostgreSQL that has the bus, or whose transactions publish to a bus in Redis: postgres://user@host:5432/database,
    /// with ?sslmode=require for TLS
    ///
    /// A password in it is never shown, but arguments are visible to every user of the host: prefer the environment,
    /// or --postgres-password-file.
    #[arg(id = "postgres-url", long, value_name = "URL")]
    pub(super) url: Option<PostgresUrl>,

    /// A file whose first line is the password for PostgreSQL; FANFARE_POSTGRES_PASSWORD holds the password itself
    #[arg(id = "postgres-password-file", long, value_name = "FILE")]
    password_file: Option<PathBuf>,

    /// A file of PEM certificates to verify PostgreSQL with over TLS, instead of this host's own
    #[arg(id = "postgres-tls-ca", long, value_name = "FILE")]
    tls_ca: Option<PathBuf>,
}

/// The PostgreSQL that has the bus, or publishes to it.
#[derive(Clone, Debug)]
pub struct PostgresConfig {
    /// Where it is.
    pub url: PostgresUrl,
    /// The password, if it is not in the URL.
    pub password: Option<Secret>,
    /// The PEM certificates to trust for it over TLS; none: this host's.
    pub tls_ca: Option<Vec<u8>>,
    /// The bus in it; none: what is published there goes onto another bus.
    pub bus: Option<DurableBusConfig>,
}

impl PostgresOptions {
    /// Reads the files that the options name; none without a URL.
    pub(super) fn read(
        self,
        bus: &BusOptions,
        secrets: &mut SecretReader<'_>,
    ) -> Result<Option<PostgresConfig>, ConfigError> {
        let Some(url) = self.url else { return Ok(None) };
        let bus = bus.of(BusKind::Postgres);
        let file = self.password_file.as_deref();
        let password = secrets.password("postgres-password-file", file, POSTGRES_PASSWORD_VARIABLE)?;
        if password.is_none() && url.is_redacted() {
            secrets.warn_of_redacted("postgres-url", "postgres-password-file");
        }
        let tls_ca = self.tls_ca.as_deref().map(std::fs::read).transpose().map_err(|error| ConfigError::Value {
            setting: secrets.settings.get("postgres-tls-ca").to_string(),
            reason: error.to_string(),
        })?;
        Ok(Some(PostgresConfig { url, password, tls_ca, bus }))
    }
}
