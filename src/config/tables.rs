//! The tables of the configuration file: `[[channels]]` maps channels of Redis to topics, `[[topics]]` says what applies to
//! some topics alone. Each kind of table is declared here once, as the options are in `options`.
//!
//! A table is for the names that its pattern matches. Of several tables that match a name, the first one counts. So the
//! order of the tables matters, and no two tables of a kind have the same pattern.

use std::fmt::Write;
use std::time::Duration;

use clap::{Args, Command, FromArgMatches};

use super::file::{ConfigFile, Section};
use super::layers::{Setting, Settings, bare_command, default_setting};
use super::options::{RedisPayload, history_age, history_bytes, history_events};
use super::values::{channel, duration_within, pattern_of_topics};
use super::{ConfigError, Origin};
use crate::event::template::Template;
use crate::event::{NameError, Topic, glob};

/// Tables of each kind. The first that matches is searched for each name once, when it appears.
pub const TABLES_MAX: usize = 256;

/// The name of the tables that map channels.
pub(super) const CHANNELS: &str = "channels";
/// The name of the tables about topics.
pub(super) const TOPICS: &str = "topics";

/// Which channels of Redis are read, and what becomes of their messages. The name of a key's value is an example of it, for
/// the template.
#[derive(Args, Clone, Debug)]
pub struct ChannelTable {
    /// A channel to subscribe to, or a pattern of channels as PSUBSCRIBE takes it
    #[arg(id = "pattern", long, value_name = "rails:*", value_parser = channel)]
    pub pattern: String,

    /// The topic of its messages. {1} is what the first * of the pattern matches, {2} the second one, and {0} the
    /// channel's name. Unset: the channel's name
    #[arg(id = "topic", long, value_name = "app.{1}")]
    pub topic: Option<Template>,

    /// The format of its messages, raw or envelope. Unset: as redis-payload
    #[arg(id = "payload", long, value_name = "envelope")]
    pub payload: Option<RedisPayload>,
}

/// What applies to some topics alone, however they are published.
#[derive(Args, Clone, Debug)]
pub struct TopicTable {
    /// A topic, or a pattern of topics in Redis's language
    #[arg(id = "pattern", long, value_name = "prices.*", value_parser = pattern_of_topics)]
    pub pattern: String,

    /// Maximum events that each of these topics remembers. Unset: as for all topics
    #[arg(id = "history-events", long, value_name = "100", value_parser = history_events())]
    pub history_events_max: Option<u32>,

    /// Maximum bytes that each of these topics remembers. Unset: as for all topics
    #[arg(id = "history-bytes", long, value_name = "1MiB", value_parser = history_bytes())]
    pub history_bytes_max: Option<usize>,

    /// How long an event is remembered. Unset: as for all topics
    #[arg(id = "history-age", long, value_name = "10m", value_parser = history_age())]
    pub history_age_max: Option<Duration>,

    /// Deliver to each subscriber at most once per interval, everything pending at once. A stream of several topics has
    /// the longest interval of them
    #[arg(id = "interval-floor", long, value_name = "200ms",
          value_parser = duration_within(Duration::from_millis(1), Duration::from_secs(3600)))]
    pub interval_floor: Option<Duration>,

    /// Deliver only the newest event of each topic, to streams of such topics alone
    #[arg(id = "latest", long, action = clap::ArgAction::Set, value_name = "true", default_value = "false",
          hide_possible_values = true, value_parser = clap::builder::BoolishValueParser::new())]
    pub latest: bool,
}

/// The keys of a table `[[channels]]`, each as an argument.
pub(super) fn channel_keys() -> Command {
    ChannelTable::augment_args(bare_command())
}

/// The keys of a table `[[topics]]`.
pub(super) fn topic_keys() -> Command {
    TopicTable::augment_args(bare_command())
}

/// A table as written, and what it says.
#[derive(Clone, Debug)]
pub struct Table<T> {
    /// Its name and number, and the file.
    place: String,
    settings: Settings,
    /// Its values.
    pub values: T,
}

/// All tables of a file, each kind in the order of the file.
#[derive(Clone, Debug, Default)]
pub struct Tables {
    /// `[[channels]]`.
    pub channels: Vec<Table<ChannelTable>>,
    /// `[[topics]]`.
    pub topics: Vec<Table<TopicTable>>,
}

impl Tables {
    /// Reads the tables of a file, and checks each of them alone.
    pub fn read(file: Option<&ConfigFile>) -> Result<Tables, ConfigError> {
        let Some(file) = file else { return Ok(Tables::default()) };
        let channels = file.tables(CHANNELS).map(|section| Table::read(&section, channel_keys()));
        let topics = file.tables(TOPICS).map(|section| Table::read(&section, topic_keys()));
        let tables = Tables {
            channels: channels.collect::<Result<Vec<Table<ChannelTable>>, _>>()?,
            topics: topics.collect::<Result<Vec<Table<TopicTable>>, _>>()?,
        };
        refuse_repeated(&tables.channels)?;
        refuse_repeated(&tables.topics)?;
        tables.channels.iter().try_for_each(Table::check)?;
        Ok(tables)
    }

