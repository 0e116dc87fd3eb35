//! The configuration file as packages install it: every option with its meaning and its default, commented out.
//!
//! Generated from the declarations, so always up to date; with its options uncommented, it has the effect of no file. At its
//! end are examples of tables.

use std::fmt::Write;

use clap::{Arg, Command};

use super::layers::{OFF, command, default_setting, toml_text};
use super::tables::{CHANNELS, TOPICS, channel_keys, topic_keys};

/// Where a comment's line is broken.
const COLUMNS: usize = 100;

const HEAD: &str = "\
The configuration of fanfare serve. What is commented out is the default.

An option that may be given more than once takes a list: redis-channel = [\"orders\", \"prices\"]. Times are written \
500ms, 3s, 5m or 1h; sizes 512, 64KiB, 1MiB or 10MB. The word off unsets an option that has no default. A flag wins over \
the environment (FANFARE_ and the option's name in capitals), and that over this file.

fanfare serve --config FILE --print-config shows what is in force, and refuses what is wrong.";

const ABOUT_CHANNELS: &str = "\
Which channels of Redis are read, and what becomes of their messages: one table for each channel or pattern. Of several \
tables that match a channel, the first one counts; redis-channel and redis-pattern come after them. Tables stand at the \
end of the file, behind all options.";

const ABOUT_TOPICS: &str = "\
What applies to some topics alone, whether their events come from Redis, from the bus or over HTTP. Of several tables \
that match a topic, the first one counts.";

/// The file's text.
pub fn template() -> String {
    let mut text = String::new();
    HEAD.lines().for_each(|paragraph| comment(paragraph, &mut text));
    let mut heading = None;
    for arg in command().get_arguments() {
        if arg.get_help_heading() != heading {
            heading = arg.get_help_heading();
            let _ = writeln!(text, "\n\n# ---- {} ----", heading.unwrap_or_default()); // writing to a String can't fail
        }
        text.push('\n');
        describe(arg, &mut text);
        let assignment = default_setting(arg).assignment();
        let _ = writeln!(text, "#{}", assignment.unwrap_or_else(|| format!("{} = \"{OFF}\"", arg.get_id())));
    }
    describe_table(CHANNELS, ABOUT_CHANNELS, &channel_keys(), &mut text);
    describe_table(TOPICS, ABOUT_TOPICS, &topic_keys(), &mut text);
    text
}

/// Writes an example of a table, with every key.
fn describe_table(name: &str, about: &str, keys: &Command, text: &mut String) {
    let _ = writeln!(text, "\n\n# ---- Tables [[{name}]] ----\n"); // writing to a String can't fail
    comment(about, text);
    let _ = writeln!(text, "\n#[[{name}]]");
    for key in keys.get_arguments() {
        describe(key, text);
        let example = key.get_value_names().and_then(|names| names.first()).expect("each key has an example");
        let _ = writeln!(text, "#  {} = {}", key.get_id(), toml_text(example));
    }
}

/// Writes the help: the option in a line, then the paragraphs of its long help, then the values it takes.
fn describe(arg: &Arg, text: &mut String) {
    let help = arg.get_long_help().or(arg.get_help()).map(ToString::to_string).unwrap_or_default();
    help.lines().for_each(|paragraph| comment(paragraph, text));
    let values = arg.get_possible_values();
    let meanings = values.iter().filter_map(|value| Some((value.get_name(), value.get_help()?)));
    meanings.for_each(|(name, meaning)| comment(&format!("- {name}: {meaning}"), text));
}

/// Writes one paragraph, broken between words.
fn comment(paragraph: &str, text: &mut String) {
    let mut line = "#".to_owned();
    for word in paragraph.split_whitespace() {
        if line.len() + 1 + word.len() > COLUMNS {
            let _ = writeln!(text, "{line}");
            line.truncate(1);
        }
        line.push(' ');
        line.push_str(word);
    }
    let _ = writeln!(text, "{line}");
}
