//! Every history of a few operations on a durable bus: two nodes that read it and remember little, a client that moves
//! between them, and an engine that trims, loses its newest entry, and forks, also with the proof that nothing was lost.
//!
//! The engine is a model; the followers and the hubs are the real ones. The checker knows only what was appended and what
//! the client received: nothing twice, nothing out of order, and nothing missing without a gap at or behind its place.
//!
//! `FANFARE_SMALL_SCOPE` is the number of operations: 6, unless it says otherwise.

#[path = "small_scope/stream.rs"]
mod stream;

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use fanfare::event::archive::{ArchivedEntry, PageKey};
use fanfare::event::timeline::Position;
use fanfare::event::{Broadcast, Event, Frame, Naming, RunName, Sequence, Topic};
use fanfare::hub::{Hub, HubLimits, Replay};
use fanfare::sources::bus::follower::{Follower, Step};
use fanfare::sources::bus::{Content, Engine, EngineError, Entry, Page, Receipt, fetch_page};

use stream::{Next, Stream, Wish};

const OPERATIONS: usize = 6;
/// The client has the first two.
const TOPICS: [&str; 3] = ["a", "b", "other"];
const SUBSCRIBED: usize = 2;
/// Entries of a page, and those that a node loads when it starts: so few that both are exceeded.
const PAGE_MAX: usize = 2;
const LOADED_MAX: usize = 2;
/// Events of a topic that a node remembers.
const REMEMBERED_MAX: usize = 1;
const SLOT: u32 = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Append(usize),
    /// The engine keeps only its newest entry.
    Trim,
    /// The engine loses its newest entry, and will fork.
    Lose,
    /// The engine forks, and has everything.
    Move,
    /// A node reads a page.
    Read(usize),
    /// A node loses its memory and loads the newest entries.
    Restart(usize),
    /// The client's node sends it one frame; or the client connects.
    Visit,
    /// The page that the client's stream waits for comes from the bus.
    Fetch,
    Cut,
    /// The client is cut, and will connect to the other node.
    Hop,
}

use Operation::{Append, Cut, Fetch, Hop, Lose, Move, Read, Restart, Trim, Visit};

const ALPHABET: [Operation; 14] = [
    Append(0),
    Append(1),
    Append(2),
    Trim,
    Lose,
    Move,
    Read(0),
    Read(1),
    Restart(0),
    Restart(1),
    Visit,
    Fetch,
    Cut,
    Hop,
];

fn topic(index: usize) -> Topic {
    Topic::new(TOPICS[index]).unwrap()
}

// ---- the engine ----

/// A bus in memory. What was appended stays in `appended`, whatever happens to the entries.
#[derive(Default)]
struct Model {
    entries: Vec<Entry>,
    last: Position,
    is_fork_due: bool,
    appended: Vec<(Position, usize)>,
}

impl Model {
    fn new() -> Model {
        let mut model = Model { is_fork_due: true, ..Model::default() };
        model.check();
        model
    }

    fn push(&mut self, position: Position, content: Content) {
        self.last = position;
        self.entries.push(Entry { position, content });
    }

    fn check(&mut self) {
        if std::mem::take(&mut self.is_fork_due) {
            self.fork(None);
        }
    }

    fn fork(&mut self, follows: Option<Position>) {
        self.push(Position { epoch: self.last.epoch + 1, offset: 0 }, Content::Fork { follows });
    }

    fn move_on(&mut self) -> bool {
        self.check();
        self.fork(Some(self.last));
        true
    }

    fn trim(&mut self) -> bool {
        let surplus = self.entries.len().saturating_sub(1);
        self.entries.drain(..surplus);
        surplus > 0
    }

    fn lose(&mut self) -> bool {
        self.is_fork_due = matches!(self.entries.last(), Some(Entry { content: Content::Event(_), .. }));
        if self.is_fork_due {
            self.entries.pop();
        }
        self.is_fork_due
    }
}

impl Engine for Model {
    fn append(&mut self, contents: &[Content]) -> Result<Vec<Receipt>, EngineError> {
        self.check();
        let receipts = contents.iter().map(|content| {
            let Content::Event(event) = content else { unreachable!("only events are appended here") };
            let position = self.last.next();
            self.push(position, content.clone());
            self.appended.push((position, TOPICS.iter().position(|name| *name == event.topic.as_str()).unwrap()));
            Receipt { position, is_duplicate: false }
        });
        Ok(receipts.collect())
    }

    fn read_after(&mut self, after: Position, entries_max: usize, _: Duration) -> Result<Page, EngineError> {
        self.check();
        let newer = self.entries.iter().filter(|entry| entry.position > after);
        Ok(Page { entries: newer.take(entries_max).cloned().collect(), last: self.last })
    }

    fn read_before(&mut self, before: Option<Position>, entries_max: usize) -> Result<Page, EngineError> {
        self.check();
        let is_before = |entry: &&Entry| before.is_none_or(|before| entry.position < before);
        let mut entries: Vec<_> = self.entries.iter().rev().filter(is_before).take(entries_max).cloned().collect();
        entries.reverse();
        Ok(Page { entries, last: self.last })
    }
}

