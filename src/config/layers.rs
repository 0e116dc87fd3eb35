//! Layers: flag over environment over file over credential over default, option by option, as text.
//!
//! The declarations in `options` are the only list of options. This module takes names, defaults and headings from
//! them, keeps the values of every layer as text, and parses only the winning texts, once, with the declared parsers.
//! So an error can name the option as the user wrote it, and `--print-config` shows values in the user's own units.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgAction, Command, FromArgMatches};

use super::credentials::Credentials;
use super::file::ConfigFile;
use super::options::Options;
use super::secret::redact_url;
use super::{ConfigError, defaults};

/// The process's environment; passed in, so that tests need not change their own.
pub type Environment = BTreeMap<String, String>;

/// Flags as typed: an option's name and its texts.
pub type Flags = BTreeMap<String, Vec<String>>;

/// The word that unsets an option without a default, where a lower layer has set it.
pub(super) const OFF: &str = "off";

/// What clap says about a value that is neither true nor false.
const NO_BOOLEAN: &str = "value was not a boolean";

/// The options whose values may hold a secret.
pub(super) const SECRET_OPTIONS: [&str; 2] = ["redis-url", "postgres-url"];

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The command line.
    Flag,
    /// The environment's variable of this name.
    Environment(String),
    /// The configuration file.
    File(PathBuf),
    /// A table of the configuration file, named with its number and the file.
    Table(String),
    /// A systemd credential.
    Credential,
    /// The option is not set, and its default follows this option's value.
    Follows(&'static str),
    /// The option is not set.
    Default,
}

/// One option's winning value, as text.
#[derive(Clone, Debug)]
pub struct Setting {
    /// The option's name, without dashes in front.
    pub name: String,
    /// Where the value came from.
    pub origin: Origin,
    pub(super) heading: String,
    pub(super) is_list: bool,
    pub(super) has_default: bool,
    /// As the layer wrote it.
    pub(super) written: String,
    /// As the option's parser takes it; empty when the option is unset.
    pub(super) texts: Vec<String>,
}

/// Every option with its value's text and origin, in the order in which the help shows them.
#[derive(Clone, Debug)]
pub struct Settings(Vec<Setting>);

impl Settings {
    /// Merges the layers. `file` is the parsed configuration file with its path.
    pub fn merge(flags: &Flags, env: &Environment, file: Option<&ConfigFile>) -> Result<Settings, ConfigError> {
        let (command, credentials) = (command(), Credentials::of(env));
        let file = file.map(ConfigFile::options);
        if let Some(options) = &file {
            options.check_keys(&command)?;
        }
        let settings = command.get_arguments().map(|arg| {
            let below = match file.as_ref().map(|options| options.setting(arg)).transpose()?.flatten() {
                Some(setting) => setting,
                None => credential_setting(arg, &credentials).unwrap_or_else(|| default_setting(arg)),
            };
            Ok(flag_setting(arg, flags).or_else(|| environment_setting(arg, env, &below)).unwrap_or(below))
        });
        let mut settings = settings.collect::<Result<Vec<Setting>, ConfigError>>()?;
        defaults::follow(&mut settings);
        Ok(Settings(settings))
    }

    /// Parses every text with its option's declared parser.
    pub fn read(&self) -> Result<Options, ConfigError> {
        self.read_as(command())
    }

    /// Parses every text with the parser that this command declares for it.
    pub(super) fn read_as<T: FromArgMatches>(&self, command: Command) -> Result<T, ConfigError> {
        // Clap adds the usual defaults.
        let others = self.0.iter().filter(|setting| setting.origin != Origin::Default);
        let args = others.flat_map(|s| s.texts_or_off().iter().map(|text| format!("--{}={text}", s.name)));
        let matches = command.try_get_matches_from(args).map_err(|error| self.explain(&error))?;
        T::from_arg_matches(&matches).map_err(|error| self.explain(&error))
    }

    /// True when each setting means the same in both.
    pub(super) fn have_same_values_as(&self, other: &Settings) -> bool {
        self.iter().zip(other.iter()).all(|(setting, other)| setting.has_same_value_as(other))
    }

