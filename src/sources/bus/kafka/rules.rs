//! Judges whether a topic is fit for a bus. Pure.

use crate::sources::bus::findings::{Finding, note, ok, problem};
use crate::sources::bus::kafka::KafkaBusSettings;
use crate::sources::bus::kafka::topic::{Topic, creating_command};
use crate::sources::kafka::OVERHEAD_BYTES;

/// What a topic without `max.message.bytes` takes.
const MESSAGE_BYTES_DEFAULT: u64 = 1_048_588;

impl Topic {
    /// What is the case, and what it means. A problem keeps a node from using the topic.
    pub(super) fn findings(&self, settings: &KafkaBusSettings) -> Vec<Finding> {
        let command = creating_command(&settings.address.brokers, &settings.topic, settings.replicas);
        let mut findings = vec![match self.partitions {
            None => problem("topic", "there is no such topic".to_owned(), &command),
            Some(1) => ok("topic", format!("{}, one partition", settings.topic)),
            Some(count) => problem(
                "topic",
                format!("it has {count} partitions: a bus has one, or there would be no order"),
                &format!("use another topic; {command}"),
            ),
        }];
        if self.partitions != Some(1) {
            return findings;
        }
        findings.push(self.replication(settings));
        match &self.settings {
            None => {}
            Some(Err(error)) => findings.push(note(
                "settings",
                format!("they can't be read ({error}), so compaction and unclean leader election are not noticed"),
                "allow DescribeConfigs on the topic",
            )),
            Some(Ok(_)) => findings.extend([
                self.compaction(),
                self.insync(settings),
                self.elections(settings),
                self.message_bytes(settings),
                self.retention(),
            ]),
        }
        if settings.address.shows_password() {
            let text = "plain without TLS: every host on the way can read the password".to_owned();
            findings.push(note("login", text, "--kafka-tls, or --kafka-sasl scram-sha-512"));
        }
        findings
    }

    fn setting(&self, name: &str) -> Option<&str> {
        self.settings.as_ref()?.as_ref().ok()?.get(name).map(String::as_str)
    }

    fn replication(&self, settings: &KafkaBusSettings) -> Finding {
        const SUBJECT: &str = "replicas";
        match (self.replicas, self.in_sync) {
            (0 | 1, _) => loss(
                settings,
                SUBJECT,
                "one: when its broker's disk is lost, so is the bus".to_owned(),
                "create the topic with --replication-factor 3",
            ),
            (count, in_sync) if in_sync < count => {
                note(SUBJECT, format!("{count}, of which {in_sync} have everything"), "see why the others are behind")
            }
            (count, _) => ok(SUBJECT, format!("{count}, all of which have everything")),
        }
    }

    fn compaction(&self) -> Finding {
        match self.setting("cleanup.policy") {
            Some(policy) if policy.contains("compact") => problem(
                "cleanup",
                format!("cleanup.policy {policy}: compaction deletes events that nodes have not read"),
                "cleanup.policy=delete",
            ),
            policy => ok("cleanup", format!("cleanup.policy {}", policy.unwrap_or("delete"))),
        }
    }

    fn insync(&self, settings: &KafkaBusSettings) -> Finding {
        const SUBJECT: &str = "in sync";
        let least = self.setting("min.insync.replicas").unwrap_or("1");
        match least.parse::<usize>() {
            Ok(0 | 1) | Err(_) => loss(
                settings,
                SUBJECT,
                format!(
                    "min.insync.replicas {least}: what only the leader has is lost with it, though it was answered 202"
                ),
                "min.insync.replicas=2",
            ),
            Ok(least) if least >= self.replicas => note(
                SUBJECT,
                format!(
                    "min.insync.replicas {least} of {} replicas: with any of them away, nothing is published",
                    self.replicas
                ),
                "one replica more",
            ),
            Ok(least) => {
                ok(SUBJECT, format!("min.insync.replicas {least}: a 202 survives the loss of {} brokers", least - 1))
            }
        }
    }

    fn elections(&self, settings: &KafkaBusSettings) -> Finding {
        const SUBJECT: &str = "elections";
        match self.setting("unclean.leader.election.enable") {
            Some("true") => loss(
                settings,
                SUBJECT,
                "unclean leader election: a leader that lacks events takes them back, and may reuse their places"
                    .to_owned(),
                "unclean.leader.election.enable=false",
            ),
            _ => ok(SUBJECT, "only a replica that has everything becomes the leader".to_owned()),
        }
    }

