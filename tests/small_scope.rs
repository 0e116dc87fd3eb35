//! Every history of a few operations on the real hub, up to the names of its topics, each followed by every way to resume.
//!
//! Bugs of order and of forgetting have small examples, so small histories are all tried rather than large ones drawn.
//! Three topics remember one event each, so that two events in a topic are enough for a loss. The checker is that of the
//! simulation ([`Ledger`]), which here knows exactly what is remembered, from a model of three lines.
//!
//! Two histories that differ only in the names of their topics are one: the first topic that a history names is a, the
//! next new one b. Operations that can't change anything are left out: a second wait in a row, an aging in which nothing
//! has become old, a visit that brings nothing.
//!
//! `FANFARE_SMALL_SCOPE` is the number of operations: 6, unless it says otherwise. Each one more takes about seven times as
//! long.

#[allow(dead_code, reason = "the simulation uses the rest")]
#[path = "simulation/ledger.rs"]
mod ledger;
#[allow(dead_code, reason = "the simulation uses the rest")]
#[path = "simulation/order.rs"]
mod order;
#[path = "simulation/stand.rs"]
mod stand;
#[path = "small_scope/stream.rs"]
mod stream;

use std::collections::BTreeMap;
use std::io::Write;
use std::rc::Rc;
use std::time::Duration;

use fanfare::event::{Broadcast, EventId, Naming, RunName, Sequence, Topic};
use fanfare::hub::{Appended, Hub, HubLimits, Replay};

use ledger::{Ledger, Opening, Received};
use order::{Bounds, History, Order, Record, Scope};
use stream::{Next, Stream, Wish};

const OPERATIONS: usize = 6;
const TOPICS: [&str; 3] = ["a", "b", "c"];
/// The one id that publishers use again and again.
const SHARED_ID: &str = "X";
const AGE_MAX: Duration = Duration::from_secs(50);
/// After this all that was there before is old.
const WAIT: Duration = Duration::from_secs(60);
const VISITOR: u32 = 0;
const FOLLOWER: u32 = 1;

const BOUNDS: Bounds = Bounds {
    topics_max: 100,
    events_max: 1,
    bytes_max: 1 << 20,
    age_max: AGE_MAX,
    replay_events_max: None,
    skips_slow: false,
};

/// Something that happens to the hub, or to the client that follows the whole history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    /// An event under an id of the hub's own.
    Event(usize),
    /// An event under the publisher's id that all such events have.
    SharedId(usize),
    /// A loss in one topic.
    Loss(usize),
    LossOfAll,
    /// Time passes, but nothing is forgotten yet.
    Wait,
    /// What is old is forgotten.
    Age,
    /// The client that follows is sent one frame, or connects again.
    Visit,
    /// Its connection is cut.
    Cut,
}

use Operation::{Age, Cut, Event, Loss, LossOfAll, SharedId, Visit, Wait};

impl Operation {
    fn topic(self) -> Option<usize> {
        match self {
            Event(topic) | SharedId(topic) | Loss(topic) => Some(topic),
            _ => None,
        }
    }
}

type Checked = Result<(), String>;

/// A hub, and what is known of what happened to it.
struct World {
    hub: Hub,
    order: Order,
    history: History,
    topics: Vec<Topic>,
    now: Duration,
    /// Of each topic the event that it remembers, and since when.
    remembered: BTreeMap<usize, (u64, Duration)>,
}

impl World {
    fn new() -> World {
        let run = RunName::from_bits(7);
        let limits = HubLimits {
            history_events_max: Some(BOUNDS.events_max),
            history_bytes_max: BOUNDS.bytes_max,
            history_age_max: AGE_MAX,
            ..HubLimits::default()
        };
        let mut world = World {
            hub: Hub::new(run, limits),
            order: Order::new(run, BOUNDS, BTreeMap::new()),
            history: History::default(),
            topics: TOPICS.map(|name| Topic::new(name).unwrap()).to_vec(),
            now: Duration::ZERO,
            remembered: BTreeMap::new(),
        };
        world.note_remembered();
        world
    }

