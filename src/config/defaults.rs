//! Defaults that follow other options: setting one option alone must work, even if its value contradicts the usual
//! default of another option.
//!
//! Invariant: an option that any layer sets never changes. A value that can't be parsed is left for its option's parser
//! to refuse.

use super::layers::{OFF, Origin, Setting};
use super::values::{size, size_text};

/// How the default of one option follows the value of another.
struct Rule {
    option: &'static str,
    follows: &'static str,
    /// The default, from the usual one (empty if there is none) and the followed value; none if the usual one fits.
    default: fn(usual: &str, followed: &str) -> Option<String>,
}

/// Applied in this order: a later rule sees the result of an earlier one.
const RULES: [Rule; 5] = [
    Rule { option: "bus", follows: "redis-url", default: redis },
    Rule { option: "history-bytes", follows: "event-bytes", default: at_least },
    Rule { option: "history-bytes", follows: "history-bytes-total", default: at_most },
    Rule { option: "event-bytes", follows: "history-bytes", default: at_most },
    Rule { option: "history-bytes-total", follows: "history-bytes", default: at_least },
];

/// Adjusts defaults to the options that are set.
pub(super) fn follow(settings: &mut [Setting]) {
    for rule in RULES {
        let find = |name: &str| settings.iter().position(|setting| setting.name == name).expect("rules name options");
        let (option, followed) = (find(rule.option), find(rule.follows));
        let (usual, leader) = (&settings[option], &settings[followed]);
        // Two usual defaults fit together.
        if usual.is_explicit() || leader.origin == Origin::Default {
            continue;
        }
        let [value] = &leader.texts[..] else { continue };
        let usual = usual.texts.first().map_or("", String::as_str);
        if let Some(text) = (rule.default)(usual, value) {
            let setting = &mut settings[option];
            setting.written.clone_from(&text);
            setting.texts = vec![text];
            setting.origin = Origin::Follows(rule.follows);
        }
    }
}

fn redis(_: &str, url: &str) -> Option<String> {
    (url != OFF).then(|| "redis".to_owned())
}

fn at_least(usual: &str, followed: &str) -> Option<String> {
    let (usual, followed) = (size(usual).ok()?, size(followed).ok()?);
    (usual < followed).then(|| size_text(followed))
}

fn at_most(usual: &str, followed: &str) -> Option<String> {
    let (usual, followed) = (size(usual).ok()?, size(followed).ok()?);
    (usual > followed).then(|| size_text(followed))
}

#[cfg(test)]
mod tests {
    use crate::config::{ConfigFile, Environment, Flags, Loaded, Settings};

    /// Lines of the printed configuration with these flags.
    fn check(flags: &[(&str, &str)], expected: &[&str]) {
        let given: Flags = flags.iter().map(|(name, text)| ((*name).to_owned(), vec![(*text).to_owned()])).collect();
        let loaded =
            Loaded::new(&given, None, &Environment::new()).unwrap_or_else(|error| panic!("{flags:?}: {error}"));
        let printed = loaded.to_toml();
        for line in expected {
            assert!(printed.lines().any(|printed| printed == *line), "{flags:?}: {line:?} is not in\n{printed}");
        }
    }

    #[test]
    fn a_default_follows_the_set_option_and_names_it_as_its_origin() {
        check(&[], &["event-bytes = \"256KiB\" # default"]);
        check(&[("history-bytes", "64KiB")], &["event-bytes = \"64KiB\" # default, follows history-bytes"]);
        check(&[("history-bytes", "2GiB")], &["history-bytes-total = \"2GiB\" # default, follows history-bytes"]);
        check(
            &[("event-bytes", "1GiB")],
            &[
                "history-bytes = \"1GiB\" # default, follows event-bytes",
                "history-bytes-total = \"1GiB\" # default, follows history-bytes",
            ],
        );
        check(
            &[("history-bytes-total", "100KiB")],
            &[
                "history-bytes = \"100KiB\" # default, follows history-bytes-total",
                "event-bytes = \"100KiB\" # default, follows history-bytes",
            ],
        );
    }

    #[test]
    fn the_bus_follows_the_redis_that_is_given() {
        check(&[], &["# bus is not set"]);
        check(&[("redis-url", "redis://h")], &["bus = \"redis\" # default, follows redis-url"]);
        check(&[("redis-url", "redis://h"), ("bus", "redis-stream")], &["bus = \"redis-stream\" # --bus"]);
        check(&[("redis-url", "off")], &["# bus is not set"]);
    }

    #[test]
    fn what_is_set_follows_nothing_and_what_goes_together_stays() {
        check(
            &[("event-bytes", "2KiB"), ("history-bytes", "2MiB")],
            &["event-bytes = \"2KiB\" # --event-bytes", "history-bytes = \"2MiB\" # --history-bytes"],
        );
        check(&[("event-bytes", "2KiB")], &["history-bytes-total = \"64MiB\" # default"]);
    }

    #[test]
    fn the_printed_file_loads_to_the_same_values() {
        let flags = Flags::from([("event-bytes".to_owned(), vec!["1GiB".to_owned()])]);
        let first = Settings::merge(&flags, &Environment::new(), None).unwrap();
        let file = ConfigFile::parse("f".as_ref(), &first.to_toml()).unwrap();
        let again = Settings::merge(&Flags::new(), &Environment::new(), Some(&file)).unwrap();
        assert!(first.iter().zip(again.iter()).all(|(first, again)| first.has_same_value_as(again)));
    }
}
