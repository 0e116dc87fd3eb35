//! Nodes that feed one bus from one log, both in memory: answers are lost, nodes are paused and restarted, in any order.

use std::sync::{Mutex, PoisonError};

use super::*;
use crate::event::Event;
use crate::sources::bus::Receipt;

/// A log and a bus that all nodes share.
#[derive(Default)]
struct World {
    /// The entries of epoch 1, which begins with 1-0.
    log: Vec<Content>,
    trimmed: usize,
    bus: Vec<Content>,
    cursor: Option<String>,
    /// The next call of any kind fails.
    fails: Option<Failure>,
}

#[derive(Clone, Copy, PartialEq)]
enum Failure {
    /// Nothing happens.
    Before,
    /// The answer is lost.
    After,
}

type Shared = Arc<Mutex<World>>;

fn with<T>(world: &Shared, act: impl FnOnce(&mut World) -> T) -> T {
    act(&mut world.lock().unwrap_or_else(PoisonError::into_inner))
}

impl World {
    fn shared() -> Shared {
        Arc::new(Mutex::new(World { log: vec![Content::Fork { follows: None }], ..World::default() }))
    }

    fn answer<T>(&mut self, act: impl FnOnce(&mut World) -> T) -> Result<T, EngineError> {
        let lost = || Err(EngineError("lost".to_owned()));
        match self.fails.take() {
            None => Ok(act(self)),
            Some(Failure::Before) => lost(),
            Some(Failure::After) => {
                act(self);
                lost()
            }
        }
    }

    fn page(&self, first: usize, entries_max: usize) -> Page {
        let entry = |offset: usize| Entry { position: at(offset), content: self.log[offset].clone() };
        let entries = (first.max(self.trimmed)..self.log.len()).take(entries_max).map(entry).collect();
        Page { entries, last: at(self.log.len() - 1) }
    }
}

struct Log(Shared);
struct Bus(Shared);

impl Engine for Log {
    fn append(&mut self, _: &[Content]) -> Result<Vec<Receipt>, EngineError> {
        unreachable!("a feed only reads its log")
    }

    fn read_after(&mut self, after: Position, entries_max: usize, _: Duration) -> Result<Page, EngineError> {
        with(&self.0, |world| world.answer(|world| world.page(after.offset as usize + 1, entries_max)))
    }

    fn read_before(&mut self, _: Option<Position>, _: usize) -> Result<Page, EngineError> {
        with(&self.0, |world| world.answer(|world| world.page(world.log.len(), 1)))
    }
}

impl CursorEngine for Bus {
    fn cursor(&mut self, _: &str) -> Result<Option<String>, EngineError> {
        with(&self.0, |world| world.answer(|world| world.cursor.clone()))
    }

    fn append_from(
        &mut self,
        _: &str,
        from: Option<&str>,
        to: &str,
        contents: &[Content],
    ) -> Result<Option<Vec<Receipt>>, EngineError> {
        let append = |world: &mut World| {
            if world.cursor.as_deref() != from {
                return None;
            }
            world.cursor = Some(to.to_owned());
            world.bus.extend_from_slice(contents);
            Some(vec![Receipt { position: Position::default(), is_duplicate: false }; contents.len()])
        };
        with(&self.0, |world| world.answer(append))
    }
}

fn at(offset: usize) -> Position {
    Position { epoch: 1, offset: offset as u64 }
}

fn event(data: &str) -> Content {
    Content::Event(Event::message(Topic::new("t").unwrap(), data))
}

fn numbers(range: std::ops::Range<u64>) -> impl Iterator<Item = Content> {
    range.map(|n| event(&n.to_string()))
}

fn node(world: &Shared, name: u64, bounds: BusBounds) -> Feed {
    let backoff = BackoffLimits { delay_min: Duration::ZERO, delay_max: Duration::ZERO };
    let settings = FeedSettings { source: "log", node: name.to_string(), bounds: Arc::new(bounds), backoff };
    let (log, bus) = (Box::new(Log(Arc::clone(world))), Box::new(Bus(Arc::clone(world))));
    Feed::new(settings, log, bus, SourceStatus::new("log"))
}

/// Turns a node until it does nothing more.
fn run_alone(feed: &mut Feed, now: &mut Duration) {
    for _ in 0..120 {
        *now += LEAD_WAIT;
        feed.turn(*now).unwrap();
    }
}

/// What the bus has, but for the gap with which a feed begins.
fn fed(world: &Shared) -> Vec<String> {
    let words = |content: &Content| match content {
        Content::Event(event) => event.data.clone(),
        Content::Gap { reason, topics } => format!("{} {topics:?}", reason.as_str()),
        _ => unreachable!("a feed appends events and gaps"),
    };
    with(world, |world| world.bus.iter().skip(1).map(words).collect())
}

