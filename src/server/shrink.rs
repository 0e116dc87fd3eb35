//! Frees the memory of tables that many clients, since gone, made large.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, Hash};

/// Tables up to this size keep their memory.
const KEPT_MAX: usize = 1024;

pub(super) fn shrink_map<K: Eq + Hash, V, S: BuildHasher>(map: &mut HashMap<K, V, S>) {
    if is_spare(map.len(), map.capacity()) {
        map.shrink_to(map.len() * 2);
    }
}

pub(super) fn shrink_set<T: Eq + Hash>(set: &mut HashSet<T>) {
    if is_spare(set.len(), set.capacity()) {
        set.shrink_to(set.len() * 2);
    }
}

fn is_spare(len: usize, capacity: usize) -> bool {
    capacity > KEPT_MAX && len < capacity / 4
}
