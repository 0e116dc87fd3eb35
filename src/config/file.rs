//! The configuration file: options, and behind them the tables `[[channels]]` and `[[topics]]`.
//!
//! Keeps the values as text, with their place, for the parsers that `options` and `tables` declare. An error never shows a
//! line of the file, since the line may hold a password.

use std::path::{Path, PathBuf};

use clap::Command;

use super::ConfigError;
use super::layers::{Origin, SECRET_OPTIONS, Setting, command, default_setting, nearest};
use super::tables::{self, TABLES_MAX};

/// A configuration file.
#[derive(Debug)]
pub struct ConfigFile {
    path: PathBuf,
    options: toml::Table,
    channels: Vec<toml::Table>,
    topics: Vec<toml::Table>,
}

impl ConfigFile {
    /// Reads and parses the file.
    pub fn read(path: &Path) -> Result<ConfigFile, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| refused(path, source.to_string()))?;
        ConfigFile::parse(path, &text)
    }

    /// Parses a file's text.
    pub fn parse(path: &Path, text: &str) -> Result<ConfigFile, ConfigError> {
        let mut options = toml::from_str(text).map_err(|error: toml::de::Error| {
            let above = error.span().map_or(0, |span| text[..span.start].matches('\n').count());
            let advice = text.lines().nth(above).and_then(self::advice);
            refused(path, format!("line {}: {}", above + 1, advice.as_deref().unwrap_or(error.message())))
        })?;
        let mut take = |name| take_tables(&mut options, name).map_err(|reason| refused(path, reason));
        let (channels, topics) = (take(tables::CHANNELS)?, take(tables::TOPICS)?);
        Ok(ConfigFile { path: path.to_owned(), options, channels, topics })
    }

    /// The options.
    pub(super) fn options(&self) -> Section<'_> {
        let place = self.path.display().to_string();
        Section { place, origin: Origin::File(self.path.clone()), keys: &self.options }
    }

    /// The tables of a kind, in the order of the file.
    pub(super) fn tables(&self, name: &str) -> impl Iterator<Item = Section<'_>> {
        let tables = if name == tables::CHANNELS { &self.channels } else { &self.topics };
        tables.iter().enumerate().map(move |(index, keys)| {
            let place = format!("[[{name}]] {} of {}", index + 1, self.path.display());
            Section { origin: Origin::Table(place.clone()), place, keys }
        })
    }
}

/// Takes the tables of this name out of a file's content.
fn take_tables(content: &mut toml::Table, name: &str) -> Result<Vec<toml::Table>, String> {
    let tables: Vec<toml::Table> = match content.remove(name) {
        None => return Ok(Vec::new()),
        Some(value) => value
            .try_into()
            .map_err(|_| format!("{name} is a name of tables: write each of them below a line [[{name}]]"))?,
    };
    match tables.len() {
        0..=TABLES_MAX => Ok(tables),
        count => Err(format!("there are {count} tables [[{name}]]: allowed are {TABLES_MAX}")),
    }
}

fn refused(path: &Path, reason: String) -> ConfigError {
    ConfigError::File { path: path.to_owned(), reason }
}

/// Keys with their values: the options, or one table.
pub(super) struct Section<'a> {
    /// Where they are, for errors.
    pub(super) place: String,
    origin: Origin,
    keys: &'a toml::Table,
}

impl Section<'_> {
    /// Refuses keys that the command does not declare.
    pub(super) fn check_keys(&self, declared: &Command) -> Result<(), ConfigError> {
        let names: Vec<&str> = declared.get_arguments().map(|arg| arg.get_id().as_str()).collect();
        let Some(key) = self.keys.keys().find(|key| !names.contains(&key.as_str())) else { return Ok(()) };
        let is_option = command().get_arguments().any(|arg| arg.get_id() == key.as_str());
        let advice = match nearest(key, names.iter().copied(), key.len().max(6) / 3) {
            Some(name) => format!("did you mean {name}?"),
            None if is_option => "options stand above the first table".to_owned(),
            None if self.keys[key].is_table() => "options stand above the first line [[...]], in no table".to_owned(),
            None if matches!(self.origin, Origin::Table(_)) => format!("allowed are {}", names.join(", ")),
            None => "the keys are the flags' names: see fanfare serve --help".to_owned(),
        };
        Err(ConfigError::UnknownKey { place: self.place.clone(), key: key.clone(), advice })
    }

    /// The value of an option or key, if there is one.
    pub(super) fn setting(&self, arg: &clap::Arg) -> Result<Option<Setting>, ConfigError> {
        let Some(value) = self.keys.get(arg.get_id().as_str()) else { return Ok(None) };
        let mut setting = Setting {
            written: value.to_string(),
            texts: Vec::new(),
            origin: self.origin.clone(),
            ..default_setting(arg)
        };
        let values = match value {
            toml::Value::Array(values) if setting.is_list => values.as_slice(),
            value => std::slice::from_ref(value),
        };
        for value in values {
            match value {
                toml::Value::String(text) => setting.texts.push(text.clone()),
                toml::Value::Integer(number) => setting.texts.push(number.to_string()),
                toml::Value::Boolean(truth) => setting.texts.push(truth.to_string()),
                _ if setting.is_list => return Err(setting.refused("allowed is a list of texts in quotes")),
                _ => return Err(setting.refused("allowed is one text in quotes, one whole number, or true or false")),
            }
        }
        if setting.texts.is_empty() && setting.has_default {
            return Err(setting.refused("allowed is at least one value, or to leave the key out for the default"));
        }
        Ok(Some(setting))
    }
}

/// Advice for a line whose value is no value of TOML: the option or key, its value, and how to write it.
fn advice(line: &str) -> Option<String> {
    let (name, value) = line.split_once('=')?;
    let (name, value) = (name.trim(), value.split(" #").next().unwrap_or_default().trim());
    let declared = [command(), tables::channel_keys(), tables::topic_keys()];
    let arg = declared.iter().flat_map(Command::get_arguments).find(|arg| arg.get_id() == name)?;
    if value.is_empty() {
        return Some(format!("{name} has no value: write one, or leave the line out"));
    }
    if value.contains(['"', '\'']) {
        return None;
    }
    if SECRET_OPTIONS.contains(&name) {
        return Some(format!("{name} needs quotes around its value")); // the value may hold the password
    }
    match arg.get_value_names().and_then(<[_]>::first).map(clap::builder::Str::as_str) {
        Some("N") => return Some(format!("{name} = {value}: allowed is a whole number, such as 10000")),
        Some("BOOL" | "true") => return Some(format!("{name} = {value}: allowed is true or false")),
        _ => {}
    }
    let quoted: Vec<String> =
        value.trim_matches(['[', ']']).split(',').map(|text| format!("\"{}\"", text.trim())).collect();
    let quoted = if value.starts_with('[') { format!("[{}]", quoted.join(", ")) } else { format!("\"{value}\"") };
    Some(format!("{name} = {value}: a text needs quotes: {name} = {quoted}"))
}

impl Setting {
    /// The error that this value is not allowed.
    pub(super) fn refused(&self, reason: &str) -> ConfigError {
        ConfigError::Value { setting: self.to_string(), reason: reason.to_owned() }
    }
}
