//! A gap as an engine has it: the word of its reason, and its topics as JSON.

use crate::event::Topic;
use crate::sources::bus::Content;
use crate::sources::channel::GapReason;

/// The topics of a gap as its data; '' for all.
pub(super) fn write_topics(topics: &[Topic]) -> String {
    match topics.is_empty() {
        true => String::new(),
        false => serde_json::Value::from_iter(topics.iter().map(Topic::as_str)).to_string(),
    }
}

/// The gap with this reason and this data. It is one of all topics where another version writes something else.
pub(super) fn read(reason: &str, data: &str) -> Result<Content, String> {
    let reason = GapReason::ALL.into_iter().find(|known| known.as_str() == reason).ok_or("it is an unknown gap")?;
    Ok(Content::Gap { reason, topics: read_topics(data) })
}

fn read_topics(data: &str) -> Vec<Topic> {
    let names: Vec<String> = serde_json::from_str(data).unwrap_or_default();
    names.iter().map(|name| Topic::new(name)).collect::<Result<_, _>>().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_topics_of_a_gap_are_read_as_they_are_written_or_are_all() {
        let topics = ["a", "b \"c\"", "ä"].map(|name| Topic::new(name).unwrap());
        assert_eq!(read_topics(&write_topics(&topics)), topics);
        for all in [&write_topics(&[])[..], "[]", "{}", "[1]", "[\"a\",\"\"]", "a", "[\"fanfare:statistics\"]"] {
            assert_eq!(read_topics(all), [], "{all}");
        }
    }
}
