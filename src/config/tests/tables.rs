//! The tables of the file: what they mean, every way to refuse one, the printed file, and a reload.

use super::*;

const TABLES: &str = r#"
[[channels]]
pattern = "rails:*"
topic = "app.{1}"
payload = "envelope"

[[channels]]
pattern = "orders"

[[topics]]
pattern = "prices.*"
history-events = 100
history-bytes = "1MiB"
history-age = "10m"
interval-floor = "200ms"
latest = true

[[topics]]
pattern = "*"
"#;

#[test]
fn tables_are_read_in_their_order_and_printed_as_they_were_written() {
    let loaded = load(&[("redis-url", "redis://h")], &[], TABLES).unwrap();
    assert_eq!(loaded.warnings, [""; 0]);
    let channels = &loaded.config.redis.as_ref().unwrap().tables;
    assert_eq!(channels.iter().map(|table| &*table.pattern).collect::<Vec<_>>(), ["rails:*", "orders"]);
    assert_eq!(channels[0].topic, Some("app.{1}".parse().unwrap()));
    assert_eq!([channels[0].payload, channels[1].payload], [Some(RedisPayload::Envelope), None]);
    let only_topics: Vec<_> = channels.iter().map(ChannelTable::only_topic).collect();
    assert_eq!(only_topics, [None, Topic::new("orders").ok()]);
    let [first, second] = &loaded.config.topics[..] else { panic!("{:?}", loaded.config.topics) };
    assert_eq!((first.history_events_max, first.history_bytes_max), (Some(100), Some(1 << 20)));
    assert_eq!(first.history_age_max, Some(Duration::from_secs(600)));
    assert_eq!((first.interval_floor, first.latest), (Some(Duration::from_millis(200)), true));
    assert_eq!((second.interval_floor, second.latest), (None, false));

    let off = load(&[], &[], "[[topics]]\npattern = \"off\"").unwrap();
    assert_eq!(off.config.topics[0].pattern, "off", "a name as any other");

    let printed = loaded.to_toml();
    assert!(
        printed.contains("\n[[channels]] # [[channels]] 1 of /") && printed.contains("\ntopic = \"app.{1}\"\n"),
        "{printed}"
    );
    let again = load(&[], &[], &printed).unwrap_or_else(|error| panic!("{error}\n{printed}"));
    assert_eq!(format!("{:?}", again.config), format!("{:?}", loaded.config));
}

#[test]
fn a_refused_table_is_named_with_its_number_its_key_and_what_is_allowed() {
    let check_with = |flags: &[(&str, &str)], file: &str, words: &[&str]| {
        let error = load(flags, &[], file).expect_err(words[0]).to_string();
        for word in words {
            assert!(error.contains(word), "{error:?} lacks {word:?}");
        }
    };
    let check = |file: &str, words: &[&str]| check_with(&[("redis-url", "redis://h")], file, words);
    let channel = |keys: &str| format!("[[channels]]\npattern = \"x\"\n[[channels]]\n{keys}");
    let topic = |keys: &str| format!("[[topics]]\npattern = \"x\"\n[[topics]]\n{keys}");
    check(
        &channel("pattern = \"a\"\ntopics = \"b\""),
        &["[[channels]] 2 of /", "unknown key topics; did you mean topic?"],
    );
    check(&channel("pattern = \"a\"\nformat = \"b\""), &["unknown key format; allowed are pattern, topic, payload"]);
    check(&topic("pattern = \"a\"\nlisten = \"b\""), &["[[topics]] 2 of /", "unknown key listen; options stand above"]);
    check(&topic("latest = true"), &["[[topics]] 2 of /", "pattern is missing"]);
    check(&topic("pattern = \"x\""), &["pattern = \"x\" in [[topics]] 2 of /", "table 1 already has that pattern"]);
    check(&channel("pattern = \"x\"\ntopic = \"y\""), &["in [[channels]] 2 of /", "table 1 already has that pattern"]);
    check(&topic("pattern = \"\""), &["pattern = \"\" in [[topics]] 2 of /", "must not be empty"]);
    check(&topic("pattern = \"fanfare:*\""), &["reserved for the server"]);
    check(&topic("pattern = [\"a\"]"), &["pattern = [\"a\"] in [[topics]] 2", "one text in quotes"]);
    for (key, value, allowed) in [
        ("history-events", "0", "from 1 to"),
        ("history-events", "\"off\"", "from 1 to"),
        ("history-bytes", "0", "1KiB to"),
        ("history-age", "\"0s\"", "1s to 365d"),
        ("interval-floor", "\"0s\"", "1ms to 1h"),
        ("interval-floor", "200", "a unit"),
        ("interval-floor", "\"61m\"", "1ms to 1h"),
        ("latest", "\"maybe\"", ""),
    ] {
        let written = format!("{key} = {value}");
        check(&topic(&format!("pattern = \"a\"\n{written}")), &[&format!("{written} in [[topics]] 2 of /"), allowed]);
    }
    let mapped = |pattern: &str, topic: &str| channel(&format!("pattern = \"{pattern}\"\ntopic = \"{topic}\""));
    check(&mapped("a:*:*", "{3}"), &["topic = \"{3}\" in [[channels]] 2 of /", "{3}: the pattern a:*:* has only 2 *"]);
    check(&mapped("a", "{1}"), &["{1}: the pattern a has no *"]);
    check(&mapped(r"a\\*", "{1}"), &[r"{1}: the pattern a\* has no *"]);
    check(&mapped("a*", "b.{x}"), &["topic = \"b.{x}\" in ", "{1} is what the first * of the pattern matches"]);
    check(&mapped("a*", "b.*"), &["a topic's name has no *"]);
    check(&mapped("a*", "fanfare:{1}"), &["reserved for the server"]);
    check(&mapped("a*", ""), &["a topic's name must not be empty"]);
    check(&mapped("a*", r"a\tb"), &["a topic's name holds a character"]);
    check(&channel("pattern = \"fanfare:x\""), &["pattern = \"fanfare:x\" in ", "add the key topic"]);
    check(&channel("pattern = \"a\"\npayload = \"json\""), &["payload = \"json\" in ", "raw or envelope"]);
    check(
        &channel("pattern = \"fanfare:bus\"\ntopic = \"a\""),
        &["pattern = \"fanfare:bus\" in ", "redis-bus", "another channel"],
    );
    check("[channels]\npattern = \"a\"", &["configuration file /", "below a line [[channels]]"]);
    check("topics = \"a\"", &["below a line [[topics]]"]);
    check("[[topics]]\npattern = a*", &["line 2: pattern = a*: a text needs quotes: pattern = \"a*\""]);

    let pattern = |bytes: usize| topic(&format!("pattern = \"{}\"", "x".repeat(bytes)));
    assert!(load(&[], &[], &pattern(1024)).is_ok());
    check(&pattern(1025), &["in [[topics]] 2 of /", "a pattern of topics is longer than 1024 bytes"]);
    let longest = |bytes: usize| mapped("a*", &format!("{{1}}{}", "x".repeat(bytes)));
    assert!(load(&[("redis-url", "redis://h")], &[], &longest(256)).is_ok());
    check(&longest(257), &["[[channels]] 2 of /", "topic-bytes 256", "longer than topics may be"]);
    let name = channel(&format!("pattern = \"{}\"", "x".repeat(257)));
    check(&name, &["pattern = ", "topic-bytes 256", "longer than topics may be"]);
    let small = topic("pattern = \"a\"\nhistory-bytes = \"255KiB\"");
    check(&small, &["history-bytes = \"255KiB\" in [[topics]] 2 of /", "event-bytes 256KiB", "largest event"]);
    let large = topic("pattern = \"a\"\nhistory-bytes = \"65MiB\"");
    check(&large, &["history-bytes = \"65MiB\" in [[topics]] 2 of /", "history-bytes-total 64MiB"]);
    let stream = [("redis-url", "redis://h"), ("bus", "redis-stream")];
    check_with(&stream, &channel("pattern = \"{fanfare}:own\""), &["bus-name fanfare", "belong to the bus"]);
}