    /// Every setting, in an order that is always the same.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Setting> {
        self.0.iter()
    }

    /// The setting of an option that is known to exist.
    pub fn get(&self, name: &str) -> &Setting {
        self.0.iter().find(|setting| setting.name == name).expect("callers name options that are declared")
    }

    /// The effective configuration as a TOML file, each line with its origin.
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        let mut heading = "";
        for setting in &self.0 {
            if setting.heading != heading {
                heading = &setting.heading;
                let _ = writeln!(text, "\n# {heading}"); // writing to a String can't fail
            }
            text.push_str(&setting.to_toml_line());
            text.push('\n');
        }
        text
    }

    /// Turns clap's error about a value into ours: clap gets one argument list without the origins.
    fn explain(&self, error: &clap::Error) -> ConfigError {
        let option = match error.get(ContextKind::InvalidArg) {
            Some(ContextValue::String(usage)) => usage.trim_start_matches('-').split([' ', '=', '[']).next(),
            _ => None,
        };
        let Some(setting) = option.and_then(|name| self.0.iter().find(|s| s.name == name)) else {
            return ConfigError::Contradiction(error.to_string());
        };
        let reason = match (error.kind(), error.get(ContextKind::ValidValue)) {
            (ErrorKind::InvalidValue, Some(ContextValue::Strings(allowed))) if !allowed.is_empty() => {
                format!("allowed is {}", allowed.join(" or "))
            }
            _ => match std::error::Error::source(error).map(ToString::to_string) {
                Some(reason) if reason == NO_BOOLEAN => "allowed is true or false".to_owned(),
                Some(reason) => reason,
                None => "the value is empty; allowed is a text, or to leave the option out".to_owned(),
            },
        };
        ConfigError::Value { setting: setting.to_string(), reason }
    }
}

impl FromIterator<Setting> for Settings {
    fn from_iter<T: IntoIterator<Item = Setting>>(settings: T) -> Settings {
        Settings(settings.into_iter().collect())
    }
}

impl Setting {
    /// True when both mean the same, wherever they come from.
    pub(super) fn has_same_value_as(&self, other: &Setting) -> bool {
        self.name == other.name && self.texts_or_off() == other.texts_or_off()
    }

    /// One value of a list, with the origin of the list.
    pub(super) fn with_only(&self, value: &str) -> Setting {
        Setting { written: value.to_owned(), texts: vec![value.to_owned()], ..self.clone() }
    }

    /// True when any layer sets it.
    pub fn is_explicit(&self) -> bool {
        !matches!(self.origin, Origin::Default | Origin::Follows(_))
    }

    /// The texts, or none when the word `off` unsets the option.
    fn texts_or_off(&self) -> &[String] {
        if self.texts == [OFF] && !self.has_default { &[] } else { &self.texts }
    }

    /// The line for a configuration file; none for an option that is not set.
    pub(super) fn assignment(&self) -> Option<String> {
        let values: Vec<String> = self.texts.iter().map(|text| toml_text(&shown(&self.name, text))).collect();
        let value = match (self.is_list, values.as_slice()) {
            (_, []) => return None,
            (false, [value, ..]) => value.clone(),
            (true, values) => format!("[{}]", values.join(", ")),
        };
        Some(format!("{} = {value}", self.name))
    }

    fn to_toml_line(&self) -> String {
        let Some(assignment) = self.assignment() else { return format!("# {} is not set", self.name) };
        let origin = match &self.origin {
            Origin::Flag => format!("--{}", self.name),
            Origin::Environment(variable) => variable.clone(),
            Origin::File(path) => path.display().to_string().replace(char::is_control, "?"),
            Origin::Table(place) => place.replace(char::is_control, "?"),
            Origin::Credential => "credential".to_owned(),
            Origin::Follows(followed) => format!("default, follows {followed}"),
            Origin::Default => "default".to_owned(),
        };
        format!("{assignment} # {origin}")
    }
}

/// The option and its value as the user wrote them, secrets redacted.
impl std::fmt::Display for Setting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let written = shown(&self.name, &self.written);
        match &self.origin {
            Origin::Flag if written == "true" => write!(f, "--{}", self.name),
            Origin::Flag => write!(f, "--{} {written}", self.name),
            Origin::Environment(variable) => write!(f, "{variable}={written}"),
            Origin::File(path) => write!(f, "{} = {written} in {}", self.name, path.display()),
            Origin::Table(place) => write!(f, "{} = {written} in {place}", self.name),
            Origin::Credential => write!(f, "{} {written} (a credential)", self.name),
            Origin::Follows(followed) => write!(f, "{} {written} (follows {followed})", self.name),
            Origin::Default => write!(f, "{} {written} (the default)", self.name),
        }
    }
}

/// A variable of the systems that Fanfare replaces.
struct FormerVariable {
    variable: &'static str,
    option: &'static str,
    /// Converts its value into texts of the option, given the texts of the layers below.
    texts: fn(&str, &[String]) -> Vec<String>,
}

impl FormerVariable {
    const fn new(variable: &'static str, option: &'static str) -> FormerVariable {
        FormerVariable { variable, option, texts: |value, _| vec![value.to_owned()] }
    }
}

/// `SSE_HOST` is absent on purpose: for the replaced systems it is the public name, and binding to it would open a
/// server that was local.
const FORMER_VARIABLES: [FormerVariable; 5] = [
    FormerVariable { texts: with_port, ..FormerVariable::new("SSE_PORT", "listen") },
    FormerVariable {
        texts: |value, _| vec![format!("{value}ms")],
        ..FormerVariable::new("SSE_RETRY_INTERVAL", "retry")
    },
    FormerVariable::new("SSE_ENDPOINT", "stream-endpoint"),
    FormerVariable::new("REDIS_URL", "redis-url"),
    FormerVariable::new("LOG_LEVEL", "log-level"),
];

