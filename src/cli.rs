//! Flags as typed: what the user wrote, before they are merged with files, environment and defaults.
//!
//! The options of `fanfare serve` are declared in [`crate::config`], which also parses their values. Here they are only
//! collected as text, because a flag and a file's value are compared by precedence before either is parsed. The client
//! commands have no layers: clap parses them completely.

mod bus;
mod disconnect;
mod health;
mod token;
mod tune;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValue, StringValueParser, TypedValueParser};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use clap_complete::Shell;

use crate::config::{
    COUNT_MAX, ClientListener, Flags, Options, RedisPayload, count_within, duration_within, number_within, topic,
};
use crate::doctor::profile::Part as SysctlPart;
use crate::event::{EventId, EventType, Topic};

pub use bus::{BusAction, BusArgs, BusPlace, CheckArgs, HoldArgs, InstallArgs};
pub use disconnect::DisconnectArgs;
pub use health::HealthArgs;
pub use token::TokenArgs;
pub use tune::TuneArgs;

/// The whole command line.
#[derive(Debug, Parser)]
#[command(name = "fanfare", version, after_help = CLI_HELP)]
#[command(about = "A Server-Sent Events fan-out server, and its tools")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// Reads the command line.
    pub fn read(args: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
        let matches = command().try_get_matches_from(args)?;
        Cli::from_arg_matches(&matches)
    }
}

/// The command line. Options of numbers, times and sizes accept values that begin with a hyphen: otherwise clap takes
/// the -5 of `--max-connections -5` for an option, and its error does not name the real mistake.
fn command() -> clap::Command {
    const OF_NUMBERS: [&str; 3] = ["N", "TIME", "SIZE"];
    let takes_number = |arg: &Arg| {
        let names = arg.get_value_names().unwrap_or_default();
        !arg.is_positional() && names.iter().any(|name| OF_NUMBERS.contains(&name.as_str()))
    };
    let with_hyphens = move |arg: Arg| if takes_number(&arg) { arg.allow_hyphen_values(true) } else { arg };
    // The commands of fanfare bus are one level deeper.
    let in_args = move |command: clap::Command| command.mut_args(with_hyphens);
    Cli::command().mut_subcommands(move |command| in_args(command).mut_subcommands(in_args))
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the server
    // Else the usage under an error would name only the options that were typed.
    #[command(after_help = SERVE_HELP, override_usage = "fanfare serve [OPTIONS]")]
    Serve(ServeArgs),
    /// Print a stream's events, reconnecting as a browser does
    #[command(after_help = SUBSCRIBE_HELP)]
    Subscribe(SubscribeArgs),
    /// Publish events over HTTP or through Redis
    #[command(after_help = PUBLISH_HELP)]
    Publish(PublishArgs),
    /// End streams by subject, token, topic or address
    Disconnect(DisconnectArgs),
    /// Ask a server whether it works
    Health(HealthArgs),
    /// Make a JSON Web Token for a subscriber, a publisher or an operator
    Token(TokenArgs),
    /// Measure a server under very many subscribers, and check every event
    Load(Box<crate::load::args::LoadArgs>),
    /// List what this host is short of for many connections, and print each fix
    #[command(after_help = DOCTOR_HELP)]
    Doctor(DoctorArgs),
    /// Raise this host's kernel settings for many connections
    Tune(TuneArgs),
    /// Install and examine a durable bus in a Redis stream
    Bus(BusArgs),
    /// Print a shell's completions
    #[command(after_help = COMPLETIONS_HELP)]
    Completions(CompletionsArgs),
    /// Write the manual pages, one for each command, into a folder
    Man(ManArgs),
}

const CLI_HELP: &str = "\
Try it:
  fanfare serve --dev                                 live statistics of this host
  fanfare subscribe localhost:3001/dashboard/stream   what it sends
  fanfare publish dashboard_updates 'hello'           one more event

Exit codes: 0 done, 1 failed, 2 wrong usage or configuration.";

