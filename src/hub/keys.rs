//! The keys of topics and subscribers inside the hub: places in tables, small and quick to compare.

/// A topic's place in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicKey(pub(super) u32);

/// A subscriber, named by its connection's slot in the slab.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Subscriber(pub u32);
