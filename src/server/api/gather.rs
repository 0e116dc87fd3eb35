//! Questions between loops: what a loop replies to another, and the answer to a request once the others have replied.
//!
//! Invariant: without other loops, a question is answered at once. A loop that does not reply in time counts with what it
//! left last.

use super::context::{Outcome, RequestContext};
use super::listing::{answer_topics, latest_page, topic_page};
use super::reports::{TopicView, figures_of, no_such_topic};
use super::{Api, json};
use crate::event::Topic;
use crate::hub::{Hub, TopicInfo};
use crate::io::Io;
use crate::protocol::response::{self, Response};
use crate::server::node::Node;
use crate::server::node::figures::merge_topics;
use crate::server::node::letter::{Question, Reply, TopicsAsked, TopicsKnown};
use crate::server::transport::Transport;
use crate::sources::channel::Inbox;

/// What a loop replies to another; none: it replies later.
pub(crate) fn reply<I: Io>(
    question: &Question,
    transport: &Transport<I>,
    hub: &Hub,
    inbox: &Inbox,
    node: &Node,
) -> Option<Reply> {
    Some(match question {
        Question::Figures(_) => {
            node.member.leave(figures_of(transport, hub, inbox, node));
            Reply::Figures
        }
        Question::Topics(TopicsAsked { names, .. }) => Reply::Topics(known(names, hub, node)),
        Question::FirstTopicPages(search) | Question::TopicPage(_, search) => Reply::TopicPage(topic_page(search, hub)),
        Question::LatestPage(_, window, grant) => Reply::LatestPage(latest_page(*window, grant, hub)),
        Question::Disconnect(_) => return None,
    })
}

fn known(names: &[Topic], hub: &Hub, node: &Node) -> TopicsKnown {
    let infos = names.iter().map(|name| hub.topic(name.as_str())).collect();
    TopicsKnown { index: node.member.index(), infos }
}

impl Api {
    /// The outcome of a request whose question has these replies.
    pub(crate) fn conclude<I: Io>(
        &self,
        question: &Question,
        replies: Vec<Reply>,
        asked: &RequestContext<'_, I>,
        node: &mut Node,
    ) -> Outcome {
        let outcome = match question {
            Question::Figures(report) => self.report(*report, asked, node).map(Outcome::from),
            Question::Topics(TopicsAsked { names, listed }) => {
                let mut all: Vec<_> = replies.into_iter().filter_map(Reply::into_topics).collect();
                all.push(known(names, asked.hub, node));
                Ok(match listed {
                    Some(listed) => answer_topics(listed.clone(), all, asked.hub).into(),
                    None => answer_topic(all).into(),
                })
            }
            Question::FirstTopicPages(search) => {
                let pages: Vec<_> = replies.into_iter().filter_map(Reply::into_topic_page).collect();
                Ok(self.first_topics(search, &pages, asked.hub, node))
            }
            Question::TopicPage(index, _) => match replies.into_iter().find_map(Reply::into_topic_page) {
                Some(page) => Ok(self.complete_topics(*index, page, asked.hub, node)),
                None => Err(no_page()),
            },
            Question::LatestPage(index, ..) => match replies.into_iter().find_map(Reply::into_latest_page) {
                Some(page) => self.answer_snapshot(*index, page, asked, node).map(Outcome::from),
                None => Err(no_page()),
            },
            Question::Disconnect(_) => unreachable!("its answer waits for the broker, too"),
        };
        outcome.unwrap_or_else(Outcome::from)
    }
}

fn answer_topic(all: Vec<TopicsKnown>) -> Response {
    let infos: Vec<TopicInfo> = all.into_iter().flat_map(|of| of.infos).flatten().collect();
    match merge_topics(infos.iter()).first() {
        Some(info) => json(200, &TopicView::of(info)),
        None => no_such_topic(),
    }
}

/// The loop that a page names has ended or hangs.
fn no_page() -> Response {
    response::problem(503, "No page", "the event loop that has this page does not reply; begin again without after")
        .with_header("Retry-After", "1")
}