const SERVE_HELP: &str = "\
Every option can also be set in the file of --config, under its name without the dashes, and in the environment, as \
FANFARE_ followed by its name in capitals (FANFARE_REDIS_URL; lists with commas). A flag overrides the environment, \
and the environment overrides the file. The word off unsets an option that has no default. Times are written 500ms, \
3s, 5m or 1h; sizes 512, 64KiB, 1MiB or 10MB.

Also read, with a lower priority than the FANFARE_ names: SSE_PORT (the port), SSE_ENDPOINT, SSE_RETRY_INTERVAL \
(milliseconds), REDIS_URL, LOG_LEVEL. SSE_HOST is a public name: it never sets the address to bind.

Examples:
  fanfare serve --dev
  fanfare serve --redis-url redis://127.0.0.1:6379 --redis-channel dashboard_updates
  fanfare serve --listen unix:/run/fanfare/fanfare.sock --admin-listen 127.0.0.1:9001
  fanfare serve --config /etc/fanfare/fanfare.toml --print-config";

const SUBSCRIBE_HELP: &str = "\
Examples:
  fanfare subscribe http://127.0.0.1:3001/dashboard/stream
  fanfare subscribe localhost:3001 --topic orders --topic payments
  fanfare subscribe localhost:3001 --topic orders --json | jq .data
  fanfare subscribe localhost:3001 --topic orders --count 1 --data-only
  fanfare subscribe unix:/run/fanfare/fanfare.sock:/dashboard/stream

FANFARE_TOKEN holds a bearer token; no flag does, since every user of a host sees its arguments.";

const PUBLISH_HELP: &str = "\
Examples:
  fanfare publish orders 'order 17 was shipped'
  fanfare publish orders '{\"order\": 17}' --json --event shipped
  tail -F orders.log | fanfare publish orders -
  fanfare publish --redis-url redis://127.0.0.1:6379 orders 'order 17 was shipped'

FANFARE_PUBLISH_TOKEN holds the bearer token, FANFARE_REDIS_PASSWORD the password for Redis; no flag does, since \
every user of a host sees its arguments.";

const DOCTOR_HELP: &str = "\
Reads limits, sysctls, memory, cgroup limits, the unit of systemd and the queues of the network interfaces; changes \
nothing. Exit codes: 0 nothing is short, 1 something is, 2 wrong usage, or a host that can't be read.
What a durable bus needs of its engine is examined by fanfare bus check.

Examples:
  fanfare doctor
  fanfare doctor --connections 1000000 --json
  fanfare doctor --listen 127.0.0.1:3001      a proxy on this host connects there
  sudo nsenter --target PID --net fanfare doctor --root /proc/PID/root      a container, seen from its host";

const COMPLETIONS_HELP: &str = "\
Examples:
  fanfare completions bash > ~/.local/share/bash-completion/completions/fanfare
  fanfare completions zsh > ~/.zfunc/_fanfare
  fanfare completions fish > ~/.config/fish/completions/fanfare.fish

The Debian package and make install bring them along.";

/// `fanfare serve` as typed.
#[derive(Clone, Debug)]
pub struct ServeArgs {
    /// The configuration file.
    pub config: Option<PathBuf>,
    /// Print the effective configuration instead of running.
    pub print_config: bool,
    /// Print a commented configuration file instead of running.
    pub print_template: bool,
    /// The options given, as text.
    pub flags: Flags,
}

impl Args for ServeArgs {
    fn augment_args(command: clap::Command) -> clap::Command {
        let config = Arg::new("config")
            .long("config")
            .value_name("FILE")
            .value_parser(clap::value_parser!(PathBuf))
            .help("A TOML file of options, whose keys are the flags' names, and of tables; also from FANFARE_CONFIG")
            .help_heading("Configuration");
        let print_config = Arg::new("print-config")
            .long("print-config")
            .action(ArgAction::SetTrue)
            .help("Print the effective configuration, and where each value came from, and exit")
            .help_heading("Configuration");
        let print_template = Arg::new("print-template")
            .long("print-template")
            .action(ArgAction::SetTrue)
            .help("Print a configuration file with every option, its meaning and its default, and exit")
            .help_heading("Configuration");
        let mut command = Options::declare_on(command.args([config, print_config, print_template]));
        for name in option_names() {
            command = command.mut_arg(name, |arg| {
                let possible_values = arg.get_possible_values();
                arg.value_parser(AsTyped { possible_values })
            });
        }
        command
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        ServeArgs::augment_args(command)
    }
}