    fn apply(&mut self, operation: Operation) {
        let sequence = Sequence(self.order.last() + 1);
        match operation {
            Event(topic) => self.append(sequence, topic, None),
            SharedId(topic) => self.append(sequence, topic, Some(SHARED_ID)),
            Loss(topic) => self.lose(sequence, Some(topic)),
            LossOfAll => self.lose(sequence, None),
            Wait => self.now += WAIT,
            Age => {
                assert!(self.hub.age(self.now), "it forgets all in one go");
                let now = self.now;
                self.remembered.retain(|_, (_, since)| *since + AGE_MAX > now);
                self.note_remembered();
            }
            Visit | Cut => unreachable!("nothing happens to the hub"),
        }
    }

    fn append(&mut self, sequence: Sequence, topic: usize, id: Option<&str>) {
        let data = format!("event {sequence}");
        let broadcast = Broadcast {
            sequence,
            topic: self.topics[topic].clone(),
            naming: Naming::Here(id.map(|id| EventId::new(id).unwrap())),
            frame: data.as_bytes().into(),
        };
        let holds_id =
            |held: u64| matches!(self.order.record(held), Record::Event { id: held, .. } if Some(&held[..]) == id);
        let is_duplicate = self.remembered.get(&topic).is_some_and(|(held, _)| holds_id(*held));
        let appended = self.hub.append(broadcast, self.now);
        assert_eq!(appended, if is_duplicate { Appended::Duplicate } else { Appended::Logged });
        if is_duplicate {
            return self.order.duplicate();
        }
        let place = self.history.note(TOPICS[topic], &data);
        self.order.event((TOPICS[topic], place), &data, id, self.now);
        self.remembered.insert(topic, (sequence.0, self.now));
        self.note_remembered();
    }

