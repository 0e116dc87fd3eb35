//! `fanfare disconnect` as typed.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args};
use ipnet::IpNet;

use crate::config::{duration_within, topic};
use crate::event::Topic;

/// Within the longest time that the server keeps a denial.
const FOR_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

const DISCONNECT_HELP: &str = "\
Ends the streams that match all given options (--subject or --token-id, --topic, --address), on every node that \
shares the server's Redis. The tokens of the subject or token id stay denied, since an EventSource would otherwise \
reconnect with its old token at once; with --topic or --address they are not denied. Prints how many streams ended on \
the node that got the request.

Examples:
  fanfare disconnect --subject user-7                  all tokens issued to it until now
  fanfare disconnect --subject user-7 --for 1h         the same, where no token lives longer than an hour
  fanfare disconnect --token-id 5f3a9c                 one token (its jti), until it expires
  fanfare disconnect --topic orders.17                 its clients may reconnect at once
  fanfare disconnect --address 192.0.2.0/24 --topic orders.17
  fanfare disconnect --url unix:/run/fanfare/admin.sock --subject user-7

FANFARE_OPERATOR_TOKEN holds the bearer token of an operator; no flag does, since every user of a host sees its arguments. \
The admin listener takes none. Exit codes: 0 done, 1 refused, failed, or not done on every node, 2 wrong usage.";

/// `fanfare disconnect`.
#[derive(Args, Clone, Debug)]
#[command(after_help = DISCONNECT_HELP, group = ArgGroup::new("streams").required(true).multiple(true))]
pub struct DisconnectArgs {
    /// Streams of tokens of this subject (sub); those issued until now stay denied
    #[arg(long, value_name = "TEXT", group = "streams", conflicts_with = "token_id")]
    pub subject: Option<String>,

    /// Streams of the token with this id (jti); it stays denied
    #[arg(long, value_name = "ID", group = "streams")]
    pub token_id: Option<String>,

    /// Streams of this topic, perhaps among others
    #[arg(long, value_name = "NAME", group = "streams", value_parser = topic)]
    pub topic: Option<Topic>,

    /// Streams of clients at this address, or in this network
    #[arg(long, value_name = "ADDR", group = "streams", value_parser = address)]
    pub address: Option<String>,

    /// How long the tokens stay denied; 0s: not at all. Unset: until they expire
    #[arg(long = "for", value_name = "TIME", conflicts_with_all = ["topic", "address"],
          value_parser = duration_within(Duration::ZERO, FOR_MAX))]
    pub denied_for: Option<Duration>,

    /// The server: http://, https:// or unix:PATH; the default path is /disconnect
    // As text: clap's own error would show a malformed one with its password or token.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:3001", help_heading = "Server")]
    pub url: String,

    /// A file whose first line is the bearer token
    #[arg(long, value_name = "FILE", help_heading = "Server")]
    pub token_file: Option<PathBuf>,

    /// A PEM file with the certificates to trust over https:// instead of this host's
    #[arg(long, value_name = "FILE", help_heading = "Server")]
    pub ca: Option<PathBuf>,
}

fn address(text: &str) -> Result<String, String> {
    let is_address = text.parse::<IpAddr>().is_ok() || text.parse::<IpNet>().is_ok();
    let advice = || "allowed is an address, or a network such as 10.0.0.0/8 or 2001:db8::/32".to_owned();
    is_address.then(|| text.to_owned()).ok_or_else(advice)
}