#[test]
fn whatever_happens_to_nodes_each_event_comes_once_and_in_order() {
    for seed in 0..500u64 {
        let (world, mut now, mut names, mut count) = (World::shared(), Duration::ZERO, 3, 0);
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut pick = |below: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % below
        };
        let mut nodes: Vec<_> = (0..3).map(|name| node(&world, name, BusBounds::default())).collect();
        run_alone(&mut nodes[0], &mut now);
        for _ in 0..150 {
            let chosen = pick(3) as usize;
            match pick(12) {
                0 => with(&world, |world| world.fails = Some([Failure::Before, Failure::After][pick(2) as usize])),
                1 => {
                    nodes[chosen] = node(&world, names, BusBounds::default());
                    names += 1;
                }
                2 => nodes[chosen].resign(),
                3 => now += LEAD_WAIT,
                4..=6 => {
                    let new = 1 + pick(3 * ENTRIES_MAX as u64 / 2);
                    with(&world, |world| world.log.extend(numbers(count..count + new)));
                    count += new;
                }
                _ => drop(nodes[chosen].turn(now)),
            }
            now += Duration::from_millis(pick(300));
        }
        with(&world, |world| world.fails = None);
        run_alone(&mut nodes[0], &mut now);
        let fed = fed(&world);
        let is_next = |(n, text): (usize, &String)| *text == n.to_string();
        assert!(
            fed.iter().enumerate().all(is_next) && fed.len() as u64 == count,
            "seed {seed}: {} of {count}",
            fed.len()
        );
    }
}

#[test]
fn a_node_leads_once_the_cursor_stands_still_or_at_once_if_it_was_given_up() {
    let world = World::shared();
    let [mut one, mut other] = [1, 2].map(|name| node(&world, name, BusBounds::default()));
    let leads = |feed: &Feed| matches!(feed.state, State::Leads(_));
    let ms = Duration::from_millis;
    one.turn(ms(0)).unwrap();
    assert!(leads(&one) && one.status.leading() == Some(Leading::Leads));
    for now in (0..3000).step_by(400) {
        one.turn(ms(now)).unwrap();
        assert_eq!(other.turn(ms(now)), Ok(LOOK_INTERVAL));
        assert!(leads(&one) && !leads(&other), "{now}");
    }
    for (now, takes) in [(3200, false), (3999, false), (4400, true)] {
        other.turn(ms(now)).unwrap();
        assert_eq!(leads(&other), takes, "{now}");
    }
    // As after a pause.
    one.turn(ms(4400)).unwrap();
    assert!(!leads(&one));
    other.resign();
    one.turn(ms(4401)).unwrap();
    assert!(leads(&one));
    assert_eq!(fed(&world), [""; 0]);
}

#[test]
fn what_does_not_fit_or_is_missing_is_a_gap_in_its_place() {
    let (world, mut now) = (World::shared(), Duration::ZERO);
    let bounds = BusBounds::default();
    bounds.set(100, 10);
    let mut feed = node(&world, 1, bounds);
    with(&world, |world| world.log.push(event("before the first start")));
    run_alone(&mut feed, &mut now);
    let topics = vec![Topic::new("t").unwrap()];
    let refused = Content::Refused { topic: None, reason: String::new() };
    let announced = Content::Gap { reason: GapReason::ChannelFull, topics };
    with(&world, |world| world.log.extend([event("1"), event(&"x".repeat(11)), event("2"), refused, announced]));
    run_alone(&mut feed, &mut now);
    with(&world, |world| {
        world.log.extend(numbers(3..9));
        world.trimmed = world.log.len() - 2;
    });
    run_alone(&mut feed, &mut now);
    // No entry is left, and the newest is not the one that was read last.
    with(&world, |world| {
        world.log.push(event("gone"));
        world.trimmed = world.log.len();
    });
    run_alone(&mut feed, &mut now);
    with(&world, |world| world.log.push(event("9")));
    run_alone(&mut feed, &mut now);
    let of_topic = [r#"event_refused [Topic("t")]"#, r#"channel_full [Topic("t")]"#];
    assert_eq!(
        fed(&world),
        ["1", of_topic[0], "2", "event_refused []", of_topic[1], "source_lost []", "7", "8", "source_lost []", "9"]
    );
    let refused: Vec<_> = feed.status.refused().into_iter().filter(|(_, count)| *count > 0).collect();
    assert_eq!(refused, [("too_large", 1), ("malformed", 1)]);
}

/// As after an operator has changed it, or where a later version has written it.
#[test]
fn a_cursor_that_can_t_be_read_begins_anew_with_a_gap() {
    let (world, mut now) = (World::shared(), Duration::ZERO);
    with(&world, |world| world.cursor = Some("something else".to_owned()));
    let mut feed = node(&world, 1, BusBounds::default());
    run_alone(&mut feed, &mut now);
    assert_eq!(
        with(&world, |world| world.bus.clone()),
        [Content::Gap { reason: GapReason::SourceLost, topics: vec![] }]
    );
    with(&world, |world| world.log.push(event("1")));
    run_alone(&mut feed, &mut now);
    assert_eq!(fed(&world), ["1"]);
}

#[test]
fn large_events_are_appended_a_few_at_a_time() {
    let half = TOGETHER_BYTES_MAX / 2;
    let lengths = |bytes: &[usize]| {
        let entries = bytes.iter().map(|bytes| Entry { position: at(1), content: event(&"x".repeat(bytes - 1)) });
        pieces(entries.collect()).iter().map(Vec::len).collect::<Vec<_>>()
    };
    assert_eq!(lengths(&[half, half, 1]), [2, 1]);
    assert_eq!(lengths(&[3 * half, 3 * half, half]), [1, 1, 1]);
    assert_eq!(lengths(&[1, 3 * half, 1]), [1, 1, 1]);
    assert_eq!(pieces(Vec::new()).len(), 1);
}