    /// The tables as they stand at the end of a configuration file.
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        self.channels.iter().for_each(|table| table.write(CHANNELS, &mut text));
        self.topics.iter().for_each(|table| table.write(TOPICS, &mut text));
        text
    }

    /// The tables that a reload puts in force, and whether others wait for a restart.
    pub(super) fn take_live(&self, newest: Tables) -> (Tables, bool) {
        let is_same = |(table, other): (&Table<_>, &Table<_>)| table.settings.have_same_values_as(&other.settings);
        let are_same =
            self.channels.len() == newest.channels.len() && self.channels.iter().zip(&newest.channels).all(is_same);
        (Tables { channels: self.channels.clone(), topics: newest.topics }, !are_same)
    }
}

impl<T: FromArgMatches> Table<T> {
    fn read(section: &Section<'_>, declared: Command) -> Result<Table<T>, ConfigError> {
        section.check_keys(&declared)?;
        let setting = |arg| {
            let setting = section.setting(arg)?.unwrap_or_else(|| default_setting(arg));
            // No layer below has a value that the word off could unset: it may be a name.
            Ok(Setting { has_default: true, ..setting })
        };
        let settings: Result<Vec<Setting>, ConfigError> = declared.get_arguments().map(setting).collect();
        let settings = Settings::from_iter(settings?);
        if settings.get("pattern").origin == Origin::Default {
            let reason = "pattern is missing: it says for which names the table is".to_owned();
            return Err(ConfigError::Table { place: section.place.clone(), reason });
        }
        let values = settings.read_as(declared)?;
        Ok(Table { place: section.place.clone(), settings, values })
    }
}

impl<T> Table<T> {
    /// The error that the value of a key is not allowed.
    pub(super) fn refused(&self, key: &str, reason: &str) -> ConfigError {
        self.settings.get(key).refused(reason)
    }

    /// A key with its value and its place.
    pub(super) fn shown(&self, key: &str) -> String {
        self.settings.get(key).to_string()
    }

    fn write(&self, name: &str, text: &mut String) {
        let place = self.place.replace(char::is_control, "?");
        let _ = writeln!(text, "\n[[{name}]] # {place}"); // writing to a String can't fail
        for setting in self.settings.iter().filter(|setting| setting.is_explicit()) {
            setting.assignment().into_iter().for_each(|line| _ = writeln!(text, "{line}"));
        }
    }
}

impl Table<ChannelTable> {
    /// Refuses a template that does not fit its pattern, and one that makes no valid topic.
    fn check(&self) -> Result<(), ConfigError> {
        let ChannelTable { pattern, topic, .. } = &self.values;
        let stars = glob::stars(pattern.as_bytes());
        let highest = topic.as_ref().map_or(0, Template::highest_capture);
        if highest > stars {
            let has = if stars == 0 { "no *".to_owned() } else { format!("only {stars} *") };
            return Err(self.refused("topic", &format!("{{{highest}}}: the pattern {pattern} has {has}")));
        }
        let key = if topic.is_some() { "topic" } else { "pattern" };
        let Some(example) = self.values.example() else { return Ok(()) };
        if topic.is_some() && Topic::looks_like_pattern(&example) {
            return Err(self.refused(key, "a topic's name has no *: {1} is what the first * of the pattern matches"));
        }
        match Topic::new(&example) {
            Ok(_) => Ok(()),
            Err(NameError::Reserved) if topic.is_none() => {
                Err(self.refused(key, "as a topic, this name is reserved for the server: add the key topic"))
            }
            Err(error) => Err(self.refused(key, &format!("a topic's name {error}"))),
        }
    }

    /// Refuses topics that are longer than they may be, whatever the channel's name.
    pub(super) fn check_length(&self, topic_bytes_max: usize, limit: &str) -> Result<(), ConfigError> {
        let ChannelTable { topic, .. } = &self.values;
        let shortest = match topic {
            Some(template) if self.values.is_pattern() => Some(template.filled_with("")),
            _ => self.values.example(),
        };
        if shortest.is_none_or(|name| name.len() <= topic_bytes_max) {
            return Ok(());
        }
        let shown = self.shown(if topic.is_some() { "topic" } else { "pattern" });
        Err(ConfigError::Contradiction(format!("{shown} and {limit}: the name is longer than topics may be")))
    }
}

impl ChannelTable {
    /// False for the name of one channel.
    pub fn is_pattern(&self) -> bool {
        glob::is_pattern(&self.pattern)
    }

    /// The topic of all its messages, if there is only one.
    pub fn only_topic(&self) -> Option<Topic> {
        let is_constant = self.topic.as_ref().is_some_and(|template| template.constant().is_some());
        let name = self.example().filter(|_| is_constant || !self.is_pattern())?;
        Topic::new(&name).ok()
    }

    /// The name of a topic that its messages may have, if the table says anything about that.
    fn example(&self) -> Option<String> {
        match &self.topic {
            None => (!self.is_pattern()).then(|| self.pattern.clone()),
            Some(template) if self.is_pattern() => Some(template.filled_with("x")),
            Some(template) => Some(template.filled_with(&self.pattern)),
        }
    }
}

/// Refuses a second table with the same pattern.
fn refuse_repeated<T>(tables: &[Table<T>]) -> Result<(), ConfigError> {
    for (index, table) in tables.iter().enumerate() {
        let pattern = |table: &Table<T>| table.settings.get("pattern").texts.clone();
        if let Some(first) = tables[..index].iter().position(|other| pattern(other) == pattern(table)) {
            return Err(table.refused("pattern", &format!("table {} already has that pattern", first + 1)));
        }
    }
    Ok(())
}
