//! A model of an engine: the order in memory, as the functions of Redis keep it, and the faults that it is given.
//!
//! A [`Handle`] is one thread's engine. Its connection may be away, and a call may fail before or after it took effect.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use fanfare::event::timeline::Position;
use fanfare::event::{Event, Topic};
use fanfare::io::simulated::Random;
use fanfare::sources::bus::{Content, Engine, EngineError, Entry, Page, Receipt};

use super::truth::{Fate, Truth, What};

/// The engine's state.
pub(crate) struct Model {
    kept: Copy,
    copies: Vec<Copy>,
    /// Epochs are made of it.
    clock: u64,
    is_fork_due: bool,
    entries_max: usize,
    id_memory: Duration,
    now: Duration,
    pub(crate) truth: Truth,
}

/// What the engine holds.
#[derive(Clone, Default)]
struct Copy {
    entries: VecDeque<Entry>,
    last: Position,
    /// By topic and publisher's id: where the event is, and until when that is remembered.
    ids: BTreeMap<(String, String), (Position, Duration)>,
}

impl Model {
    pub(crate) fn new(entries_max: usize, id_memory: Duration) -> Model {
        Model {
            kept: Copy::default(),
            copies: Vec::new(),
            clock: 7,
            is_fork_due: true,
            entries_max,
            id_memory,
            now: Duration::ZERO,
            truth: Truth::default(),
        }
    }

    pub(crate) fn set_now(&mut self, now: Duration) {
        self.now = now;
    }

    /// The newest entry.
    pub(crate) fn last(&self) -> Position {
        self.kept.last
    }

    // ---- what its clients do ----

    /// Begins an epoch if entries may have been lost.
    pub(crate) fn check(&mut self) {
        if std::mem::take(&mut self.is_fork_due) {
            self.clock += 1;
            self.push(Position { epoch: self.clock, offset: 0 }, Content::Fork { follows: None });
        }
    }

    pub(crate) fn append(&mut self, contents: &[Content]) -> Vec<Receipt> {
        self.check();
        contents.iter().map(|content| self.append_one(content)).collect()
    }

    fn append_one(&mut self, content: &Content) -> Receipt {
        let key = match content {
            Content::Event(Event { topic, id: Some(id), .. }) => Some((topic.to_string(), id.to_string())),
            _ => None,
        };
        let known = key.as_ref().and_then(|key| self.kept.ids.get(key)).filter(|(_, until)| self.now < *until);
        if let Some((position, _)) = known {
            return Receipt { position: *position, is_duplicate: true };
        }
        let position = self.kept.last.next();
        self.push(position, content.clone());
        if let Some(key) = key {
            self.kept.ids.insert(key, (position, self.now + self.id_memory));
        }
        self.trim(self.kept.entries.len().saturating_sub(self.entries_max));
        Receipt { position, is_duplicate: false }
    }

    fn push(&mut self, position: Position, content: Content) {
        self.kept.last = position;
        self.truth.push(position, what(&content));
        self.kept.entries.push_back(Entry { position, content });
    }

    fn page(&self, entries: Vec<Entry>) -> Page {
        Page { entries, last: self.kept.last }
    }

    // ---- what happens to it ----

    /// Trims its oldest entries.
    pub(crate) fn trim(&mut self, count: usize) {
        let count = count.min(self.kept.entries.len());
        for entry in self.kept.entries.drain(..count) {
            self.truth.at_mut(entry.position).expect("it was appended").fate = Fate::Trimmed;
        }
    }

    /// Loses its newest entries, as in a failover or a crash: it will fork. It may also lose none.
    pub(crate) fn lose(&mut self, count: usize) {
        let left = self.kept.entries.len() - count.min(self.kept.entries.len());
        for entry in self.kept.entries.split_off(left) {
            self.truth.at_mut(entry.position).expect("it was appended").fate = Fate::Lost;
            self.kept.ids.retain(|_, (position, _)| *position != entry.position);
        }
        self.kept.last = self.kept.entries.back().map_or(Position::default(), |last| last.position);
        self.copies.clear();
        self.is_fork_due = true;
    }

    /// Takes a copy, to which it may go back.
    pub(crate) fn copy(&mut self) {
        self.check();
        self.copies.push(self.kept.clone());
    }

    /// Is replaced by an older copy, without noticing. False: there is none.
    pub(crate) fn go_back(&mut self) -> bool {
        let Some(copy) = self.copies.pop().filter(|copy| copy.last != self.kept.last && !self.is_fork_due) else {
            return false;
        };
        self.kept = copy;
        let kept: BTreeSet<_> = self.kept.entries.iter().map(|entry| entry.position).collect();
        for record in self.truth.records_mut() {
            record.fate = match record.fate {
                _ if kept.contains(&record.position) => Fate::Kept,
                Fate::Kept => Fate::Undone,
                Fate::Trimmed if record.position > self.kept.last => Fate::Undone,
                fate => fate,
            };
        }
        self.truth.push(self.kept.last, What::Back);
        true
    }