// ---- a node ----

struct Node {
    follower: Follower,
    hub: Hub,
}

impl Node {
    fn start(engine: &mut Model) -> Node {
        let limits =
            HubLimits { history_events_max: Some(REMEMBERED_MAX), fetch_entries_max: 1000, ..HubLimits::default() };
        let hub = Hub::of_bus(RunName::from_bits(7), limits);
        let mut node = Node { follower: Follower::default(), hub };
        let page = engine.read_before(None, LOADED_MAX).unwrap();
        node.take(page);
        node.hub.set_loaded();
        node
    }

    /// False: there was nothing new.
    fn read(&mut self, engine: &mut Model) -> bool {
        let read = self.follower.read().expect("it has loaded");
        let asks = self.hub.asks();
        let page = engine.read_after(read, PAGE_MAX, Duration::ZERO).unwrap();
        let last = page.last;
        self.take(page);
        if self.follower.read() == Some(last) {
            self.hub.note_end_of_bus(asks);
        }
        self.follower.read() != Some(read)
    }

    fn take(&mut self, page: Page) {
        let mut steps = Vec::new();
        self.follower.take(page, &mut steps);
        for step in steps {
            match step {
                Step::Begin(epoch) => self.hub.begin_epoch(epoch),
                Step::Event(sequence, position, event) => {
                    let frame = Frame::from(format!("event {position}").into_bytes());
                    let broadcast = Broadcast { sequence, topic: event.topic, naming: Naming::Here(None), frame };
                    self.hub.append(broadcast, Duration::ZERO);
                }
                Step::Gap(sequence, _, loss) => {
                    let frame = Frame::from(format!("gap {sequence} {loss:?}").into_bytes());
                    self.hub.append_loss(sequence, None, frame, Duration::ZERO);
                }
                Step::Disconnect(..) => unreachable!("no operation disconnects"),
            }
        }
    }
}

// ---- the client, and what it may conclude ----

struct Client {
    node: usize,
    stream: Option<Stream>,
    id: String,
    /// Through here it has everything, or received a gap; `None`: it was never connected.
    settled: Option<Position>,
    /// The page that its stream waits for.
    wanted: Option<PageKey>,
    /// A page that it fetched begins with a fork.
    has_fetched_fork: bool,
    diary: Vec<String>,
}

type Checked = Result<(), String>;

impl Client {
    /// False: the node does not know yet where the stream starts.
    fn connect(&mut self, nodes: &mut [Node; 2]) -> bool {
        let wish = Wish { replay: Replay::Missed, latest: false, is_paced: false };
        let topics: Vec<_> = (0..SUBSCRIBED).map(topic).collect();
        let opened = Stream::try_open(&mut nodes[self.node].hub, SLOT, &topics, wish, &self.id);
        let Some((stream, preamble)) = opened else { return false };
        self.diary.push(format!("connects to {} with {:?}: {preamble:?}", self.node, self.id));
        if let Some(id) = preamble {
            // Only a client without a past takes the position that it is given.
            self.settled = self.settled.or(Position::parse(&id));
            self.id = id;
        }
        self.stream = Some(stream);
        true
    }

    fn cut(&mut self, nodes: &mut [Node; 2]) -> bool {
        self.wanted = None;
        let stream = self.stream.take();
        let was_open = stream.is_some();
        stream.into_iter().for_each(|stream| stream.close(&mut nodes[self.node].hub));
        was_open
    }

    /// Whether anything came.
    fn visit(&mut self, nodes: &mut [Node; 2], model: &Model) -> Result<bool, String> {
        let Some(stream) = &mut self.stream else { return Ok(self.connect(nodes)) };
        match stream.next(&nodes[self.node].hub) {
            Next::Nothing => Ok(false),
            Next::Page(key) => Ok(self.wanted.replace(key) != Some(key)),
            Next::Closed => Ok(self.cut(nodes)),
            Next::Frame(frame) => {
                self.diary.push(frame.clone());
                self.receive(&frame, &nodes[self.node].hub, model).map(|()| true)
            }
        }
    }

    /// False: it waits for no page.
    fn fetch(&mut self, nodes: &mut [Node; 2], model: &mut Model) -> bool {
        let Some(key) = self.wanted.take() else { return false };
        let mut page = fetch_page(model, key).unwrap();
        for ArchivedEntry { position, topics, frame } in &mut page.entries {
            let kind = if topics.is_empty() { "fork" } else { "event" };
            self.has_fetched_fork |= topics.is_empty();
            *frame = Frame::from(format!("{kind} {position}").into_bytes());
        }
        self.diary.push(format!("{key:?} comes: {page:?}"));
        nodes[self.node].hub.add_page(page);
        true
    }