impl FromArgMatches for ServeArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<ServeArgs, clap::Error> {
        let typed = |name: &String| matches.value_source(name) == Some(ValueSource::CommandLine);
        let texts = |name: &str| matches.get_many::<String>(name).unwrap_or_default().cloned().collect();
        Ok(ServeArgs {
            config: matches.get_one("config").cloned(),
            print_config: matches.get_flag("print-config"),
            print_template: matches.get_flag("print-template"),
            flags: option_names().into_iter().filter(typed).map(|name| (name.clone(), texts(&name))).collect(),
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = ServeArgs::from_arg_matches(matches)?;
        Ok(())
    }
}

fn option_names() -> Vec<String> {
    let command = Options::declare_on(clap::Command::new("serve"));
    command.get_arguments().map(|arg| arg.get_id().to_string()).collect()
}

/// Takes any text, while help and completions still show the values that the option's own parser allows.
#[derive(Clone)]
struct AsTyped {
    possible_values: Vec<PossibleValue>,
}

impl TypedValueParser for AsTyped {
    type Value = String;

    fn parse_ref(
        &self,
        command: &clap::Command,
        arg: Option<&Arg>,
        value: &std::ffi::OsStr,
    ) -> Result<String, clap::Error> {
        StringValueParser::new().parse_ref(command, arg, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(self.possible_values.iter().cloned()))
    }
}

/// `fanfare subscribe`.
#[derive(Args, Clone, Debug)]
pub struct SubscribeArgs {
    /// The stream: http://, https:// or unix:PATH:/events; the default scheme is http, the default path /events
    // As text, here and below: clap's own error would show a malformed one with its password or token.
    #[arg(value_name = "URL")]
    pub url: String,

    /// A topic to subscribe to; repeatable
    #[arg(long = "topic", value_name = "NAME", value_parser = topic)]
    pub topics: Vec<Topic>,

    /// Resume after this event
    #[arg(long, value_name = "ID")]
    pub last_event_id: Option<String>,

    /// A header to send; repeatable
    // As text, for the same reason.
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    pub headers: Vec<String>,

    /// A file whose first line is a bearer token
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,

    /// A PEM file with the certificates to trust over https:// instead of this host's
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,

    /// Print each event as one line of JSON
    #[arg(long, conflicts_with = "data_only", help_heading = "Output")]
    pub json: bool,

    /// Print the data alone
    #[arg(long, help_heading = "Output")]
    pub data_only: bool,

    /// Stop after this many events
    #[arg(long, value_name = "N", value_parser = number_within(1, u64::MAX), help_heading = "Output")]
    pub count: Option<u64>,

    /// Treat a stream as lost after this much silence, which must exceed the server's heartbeat. Unset: never
    #[arg(long, value_name = "TIME",
          value_parser = duration_within(Duration::from_secs(1), Duration::from_secs(24 * 3600)))]
    pub idle_timeout: Option<Duration>,

    /// Stop when the stream ends or fails
    #[arg(long)]
    pub no_reconnect: bool,
}

/// `fanfare publish`.
#[derive(Args, Clone, Debug)]
pub struct PublishArgs {
    /// The topic
    #[arg(value_name = "TOPIC", value_parser = topic)]
    pub topic: Topic,

    /// The data; - reads lines from standard input, each an event; empty lines are left out
    #[arg(value_name = "DATA", allow_hyphen_values = true)]
    pub data: String,

    /// The server: http://, https:// or unix:PATH; the default path is /publish
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:3001", conflicts_with = "redis_url")]
    pub url: String,

    /// A file whose first line is the bearer token
    #[arg(long, value_name = "FILE", conflicts_with = "redis_url")]
    pub token_file: Option<PathBuf>,

