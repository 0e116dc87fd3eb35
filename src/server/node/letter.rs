//! What loops send to each other. A letter is read in the receiver's next turn; letters of one sender keep their order.

use std::sync::Arc;

use crate::event::{EventId, Frame, Topic};
use crate::hub::TopicInfo;
use crate::io::{Peer, Socket, Token};
use crate::protocol::disconnect::Disconnect;
use crate::server::grant::ReadGrant;
use crate::server::transport::acceptor::Reach;
use crate::server::window::{Page, TopicSearch, Window};

/// What one loop tells another.
#[derive(Debug)]
pub(crate) enum Letter {
    /// A connection that the receiver gets; it is counted there already.
    Connection(Accepted),
    /// A question; the receiver replies.
    Ask(Asker, Arc<Question>),
    /// The reply of loop `from` to this question of this request. The request may have a new one meanwhile.
    Reply { from: usize, ticket: Token, question: Arc<Question>, reply: Reply },
    /// Loop `from` has ended this many streams for this request.
    Disconnected { from: usize, ticket: Token, count: usize },
    /// A page of this origin may not read, and that is in the log.
    OriginRefused(String),
    /// A reload is over in the sender.
    Reloaded,
    /// The sender has ended. It replies to nothing that it has not replied to.
    Left(usize),
}

/// A connection that was accepted, and nothing was read of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Accepted {
    pub(crate) socket: Socket,
    pub(crate) peer: Peer,
    /// That of its listener.
    pub(crate) reach: Reach,
}

/// The request that a question is for, and its loop.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asker {
    pub(crate) index: usize,
    pub(crate) ticket: Token,
}

/// What a loop asks others for.
#[derive(Debug)]
pub(crate) enum Question {
    /// That all others leave their figures, for this report.
    Figures(Report),
    /// What all others have about some topics.
    Topics(TopicsAsked),
    /// The beginning of the list of all other loops' topics.
    FirstTopicPages(TopicSearch),
    /// A part of the list of this loop's topics.
    TopicPage(usize, TopicSearch),
    /// A part of this loop's snapshot.
    LatestPage(usize, Window, ReadGrant),
    /// That all others deny these tokens, and end these streams.
    Disconnect(Arc<Disconnect>),
}

/// A report that is built from the figures of all loops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Report {
    Metrics,
    Debug,
}

/// The reply to a question.
#[derive(Debug)]
pub(crate) enum Reply {
    /// The figures are left.
    Figures,
    Topics(TopicsKnown),
    TopicPage(Page<TopicInfo>),
    LatestPage(LatestPage),
}

/// Topics, and the part of the list that they are, if they are listed.
#[derive(Debug)]
pub(crate) struct TopicsAsked {
    pub(crate) names: Vec<Topic>,
    pub(crate) listed: Option<Listed>,
}

/// A part of the list of topics, as loop `index` has it, and where the next part begins.
#[derive(Clone, Debug)]
pub(crate) struct Listed {
    pub(crate) index: usize,
    pub(crate) infos: Vec<TopicInfo>,
    pub(crate) next: Option<usize>,
}

/// What loop `index` has about each topic that was named; none: it does not have it.
#[derive(Debug)]
pub(crate) struct TopicsKnown {
    pub(crate) index: usize,
    pub(crate) infos: Vec<Option<TopicInfo>>,
}

/// A part of a snapshot, and the position at which it was taken.
#[derive(Debug)]
pub(crate) struct LatestPage {
    pub(crate) id: EventId,
    pub(crate) page: Page<(String, Frame)>,
}

impl Reply {
    pub(crate) fn into_topics(self) -> Option<TopicsKnown> {
        if let Reply::Topics(known) = self { Some(known) } else { None }
    }

    pub(crate) fn into_topic_page(self) -> Option<Page<TopicInfo>> {
        if let Reply::TopicPage(page) = self { Some(page) } else { None }
    }

    pub(crate) fn into_latest_page(self) -> Option<LatestPage> {
        if let Reply::LatestPage(page) = self { Some(page) } else { None }
    }
}

impl Question {
    /// The one loop that it is for; none: all others.
    pub(crate) fn recipient(&self) -> Option<usize> {
        match self {
            Question::TopicPage(index, _) | Question::LatestPage(index, ..) => Some(*index),
            Question::Figures(_) | Question::Topics(_) | Question::FirstTopicPages(_) | Question::Disconnect(_) => None,
        }
    }
}

/// A request that waits for other loops' replies.
#[derive(Debug)]
pub(crate) struct Inquiry {
    pub(crate) question: Arc<Question>,
    /// The loops whose reply is missing.
    pub(crate) missing: Vec<usize>,
    pub(crate) replies: Vec<Reply>,
}

impl Inquiry {
    /// Takes the reply of a loop to a question; none: the loop has ended. A late reply may be to an earlier question.
    pub(crate) fn take(&mut self, from: usize, reply: Option<(Arc<Question>, Reply)>) {
        let is_of_it = reply.as_ref().is_none_or(|(question, _)| Arc::ptr_eq(question, &self.question));
        if is_of_it && self.missing.contains(&from) {
            self.missing.retain(|index| *index != from);
            self.replies.extend(reply.map(|(_, reply)| reply));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_reply_to_an_earlier_question_is_not_taken_for_this_one() {
        let question = || Arc::new(Question::Figures(Report::Debug));
        let (earlier, now) = (question(), question());
        let mut inquiry = Inquiry { question: Arc::clone(&now), missing: vec![1, 2], replies: Vec::new() };
        inquiry.take(1, Some((earlier, Reply::Figures)));
        assert_eq!((inquiry.missing.len(), inquiry.replies.len()), (2, 0));
        inquiry.take(1, Some((now, Reply::Figures)));
        inquiry.take(2, None);
        assert_eq!((inquiry.missing.len(), inquiry.replies.len()), (0, 1));
    }
}