    fn lose(&mut self, sequence: Sequence, topic: Option<usize>) {
        let (names, scope, reason) = match topic {
            Some(topic) => (format!("{:?}", TOPICS[topic]), Scope::Topics(vec![TOPICS[topic].into()]), "event_refused"),
            None => (r#""*""#.to_owned(), Scope::All, "source_lost"),
        };
        let frame = format!(r#"gap {sequence} {{"reason":"{reason}","topics":[{names}]}}"#);
        let topics = topic.map(|topic| std::slice::from_ref(&self.topics[topic]));
        self.hub.append_loss(sequence, topics, frame.as_bytes().into(), self.now);
        self.order.loss(scope, reason);
    }

    fn note_remembered(&mut self) {
        self.order.set_remembered(self.remembered.values().map(|(sequence, _)| *sequence).collect());
    }
}

/// A client of some topics: its ledger, and the id that it holds.
#[derive(Clone)]
struct Client {
    topics: Vec<usize>,
    wish: Wish,
    id: String,
    ledger: Ledger,
    diary: Vec<String>,
}

impl Client {
    fn new(topics: &[usize], wish: Wish) -> Client {
        let names: Vec<_> = topics.iter().map(|topic| TOPICS[*topic].to_owned()).collect();
        let ledger = Ledger::new(&names);
        Client { topics: topics.to_vec(), wish, id: String::new(), ledger, diary: Vec::new() }
    }

    /// One that connected without an id at this position and was sent nothing.
    fn at(position: u64, topics: &[usize], wish: Wish, world: &World) -> Client {
        let mut client = Client::new(topics, Wish { replay: Replay::Missed, latest: false, is_paced: false });
        client.begin(Some(world.order.id(position)), world).expect("this can be");
        client.wish = wish;
        client
    }

    fn connect(&mut self, slot: u32, world: &mut World) -> Result<Stream, String> {
        let topics: Vec<_> = self.topics.iter().map(|topic| world.topics[*topic].clone()).collect();
        let (stream, preamble_id) = Stream::open(&mut world.hub, slot, &topics, self.wish, &self.id);
        let begun = self.begin(preamble_id, world);
        begun.map(|()| stream)
    }

    fn begin(&mut self, preamble_id: Option<String>, world: &World) -> Checked {
        let replay = match self.wish.replay {
            Replay::Missed => "missed",
            Replay::All => "all",
            Replay::Latest => "latest",
            Replay::None => "none",
        };
        self.diary.push(format!("{replay} {} {:?}: {preamble_id:?}", self.wish.latest, self.id));
        let opening = Opening {
            last_event_id: self.id.clone(),
            replay,
            latest: self.wish.latest,
            preamble_id: preamble_id.clone(),
            answered: world.order.last(),
            heard: 0,
        };
        let begun = self.ledger.connect(&opening, &world.order, world.now);
        self.id = preamble_id.unwrap_or(std::mem::take(&mut self.id));
        self.tell(begun, world)
    }

    fn receive(&mut self, frame: &str, world: &World) -> Checked {
        self.diary.push(frame.to_owned());
        let (event_type, data, id) = match frame.strip_prefix("gap ").and_then(|gap| gap.split_once(' ')) {
            Some((at, data)) => ("gap", data, world.order.id(at.parse().unwrap())),
            None => {
                let sequence = frame.strip_prefix("event ").and_then(|sequence| sequence.parse().ok());
                let Record::Event { id, .. } = world.order.record(sequence.unwrap()) else { panic!("{frame}") };
                ("message", frame, id.clone())
            }
        };
        let taken = self.ledger.take(Received { event_type, data, id: &id }, &world.order, &world.history, world.now);
        self.id = id;
        self.tell(taken.map(drop), world)
    }

    fn cut(&mut self) {
        self.diary.push("cut".into());
        self.ledger.disconnect();
    }

    /// Receives a whole stream, and must then have everything.
    fn play(&mut self, script: &Script, world: &World) -> Checked {
        self.begin(script.preamble_id.clone(), world)?;
        script.frames.iter().try_for_each(|frame| self.receive(frame, world))?;
        self.check_complete(world)
    }

    fn check_complete(&self, world: &World) -> Checked {
        self.tell(self.ledger.check_complete(&world.order, world.now), world)
    }

    /// Adds to what went wrong how it came to it.
    fn tell(&self, checked: Checked, world: &World) -> Checked {
        checked.map_err(|what| {
            let published = 1..=world.order.last();
            let published: Vec<_> =
                published.map(|sequence| format!("{sequence} {:?}", world.order.record(sequence))).collect();
            format!(
                "{what}\nthe client: {:#?}\npublished: {published:#?}\nremembered: {:?}",
                self.diary, world.remembered
            )
        })
    }
}

// ---- every way to resume ----

const WISHES: [Wish; 4] = [
    Wish { replay: Replay::Missed, latest: false, is_paced: false },
    Wish { replay: Replay::All, latest: false, is_paced: false },
    Wish { replay: Replay::Latest, latest: false, is_paced: false },
    Wish { replay: Replay::Missed, latest: true, is_paced: true },
];

/// The topics of the clients that resume.
const SUBSCRIPTIONS: [&[usize]; 2] = [&[0, 1, 2], &[0]];

/// What the hub sends to clients of the same topics and the same wish, by the id that they come with.
struct Scripts {
    topics: Vec<Topic>,
    wish: Wish,
    by_id: BTreeMap<String, Rc<Script>>,
}

/// All of one stream.
#[derive(Debug)]
struct Script {
    preamble_id: Option<String>,
    frames: Vec<String>,
}

impl Scripts {
    fn of(&mut self, id: &str, world: &mut World, tally: &mut Tally) -> Result<Rc<Script>, String> {
        if let Some(known) = self.by_id.get(id) {
            return Ok(Rc::clone(known));
        }
        tally.streams += 1;
        let (mut stream, preamble_id) = Stream::open(&mut world.hub, VISITOR, &self.topics, self.wish, id);
        let mut frames = Vec::new();
        loop {
            match stream.next(&world.hub) {
                Next::Frame(frame) => frames.push(frame),
                Next::Nothing | Next::Page(_) => break,
                Next::Closed => return Err(format!("closed, though it has just come: {id} {frames:?}")),
            }
        }
        stream.close(&mut world.hub);
        let script = Rc::new(Script { preamble_id, frames });
        self.by_id.insert(id.to_owned(), Rc::clone(&script));
        Ok(script)
    }
}

/// Clients of every past come back, and are cut off behind each frame that they get.
fn check_resumes(world: &mut World, tally: &mut Tally) -> Checked {
    // Nothing happens to a client of a topic that was never used.
    let subscriptions = SUBSCRIPTIONS.into_iter().filter(|topics| topics.iter().any(|topic| is_used(*topic, world)));
    for topics in subscriptions.collect::<Vec<_>>() {
        let names: Vec<_> = topics.iter().map(|topic| world.topics[*topic].clone()).collect();
        for wish in WISHES {
            let mut scripts = Scripts { topics: names.clone(), wish, by_id: BTreeMap::new() };
            for client in clients_of_every_past(topics, wish, world)? {
                check_cut_everywhere(&client, &mut scripts, world, tally)?;
            }
        }
    }
    Ok(())
}

fn clients_of_every_past(topics: &[usize], wish: Wish, world: &World) -> Result<Vec<Client>, String> {
    // Without an id there is no past, unless it is asked for.
    let mut clients: Vec<_> = (wish.replay != Replay::Missed).then(|| Client::new(topics, wish)).into_iter().collect();
    if wish.replay == Replay::All {
        return Ok(clients); // with an id it is the same as `missed`
    }
    clients.extend((0..=world.order.last()).map(|position| Client::at(position, topics, wish, world)));
    let names: Vec<_> = topics.iter().map(|topic| TOPICS[*topic].to_owned()).collect();
    for sequence in world.order.uses(SHARED_ID, &names, world.order.last()) {
        let mut client = Client::at(sequence - 1, topics, wish, world);
        client.receive(&format!("event {sequence}"), world)?;
        clients.push(client);
    }
    clients.iter_mut().for_each(Client::cut);
    Ok(clients)
}

fn is_used(topic: usize, world: &World) -> bool {
    (1..=world.order.last()).any(|sequence| world.order.record(sequence).touches(TOPICS[topic]))
}

fn check_cut_everywhere(client: &Client, scripts: &mut Scripts, world: &mut World, tally: &mut Tally) -> Checked {
    let script = scripts.of(&client.id, world, tally)?;
    let mut client = client.clone();
    client.begin(script.preamble_id.clone(), world)?;
    for received in 0..=script.frames.len() {
        if let Some(last) = received.checked_sub(1) {
            client.receive(&script.frames[last], world)?;
        }
        tally.cuts += 1;
        let rest = scripts.of(&client.id, world, tally)?;
        // Mostly the rest is what would have come, so that nothing new is to be learnt from it.
        if rest.frames != script.frames[received..] {
            let mut client = client.clone();
            client.cut();
            client.play(&rest, world)?;
        }
    }
    client.check_complete(world)
}

// ---- a client that follows ----

/// A client that was there from the start, and what it is sent while things happen.
struct Follower {
    client: Client,
    stream: Option<Stream>,
}

impl Follower {
    /// False: it had no effect.
    fn take(&mut self, operation: Operation, world: &mut World) -> Result<bool, String> {
        match (operation, &mut self.stream) {
            (Visit, Some(stream)) => match stream.next(&world.hub) {
                Next::Frame(frame) => self.client.receive(&frame, world)?,
                Next::Nothing | Next::Page(_) => return Ok(false),
                Next::Closed => self.leave(world),
            },
            (Visit, None) => self.stream = Some(self.client.connect(FOLLOWER, world)?),
            (Cut, Some(_)) => self.leave(world),
            (Cut, None) => return Ok(false),
            _ => world.apply(operation),
        }
        Ok(true)
    }

    fn leave(&mut self, world: &mut World) {
        self.client.cut();
        self.stream.take().expect("it is connected").close(&mut world.hub);
    }

    /// It reads everything, and must have everything.
    fn finish(&mut self, world: &mut World) -> Checked {
        loop {
            let stream = match &mut self.stream {
                Some(stream) => stream,
                None => self.stream.insert(self.client.connect(FOLLOWER, world)?),
            };
            match stream.next(&world.hub) {
                Next::Frame(frame) => self.client.receive(&frame, world)?,
                Next::Nothing | Next::Page(_) => return self.client.check_complete(world),
                Next::Closed => self.leave(world),
            }
        }
    }
}

// ---- every history ----

/// Calls `visit` with every history of `alphabet` up to this length, but those that are others under other names or
/// without effect. A history after which it says false is not continued.
fn each_history(alphabet: &[Operation], length_max: usize, visit: &mut impl FnMut(&[Operation]) -> bool) {
    fn extend(
        history: &mut Vec<Operation>,
        alphabet: &[Operation],
        length_max: usize,
        visit: &mut impl FnMut(&[Operation]) -> bool,
    ) {
        let is_continued = history.is_empty() || visit(history);
        if !is_continued || history.len() == length_max {
            return;
        }
        for operation in alphabet {
            if can_follow(history, *operation) {
                history.push(*operation);
                extend(history, alphabet, length_max, visit);
                history.pop();
            }
        }
    }
    extend(&mut Vec::new(), alphabet, length_max, visit);
}

fn can_follow(history: &[Operation], next: Operation) -> bool {
    let since = |what: Operation| history.iter().rev().take_while(move |operation| **operation != what);
    let publishes = |operation: &Operation| operation.topic().is_some() || *operation == LossOfAll;
    match next {
        Wait => since(Wait).any(publishes),
        Age => since(Age).any(|operation| *operation == Wait),
        _ => {
            let named = history.iter().filter_map(|operation| operation.topic()).max().map_or(0, |topic| topic + 1);
            next.topic().is_none_or(|topic| topic <= named)
        }
    }
}

fn length() -> usize {
    std::env::var("FANFARE_SMALL_SCOPE").map_or(OPERATIONS, |text| text.parse().expect("a number of operations"))
}

/// Lives through a history with a client that follows it. False: its last operation had no effect.
fn follow(history: &[Operation], wish: Wish) -> Result<bool, String> {
    let mut world = World::new();
    let mut client = Client::new(&[0, 1, 2], wish);
    let stream = client.connect(FOLLOWER, &mut world)?;
    let mut follower = Follower { client, stream: Some(stream) };
    let mut had_effect = true;
    for operation in history {
        had_effect = follower.take(*operation, &mut world)?;
    }
    if had_effect {
        follower.finish(&mut world)?;
    }
    Ok(had_effect)
}

#[derive(Default)]
struct Tally {
    histories: u64,
    streams: u64,
    cuts: u64,
    failed: u64,
    /// Of each kind of failure the shortest history.
    failures: BTreeMap<String, (Vec<Operation>, String)>,
}

impl Tally {
    fn note(&mut self, history: &[Operation], what: String) {
        self.failed += 1;
        let kind: String = what.lines().next().unwrap_or_default().chars().filter(|c| !c.is_ascii_digit()).collect();
        let first = self.failures.entry(kind).or_insert_with(|| (history.to_vec(), what.clone()));
        if history.len() < first.0.len() {
            *first = (history.to_vec(), what);
        }
    }

    /// Says how much was checked, past the capture of the test's output: a run that checked nothing is to be seen.
    fn report(&self, what: &str) {
        let Tally { histories, streams, cuts, failed, failures } = self;
        let length = length();
        let counts = format!("{histories} histories of up to {length} operations, {streams} streams, {cuts} cuts");
        let mut stderr = std::io::stderr();
        writeln!(stderr, "{what}: {counts}").unwrap();
        assert!(*histories > 50 * length as u64, "{histories} histories");
        let failures: Vec<_> = failures.values().map(|(history, what)| format!("{history:?}\n{what}")).collect();
        assert!(
            *failed == 0,
            "{}\n\n{failed} histories fail; the shortest of each kind are above",
            failures.join("\n\n")
        );
    }
}

/// All kinds of operations at once would be too many histories: ids have nothing to do with losses that are announced.
const ALPHABETS: [&[Operation]; 2] = [
    &[Event(0), Event(1), Event(2), SharedId(0), SharedId(1), Wait, Age],
    &[Event(0), Event(1), Event(2), SharedId(0), Loss(0), LossOfAll, Wait, Age],
];

#[test]
fn every_client_that_resumes_loses_nothing_silently() {
    let mut tally = Tally::default();
    for alphabet in ALPHABETS {
        each_history(alphabet, length(), &mut |history| {
            let mut world = World::new();
            history.iter().for_each(|operation| world.apply(*operation));
            tally.histories += 1;
            check_resumes(&mut world, &mut tally).unwrap_or_else(|what| tally.note(history, what));
            true
        });
    }
    tally.report("resumed");
}

#[test]
fn a_client_that_follows_loses_nothing_silently() {
    let alphabet = [Event(0), Event(1), Event(2), SharedId(0), LossOfAll, Wait, Age, Visit, Cut];
    let mut tally = Tally::default();
    let paced = Wish { is_paced: true, ..WISHES[0] };
    for wish in [WISHES[0], paced, WISHES[3]] {
        each_history(&alphabet, length(), &mut |history| {
            let outcome = follow(history, wish);
            tally.histories += u64::from(outcome != Ok(false));
            let is_continued = outcome == Ok(true);
            outcome.map(drop).unwrap_or_else(|what| tally.note(history, what));
            is_continued
        });
    }
    tally.report("followed");
}