    /// A PEM file with the certificates to trust over https:// instead of this host's
    #[arg(long, value_name = "FILE", conflicts_with = "redis_url")]
    pub ca: Option<PathBuf>,

    /// The event's type
    #[arg(long, value_name = "TYPE", value_parser = event_type, help_heading = "Event")]
    pub event: Option<EventType>,

    /// The publisher's own id of the event
    #[arg(long, value_name = "ID", value_parser = event_id, help_heading = "Event")]
    pub id: Option<EventId>,

    /// A reconnection time for the clients that receive it
    #[arg(long, value_name = "TIME", help_heading = "Event",
          value_parser = duration_within(Duration::ZERO, Duration::from_secs(24 * 3600)))]
    pub retry: Option<Duration>,

    /// The data is JSON: check it, and send it unchanged
    #[arg(long, help_heading = "Event")]
    pub json: bool,

    /// Publish through this Redis instead, on the channel that is named like the topic
    #[arg(long, value_name = "URL", help_heading = "Redis")]
    pub redis_url: Option<String>,

    /// How the server behind this Redis interprets a message
    #[arg(long, value_name = "FORMAT", default_value = "raw", requires = "redis_url", help_heading = "Redis")]
    pub redis_payload: RedisPayload,

    /// A file whose first line is the password for Redis
    #[arg(long, value_name = "FILE", requires = "redis_url", help_heading = "Redis")]
    pub redis_password_file: Option<PathBuf>,
}

/// `fanfare completions`.
#[derive(Args, Clone, Debug)]
pub struct CompletionsArgs {
    /// The shell
    pub shell: Shell,
}

/// `fanfare man`.
#[derive(Args, Clone, Debug)]
pub struct ManArgs {
    /// The folder; created if it does not exist
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
}

fn event_id(text: &str) -> Result<EventId, String> {
    EventId::of_publisher(text)
        .map_err(|error| format!("an event's id {error}; allowed are 1 to 87 visible ASCII characters"))
}

fn event_type(text: &str) -> Result<EventType, String> {
    EventType::new(text).map_err(|error| format!("an event's type {error}"))
}

/// `fanfare doctor`.
#[derive(Args, Clone, Debug)]
pub struct DoctorArgs {
    /// The subscribers that the host is to hold
    #[arg(long, value_name = "N", default_value = "100000", value_parser = count_within(1, COUNT_MAX))]
    pub connections: u32,

    /// Where the server listens, as for serve; on loopback a proxy needs a local port for each subscriber; repeatable
    #[arg(long, value_name = "ADDR")]
    pub listen: Vec<ClientListener>,

    /// A certificate of the server: is it still valid for two weeks? Repeatable, each with its --tls-key, as for serve
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_certificate: Vec<PathBuf>,

    /// The key of a --tls-certificate: does it belong to it, and can no other user read it?
    #[arg(long, value_name = "FILE", requires = "tls_certificate")]
    pub tls_key: Vec<PathBuf>,

    /// The time that the server takes to shut down: --drain-notice and --drain together
    #[arg(long, value_name = "TIME", default_value = "10s",
          value_parser = duration_within(Duration::ZERO, Duration::from_secs(2 * 3600)))]
    pub drain: Duration,

    /// The service that runs it
    #[arg(long, value_name = "NAME", default_value = "fanfare")]
    pub unit: String,

    /// Examine the /proc and /sys below this folder: a container's root, or a copy from another host
    ///
    /// Limits and cgroup are those of its process 1. No programs are run, so units and interfaces are not examined.
    /// The kernel shows the net.* of the reading process: enter the container's network first.
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub root: PathBuf,

    /// Print the report as JSON
    #[arg(long, conflicts_with = "sysctl", help_heading = "Output")]
    pub json: bool,

    /// Print the sysctl profile of this host instead, or a part of it
    #[arg(long, value_name = "PART", num_args = 0..=1, require_equals = true, default_missing_value = "all",
          help_heading = "Output")]
    pub sysctl: Option<SysctlPart>,
}