    fn message_bytes(&self, settings: &KafkaBusSettings) -> Finding {
        const SUBJECT: &str = "events";
        let most = self.setting("max.message.bytes").and_then(|bytes| bytes.parse().ok());
        let (most, event) = (most.unwrap_or(MESSAGE_BYTES_DEFAULT), settings.limits.data_bytes_max);
        let needed = (event + OVERHEAD_BYTES) as u64;
        match most < needed {
            true => problem(
                SUBJECT,
                format!(
                    "max.message.bytes {most}: brokers would refuse events of {event} bytes, which --event-bytes allows"
                ),
                &format!("max.message.bytes={needed}"),
            ),
            false => ok(SUBJECT, format!("max.message.bytes {most}")),
        }
    }

    fn retention(&self) -> Finding {
        let bound = |name: &str, unit: &str| match self.setting(name) {
            None | Some("-1") => format!("any number of {unit}"),
            Some(bound) => format!("{bound} {unit}"),
        };
        ok("retention", format!("{} and {}", bound("retention.ms", "ms"), bound("retention.bytes", "bytes")))
    }
}

/// Something by which acknowledged events can be lost, which an operator may accept.
fn loss(settings: &KafkaBusSettings, subject: &'static str, text: String, advice: &str) -> Finding {
    match settings.accepts_loss {
        true => note(subject, text, advice),
        false => problem(subject, text, &format!("{advice}, or accept it with --kafka-accept-loss")),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::protocol::publish::PublishLimits;
    use crate::sources::bus::findings::Verdict;
    use crate::sources::kafka::{KafkaAddress, KafkaLogin, KafkaTls};

    fn settings() -> KafkaBusSettings {
        KafkaBusSettings {
            address: KafkaAddress { brokers: "a:1".to_owned(), tls: KafkaTls::Off, login: None },
            topic: "t".to_owned(),
            replicas: 3,
            accepts_loss: false,
            limits: PublishLimits { topic_bytes_max: 1, data_bytes_max: 256 << 10, batch_max: 1 },
            bounds: Arc::default(),
            shared: Arc::default(),
        }
    }

    fn good() -> Topic {
        let settings = [("min.insync.replicas", "2"), ("cleanup.policy", "delete"), ("max.message.bytes", "1048588")];
        let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        Topic { partitions: Some(1), replicas: 3, in_sync: 3, leader: 1, settings: Some(Ok(settings)) }
    }

    fn check_of(settings: &KafkaBusSettings, change: &dyn Fn(&mut Topic), expected: &str) {
        let mut topic = good();
        change(&mut topic);
        let bad = topic.findings(settings).into_iter().filter(|finding| finding.verdict != Verdict::Ok);
        let shown: Vec<_> = bad.map(|finding| format!("{:?} {}", finding.verdict, finding.subject)).collect();
        assert_eq!(shown.join(", "), expected);
    }

    #[test]
    fn each_rule_has_its_finding() {
        let settings = settings();
        let check = |change: &dyn Fn(&mut Topic), expected: &str| check_of(&settings, change, expected);
        let set = |name: &'static str, value: &'static str| {
            move |topic: &mut Topic| {
                let Some(Ok(settings)) = &mut topic.settings else { unreachable!() };
                settings.insert(name.to_owned(), value.to_owned());
            }
        };
        check(&|_| (), "");
        check(&|topic| topic.partitions = None, "Problem topic");
        check(&|topic| topic.partitions = Some(2), "Problem topic");
        check(&|topic| topic.partitions = Some(0), "Problem topic");
        check(&|topic| topic.in_sync = 2, "Note replicas");
        check(&|topic| (topic.replicas, topic.in_sync) = (2, 2), "Note in sync");
        check(&|topic| (topic.replicas, topic.in_sync) = (1, 1), "Problem replicas, Note in sync");
        check(&set("min.insync.replicas", "1"), "Problem in sync");
        check(&set("cleanup.policy", "compact,delete"), "Problem cleanup");
        check(&set("unclean.leader.election.enable", "true"), "Problem elections");
        check(&set("unclean.leader.election.enable", "false"), "");
        check(&set("max.message.bytes", "278528"), "");
        check(&set("max.message.bytes", "278527"), "Problem events");
        check(&|topic| topic.settings = Some(Err("denied".to_owned())), "Note settings");
        check(&|topic| topic.settings = None, "");
    }

    #[test]
    fn a_loss_may_be_accepted_and_compaction_may_not() {
        let login = KafkaLogin { user: "u".to_owned(), password: "p".to_owned(), mechanism: "PLAIN" };
        let address = KafkaAddress { login: Some(login), ..settings().address };
        let settings = KafkaBusSettings { accepts_loss: true, address, ..settings() };
        let values =
            [("min.insync.replicas", "1"), ("cleanup.policy", "compact"), ("unclean.leader.election.enable", "true")];
        let values = values.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let change = |topic: &mut Topic| {
            *topic = Topic { replicas: 1, in_sync: 1, settings: Some(Ok(values.clone().into())), ..topic.clone() };
        };
        check_of(&settings, &change, "Note replicas, Problem cleanup, Note in sync, Note elections, Note login");
    }
}