#[test]
fn a_file_has_at_most_256_tables_of_a_kind() {
    let tables = |count: usize| (0..count).map(|n| format!("[[topics]]\npattern = \"{n}\"\n")).collect::<String>();
    assert_eq!(load(&[], &[], &tables(TABLES_MAX)).unwrap().config.topics.len(), TABLES_MAX);
    let error = load(&[], &[], &tables(TABLES_MAX + 1)).unwrap_err().to_string();
    assert!(error.contains("there are 257 tables [[topics]]: allowed are 256"), "{error}");
}

#[test]
fn a_table_without_effect_gets_a_warning() {
    let check = |flags: &[(&str, &str)], file: &str, words: &str| {
        let warnings = load(flags, &[], file).unwrap().warnings;
        assert!(warnings.iter().any(|warning| warning.contains(words)), "{warnings:?} lacks {words:?}");
    };
    check(&[], TABLES, "[[channels]] has no effect without redis-url");
    let hidden = "[[topics]]\npattern = \"a*\"\n[[topics]]\npattern = \"ab\"";
    check(&[], hidden, "has no effect: table 1 matches that name and comes first");
}

#[test]
fn a_reload_takes_new_tables_of_topics_and_keeps_those_of_channels() {
    let path = tempfile::NamedTempFile::new().unwrap();
    let write = |text: &str| std::fs::write(path.path(), text).unwrap();
    let env = Environment::from([("REDIS_URL".to_owned(), "redis://h".to_owned())]);
    write(TABLES);
    let loaded = Loaded::new(&Flags::new(), Some(path.path()), &env).unwrap();
    let reload = || loaded.reload(&Flags::new(), Some(path.path()), &env);
    assert_eq!(reload().unwrap().warnings, [""; 0]);
    write(&TABLES.replace("app.{1}", "b.{1}").replace("history-events = 100", "history-events = 7"));
    let reloaded = reload().unwrap();
    assert_eq!(reloaded.warnings, ["the new content of [[channels]] takes effect with a restart"]);
    assert_eq!(reloaded.config.topics[0].history_events_max, Some(7));
    assert_eq!(reloaded.config.redis.as_ref().unwrap().tables[0].topic, Some("app.{1}".parse().unwrap()));
    assert!(reloaded.to_toml().contains("app.{1}"));
    write("[[topics]]\npattern = \"a\"");
    assert_eq!(reload().unwrap().warnings.len(), 1, "the tables of channels are gone");
    write("[[topics]]\npattern = \"a\"\nhistory-bytes = \"65MiB\"");
    assert!(reload().is_err());
}