/// The listeners of the layers below, with this port for the first TCP listener.
fn with_port(port: &str, below: &[String]) -> Vec<String> {
    let mut listeners = below.to_vec();
    if let Some(first) = listeners.iter_mut().find(|listener| !listener.starts_with("unix:")) {
        let host = first.rsplit_once(':').map_or(first.as_str(), |(host, _)| host);
        *first = format!("{host}:{port}");
    }
    listeners
}

/// Variables whose names are close to an option's variable, and so probably misspelt. Other variables are ignored: an
/// orchestrator may inject `FANFARE_SERVICE_HOST` and similar ones.
pub(super) fn misspelt_variables(env: &Environment) -> Vec<String> {
    let command = command();
    let known: Vec<String> = command
        .get_arguments()
        .map(|arg| variable(arg.get_id().as_str()))
        .chain(super::SECRET_VARIABLES.map(str::to_owned))
        .chain([variable("config")])
        .collect();
    env.keys()
        .filter(|name| name.starts_with("FANFARE_") && !known.contains(name))
        .filter_map(|name| {
            let meant = nearest(name, known.iter().map(String::as_str), 2)?;
            Some(format!("{name} in the environment is no option; did you mean {meant}?"))
        })
        .collect()
}

/// The environment's variable for an option.
pub fn variable(name: &str) -> String {
    format!("FANFARE_{}", name.replace('-', "_").to_ascii_uppercase())
}

/// The options as a separate command, without the rest of the command line.
pub(super) fn command() -> Command {
    Options::declare_on(bare_command())
}

/// A command without any argument, on which options or the keys of a table are declared.
pub(super) fn bare_command() -> Command {
    Command::new("fanfare").no_binary_name(true).disable_help_flag(true)
}

pub(super) fn default_setting(arg: &clap::Arg) -> Setting {
    let texts: Vec<String> = arg.get_default_values().iter().map(|text| text.to_string_lossy().into_owned()).collect();
    Setting {
        name: arg.get_id().to_string(),
        heading: arg.get_help_heading().unwrap_or("Options").to_owned(),
        is_list: matches!(arg.get_action(), ArgAction::Append),
        has_default: !texts.is_empty(),
        written: texts.join(", "),
        texts,
        origin: Origin::Default,
    }
}

fn credential_setting(arg: &clap::Arg, credentials: &Credentials) -> Option<Setting> {
    let path = credentials.for_option(arg.get_id().as_str())?;
    let written = path.to_string_lossy().into_owned();
    Some(Setting { texts: vec![written.clone()], written, origin: Origin::Credential, ..default_setting(arg) })
}

fn flag_setting(arg: &clap::Arg, flags: &Flags) -> Option<Setting> {
    let texts = flags.get(arg.get_id().as_str())?.clone();
    Some(Setting { written: texts.join(", "), texts, origin: Origin::Flag, ..default_setting(arg) })
}

/// An empty variable counts as unset: compose files and unit files leave such variables behind.
fn environment_setting(arg: &clap::Arg, env: &Environment, below: &Setting) -> Option<Setting> {
    let get = |name: &str| env.get(name).filter(|value| !value.is_empty());
    let name = arg.get_id().as_str();
    let own = variable(name);
    let (variable, written, texts) = match get(&own) {
        Some(value) if below.is_list => (own, value, value.split(',').map(|text| text.trim().to_owned()).collect()),
        Some(value) => (own, value, vec![value.clone()]),
        None => {
            let former = FORMER_VARIABLES.iter().find(|former| former.option == name)?;
            let value = get(former.variable)?;
            (former.variable.to_owned(), value, (former.texts)(value, &below.texts))
        }
    };
    Some(Setting { written: written.clone(), texts, origin: Origin::Environment(variable), ..below.clone() })
}

fn shown(name: &str, text: &str) -> String {
    if SECRET_OPTIONS.contains(&name) { redact_url(text) } else { text.to_owned() }
}

/// A text as a TOML value: numbers and truth values bare, everything else quoted.
pub(super) fn toml_text(text: &str) -> String {
    let is_number = text.parse::<i64>().is_ok_and(|number| number.to_string() == text);
    if is_number || matches!(text, "true" | "false") {
        return text.to_owned();
    }
    toml::Value::String(text.to_owned()).to_string()
}

/// The name with the fewest edits, if these are at most `edits_max`.
pub(super) fn nearest<'a>(word: &str, names: impl Iterator<Item = &'a str>, edits_max: usize) -> Option<&'a str> {
    let (edits, name) = names.map(|name| (edits_between(word, name), name)).min()?;
    (edits <= edits_max).then_some(name)
}

/// The Levenshtein distance, in bytes.
fn edits_between(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, right) in b.bytes().enumerate() {
            let above = row[j + 1];
            row[j + 1] = (diagonal + usize::from(left != right)).min(above + 1).min(row[j] + 1);
            diagonal = above;
        }
    }
    row[b.len()]
}