    fn receive(&mut self, frame: &str, hub: &Hub, model: &Model) -> Checked {
        let settled = self.settled.unwrap_or_default();
        let sequence = |gap: &str| gap.split(' ').next().and_then(|sequence| sequence.parse().ok()).map(Sequence);
        let gap = frame.strip_prefix("gap ").and_then(sequence).map(|sequence| hub.id_of(sequence).to_string());
        if let Some(id) = gap.or(frame.strip_prefix("fork ").map(str::to_owned)) {
            self.id = id;
            let place = Position::parse(&self.id).ok_or("a gap has a position")?;
            if place < settled {
                return Err(format!("a gap at {place}, behind {settled}"));
            }
            self.settled = Some(place);
            return Ok(());
        }
        let position = Position::parse(frame.strip_prefix("event ").unwrap()).unwrap();
        if position <= settled {
            return Err(format!("{position} comes twice or too late, after {settled}"));
        }
        let due = model.appended.iter().filter(|(_, topic)| *topic < SUBSCRIBED);
        if let Some((missing, _)) = due.clone().find(|(due, _)| settled < *due && *due < position) {
            return Err(format!("{missing} is missing before {position}, without a gap"));
        }
        self.id = position.to_string();
        self.settled = Some(position);
        Ok(())
    }

    fn check_complete(&self, model: &Model) -> Checked {
        let kept = |(position, topic): &&(Position, usize)| {
            *topic < SUBSCRIBED && model.entries.iter().any(|entry| entry.position == *position)
        };
        match model.appended.iter().rfind(kept) {
            Some((last, _)) if self.settled < Some(*last) => Err(format!("{last} is missing at the end")),
            _ => Ok(()),
        }
    }
}

// ---- histories ----

/// Lives through a history. False: its last operation had no effect.
fn live(history: &[Operation]) -> Result<bool, String> {
    let mut model = Model::new();
    let mut nodes = [Node::start(&mut model), Node::start(&mut model)];
    let mut client = Client {
        node: 0,
        stream: None,
        id: String::new(),
        settled: None,
        wanted: None,
        has_fetched_fork: false,
        diary: Vec::new(),
    };
    client.connect(&mut nodes);
    let mut gaps_are_due = false;
    let mut had_effect = true;
    let tell = |client: &Client, model: &Model, what| format!("{what}\n{:#?}\n{:?}", client.diary, model.appended);
    for operation in history {
        gaps_are_due |= matches!(operation, Trim | Lose);
        had_effect = match *operation {
            Append(index) => {
                let event = Event::message(topic(index), "");
                model.append(&[Content::Event(event)]).map(|_| true).unwrap()
            }
            Trim => model.trim(),
            Lose => model.lose(),
            Move => model.move_on(),
            Read(node) => nodes[node].read(&mut model),
            Restart(node) => {
                if client.node == node {
                    client.cut(&mut nodes);
                }
                nodes[node] = Node::start(&mut model);
                true
            }
            Visit => client.visit(&mut nodes, &model).map_err(|what| tell(&client, &model, what))?,
            Fetch => client.fetch(&mut nodes, &mut model),
            Cut => client.cut(&mut nodes),
            Hop => {
                client.cut(&mut nodes);
                client.node = 1 - client.node;
                true
            }
        };
    }
    if had_effect {
        while nodes[client.node].read(&mut model) {}
        while client.visit(&mut nodes, &model).map_err(|what| tell(&client, &model, what))?
            || client.fetch(&mut nodes, &mut model)
        {}
        client.check_complete(&model).map_err(|what| tell(&client, &model, what))?;
        // A fetched fork is a gap, and a node that restarts knows no epoch before those that it has loaded.
        let is_restarted = history.iter().any(|operation| matches!(operation, Restart(_)));
        gaps_are_due |= history.contains(&Move) && (is_restarted || client.has_fetched_fork);
        if !gaps_are_due && client.diary.iter().any(|heard| heard.starts_with("gap")) {
            return Err(tell(&client, &model, "a gap, although nothing was lost".to_owned()));
        }
    }
    Ok(had_effect)
}

#[test]
fn every_small_history_of_a_bus_loses_nothing_without_a_gap() {
    let length = std::env::var("FANFARE_SMALL_SCOPE").map_or(OPERATIONS, |text| text.parse().expect("a number"));
    let mut counted = 0u64;
    let mut failures = BTreeMap::<String, (Vec<Operation>, String)>::new();
    let mut histories = vec![Vec::new()];
    while let Some(history) = histories.pop() {
        match live(&history) {
            Ok(false) => continue,
            Ok(true) => counted += 1,
            Err(what) => {
                let kind = what.lines().next().unwrap_or_default().chars().filter(|c| !c.is_ascii_digit()).collect();
                let known = failures.entry(kind).or_insert_with(|| (history.clone(), what.clone()));
                if history.len() < known.0.len() {
                    *known = (history.clone(), what);
                }
                continue;
            }
        }
        if history.len() < length {
            histories.extend(ALPHABET.iter().map(|next| [&history[..], &[*next]].concat()));
        }
    }
    // Past the capture of the test's output: a run that checked nothing is to be seen.
    let _ = writeln!(std::io::stderr(), "checked {counted} histories of a bus, of up to {length} operations");
    let failed: Vec<_> = failures.values().map(|(history, what)| format!("{history:?}: {what}")).collect();
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
    assert!(length < OPERATIONS || counted > 100_000);
}
