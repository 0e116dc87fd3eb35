//! What a world on a bus is like, drawn from its seed.

use std::time::Duration;

use fanfare::config::SlowPolicy;
use fanfare::hub::HubLimits;
use fanfare::io::simulated::Random;

use super::life::Memory;
use crate::node;

/// Everything about a world that is drawn from its seed, but what happens in it.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) of_node: node::Plan,
    pub(crate) load_bytes_max: usize,
    /// How often, in a thousand, a call of the engine fails.
    pub(crate) call_failures: u32,
    pub(crate) memory: Memory,
    pub(crate) entries_max: usize,
    pub(crate) id_memory: Duration,
    /// How often, in a thousand steps, each mishap of the engine happens.
    pub(crate) mishaps: Mishaps,
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mishaps {
    pub(crate) trim: u32,
    pub(crate) lose: u32,
    pub(crate) go_back: u32,
    pub(crate) refuse: u32,
}

impl Plan {
    pub(crate) fn drawn(random: &mut Random) -> Plan {
        let calm = random.chance(250);
        let draw = |random: &mut Random, most: u32| if calm || random.chance(400) { 0 } else { most };
        let mishaps = Mishaps {
            trim: draw(random, 60),
            lose: draw(random, 30),
            go_back: if random.chance(200) { draw(random, 20) } else { 0 },
            refuse: draw(random, 40),
        };
        let memory = match calm || random.chance(400) {
            true => Memory::Whole,
            false if random.chance(500) => Memory::Bounded,
            false => Memory::Fetching,
        };
        let drawn = node::Plan::drawn(random);
        let whole = HubLimits { history_age_max: Duration::from_secs(1 << 20), ..HubLimits::default() };
        let hub = match memory {
            Memory::Whole => whole,
            Memory::Bounded => HubLimits { topics_max: 100, replay_events_max: None, ..drawn.hub },
            Memory::Fetching => {
                HubLimits { topics_max: 100, replay_events_max: None, fetch_entries_max: 1 << 20, ..drawn.hub }
            }
        };
        let topics = 2 + random.below(4);
        Plan {
            of_node: node::Plan {
                topics: (0..topics).map(|index| format!("t{index}")).collect(),
                nodes: 2 + random.below(2),
                hub,
                slow_policy: SlowPolicy::Close,
                streams_max: 1000,
                connections_per_address_max: None,
                accepts_per_second_max: None,
                interval_floor: Duration::ZERO,
                // All clients are to have a stream at the same time.
                connection_age_max: drawn.connection_age_max.map(|age| age + Duration::from_secs(10)),
                ..drawn
            },
            load_bytes_max: if memory == Memory::Whole { usize::MAX } else { 1 + random.below(4000) },
            call_failures: [0, 10, 100][random.below(3)],
            memory,
            entries_max: if calm || random.chance(500) { usize::MAX } else { 5 + random.below(200) },
            id_memory: Duration::from_secs([2, 20, 600][random.below(3)]),
            mishaps,
        }
    }

    /// True when nothing may be missing anywhere.
    pub(crate) fn is_calm(&self) -> bool {
        let Mishaps { trim, lose, go_back, refuse } = self.mishaps;
        trim + lose + go_back + refuse == 0 && self.memory == Memory::Whole && self.entries_max == usize::MAX
    }
}