    /// An application appends what is no event, through the function.
    pub(crate) fn append_refused(&mut self, topic: Option<Topic>) {
        self.check();
        self.push(self.kept.last.next(), Content::Refused { topic, reason: "it is no event".into() });
    }

    /// An application appends with an id of its own: further on in the epoch, or by the clock, which forks the bus.
    pub(crate) fn append_raw(&mut self, ahead: Option<u64>, topic: Option<Topic>) {
        self.check();
        let last = self.kept.last;
        let position = match ahead {
            Some(ahead) => Position { offset: last.offset + 1 + ahead, ..last },
            None => {
                self.clock += 1;
                self.is_fork_due = true;
                Position { epoch: self.clock, offset: 0 }
            }
        };
        self.push(position, Content::Refused { topic, reason: "it has an id of its own".into() });
    }
}

fn what(content: &Content) -> What {
    match content {
        Content::Event(event) => What::Event {
            topic: event.topic.to_string(),
            data: event.data.clone(),
            own: event.id.as_ref().map(ToString::to_string),
        },
        Content::Disconnect(..) => What::Disconnect,
        Content::Fork { .. } => What::Fork,
        Content::Gap { .. } => unreachable!("there are no channels here"),
        Content::Refused { topic, .. } => What::Refused(topic.as_ref().map(ToString::to_string)),
        Content::Nothing => unreachable!("this engine's offsets are dense"),
    }
}

/// A node's connections to the engine, and what it was given over them.
pub(crate) struct Link {
    random: Random,
    /// How often, in a thousand, a call fails.
    failures: u32,
    pub(crate) is_away: bool,
    /// No call fails, for a while.
    pub(crate) is_steady: bool,
    served: Served,
}

/// What a node was given.
#[derive(Clone, Debug, Default)]
pub(crate) struct Served {
    /// The first entry of what it loaded; if there was none, the engine's last.
    pub(crate) from: Option<Position>,
    /// The epochs that it has read of.
    pub(crate) epochs: BTreeSet<u64>,
    /// The newest entry that it has read.
    pub(crate) through: Position,
}

impl Link {
    pub(crate) fn new(random: Random, failures: u32) -> Arc<Mutex<Link>> {
        Arc::new(Mutex::new(Link { random, failures, is_away: false, is_steady: false, served: Served::default() }))
    }

    fn fails(&mut self) -> bool {
        !self.is_steady && (self.is_away || self.random.chance(self.failures))
    }

    pub(crate) fn served(&self) -> Served {
        self.served.clone()
    }

    fn note(&mut self, page: &Page, is_load: bool) {
        let first = page.entries.first().map_or(page.last, |first| first.position);
        if is_load {
            self.served.from = Some(self.served.from.map_or(first, |from| from.min(first)));
        }
        if !is_load || self.served.through == Position::default() {
            self.served.through = page.entries.last().map_or(page.last, |last| last.position);
        }
        // Without entries, it continues after the newest one.
        let last = page.entries.is_empty().then_some(page.last.epoch);
        self.served.epochs.extend(page.entries.iter().map(|entry| entry.position.epoch).chain(last));
    }
}

/// One thread's engine.
pub(crate) struct Handle {
    pub(crate) model: Arc<Mutex<Model>>,
    pub(crate) link: Arc<Mutex<Link>>,
}

impl Handle {
    fn call<T>(&self, run: impl FnOnce(&mut Model, &mut Random) -> T) -> Result<T, EngineError> {
        let mut link = self.link();
        let [before, after] = [(), ()].map(|()| link.fails());
        if before {
            return Err(EngineError("the connection is away".into()));
        }
        let outcome = run(&mut self.model.lock().unwrap(), &mut link.random);
        if after { Err(EngineError("the connection broke before the answer".into())) } else { Ok(outcome) }
    }

    fn link(&self) -> MutexGuard<'_, Link> {
        self.link.lock().unwrap()
    }
}

impl Engine for Handle {
    fn append(&mut self, contents: &[Content]) -> Result<Vec<Receipt>, EngineError> {
        self.call(|model, _| model.append(contents))
    }

    fn read_after(&mut self, after: Position, entries_max: usize, _: Duration) -> Result<Page, EngineError> {
        let page = self.call(|model, random| {
            model.check();
            // A page may be shorter than it could be.
            let count = if random.chance(500) { entries_max } else { 1 + random.below(entries_max) };
            let newer = model.kept.entries.iter().filter(|entry| entry.position > after);
            model.page(newer.take(count).cloned().collect())
        })?;
        self.link().note(&page, false);
        Ok(page)
    }

    fn read_before(&mut self, before: Option<Position>, entries_max: usize) -> Result<Page, EngineError> {
        if before.is_none() {
            self.link().served = Served::default();
        }
        let page = self.call(|model, _| {
            model.check();
            let is_before = |entry: &&Entry| before.is_none_or(|before| entry.position < before);
            let older: Vec<_> = model.kept.entries.iter().rev().filter(is_before).take(entries_max).cloned().collect();
            model.page(older.into_iter().rev().collect())
        })?;
        self.link().note(&page, before.is_none() || !page.entries.is_empty());
        Ok(page)
    }
}
