//! What a token permits: the `fanfare` claim, and the patterns of topics in it.

use serde::{Deserialize, Serialize};

/// What a token permits: the `fanfare` claim as it is in a token. What it does not name is not granted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Grants {
    /// Topics to subscribe to, and whose state may be read.
    #[serde(skip_serializing_if = "Patterns::is_empty")]
    pub subscribe: Patterns,
    /// Topics to publish to.
    #[serde(skip_serializing_if = "Patterns::is_empty")]
    pub publish: Patterns,
    /// Debug view, metrics, list of topics, the server's statistics, and ending others' streams.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub operator: bool,
}

/// Patterns of topics: a name, which means only that topic, or the beginning of names followed by a `*`. A `*` anywhere
/// else is an ordinary character, so only the end of a pattern can make it cover more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Patterns(Vec<String>);

impl Patterns {
    /// These patterns.
    pub fn new<T: Into<String>>(patterns: impl IntoIterator<Item = T>) -> Patterns {
        Patterns(patterns.into_iter().map(Into::into).collect())
    }

    /// True if one of them covers the topic of this name.
    pub fn cover(&self, topic: &str) -> bool {
        self.0.iter().any(|pattern| match pattern.strip_suffix('*') {
            Some(beginning) => topic.starts_with(beginning),
            None => topic == pattern,
        })
    }

    /// True if they cover nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A naive version: tries every way to match the topic with the pattern, with any text for a final `*`.
    fn covers_naively(pattern: &str, topic: &str) -> bool {
        let (pattern, topic): (Vec<_>, Vec<_>) = (pattern.chars().collect(), topic.chars().collect());
        match pattern.split_last() {
            Some(('*', beginning)) => (0..=topic.len()).any(|end| topic[..end] == *beginning),
            _ => pattern == topic,
        }
    }

    proptest! {
        #[test]
        fn a_pattern_covers_the_same_topics_as_a_naive_matcher(pattern in "[ab.*é]{0,6}", topic in "[ab.*é]{0,6}") {
            let patterns = Patterns::new([pattern.as_str()]);
            prop_assert_eq!(patterns.cover(&topic), covers_naively(&pattern, &topic));
        }

        #[test]
        fn a_name_covers_itself_alone_and_its_beginnings_cover_it(name in "[a-z.:/]{1,10}", more in "[a-z.:/*]{1,3}") {
            let exact = Patterns::new([name.as_str()]);
            prop_assert!(exact.cover(&name));
            let longer = format!("{name}{more}");
            prop_assert!(!exact.cover(&longer) && !exact.cover(&name[..name.len() - 1]));
            let beginning = |text: &str| Patterns::new([format!("{text}*")]);
            prop_assert!(beginning(&name).cover(&longer) && !beginning(&longer).cover(&name));
        }

        #[test]
        fn several_patterns_cover_what_one_of_them_does(
            patterns in prop::collection::vec("[ab*]{0,3}", 0..4),
            topic in "[ab*]{0,3}",
        ) {
            let any = patterns.iter().any(|pattern| Patterns::new([pattern.as_str()]).cover(&topic));
            prop_assert_eq!(Patterns::new(patterns).cover(&topic), any);
        }
    }

    #[test]
    fn wildcards_count_only_at_the_end_and_names_match_exactly() {
        let check = |pattern: &str, topic: &str, covered: bool| {
            assert_eq!(Patterns::new([pattern]).cover(topic), covered, "{pattern:?} {topic:?}");
        };
        check("orders.*", "orders.7", true);
        check("orders.*", "orders.", true);
        check("orders.*", "orders", false);
        check("orders.*", "orders2", false);
        check("orders.*", "Orders.7", false);
        check("orders.*", "secret/orders.7", false);
        check("*", "anything", true);
        check("*.public", "a.public", false);
        check("user.*.orders", "user.7.orders", false);
        check("a?", "ab", false);
        check("[ab]", "a", false);
        check(".*", "anything", false);
        check("a**", "ab", false);
        check("a**", "a*b", true);
        check("", "a", false);
        assert!(!Patterns::default().cover(""));
    }

    #[test]
    fn the_claim_is_read_as_documented_and_by_default_grants_nothing() {
        let read = |claim: &str| serde_json::from_str::<Grants>(claim);
        assert_eq!(read("{}").unwrap(), Grants::default());
        assert_eq!(read(r#"{"subscribes":["*"],"topics":["*"]}"#).unwrap(), Grants::default());
        let grants = read(r#"{"subscribe":["a","b.*"],"publish":["c"],"operator":true}"#).unwrap();
        assert!(grants.subscribe.cover("b.1") && !grants.subscribe.cover("c"));
        assert!(grants.publish.cover("c") && !grants.publish.cover("a") && grants.operator);
        for bad in [r#"{"subscribe":"*"}"#, r#"{"subscribe":[1]}"#, r#"{"operator":"true"}"#, r#"["*"]"#, "null"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
