//! Vanished topics: the last position of each, in about nine bytes.
//!
//! A topic that nothing refers to any more is removed. If it returns, a client that names it is due a gap if and only if
//! it stands before the topic's last event. So that position is kept, with a hash of the topic's name. Two names with the
//! same hash would be taken for one topic; that two of 100,000 have the same happens once in 10 million times.
//!
//! The records are in buckets, by hash. In a bucket they are in the order of their positions, each as the difference to
//! the one before. All buckets are in one block of memory, which the allocator returns as a whole. A bucket is bounded, so
//! that names which are chosen for their hash take no more memory.

use std::hash::{DefaultHasher, Hash, Hasher};

use crate::event::{Sequence, Topic};

/// Records of a bucket when there are as many as are allowed.
const PER_BUCKET: usize = 512;
/// Bytes of the longest record: the hash, and a difference of seven bits in each byte.
const RECORD_BYTES_MAX: usize = HASH_BYTES + 10;
const HASH_BYTES: usize = 6;
/// Bytes of a bucket, at most: four times what it has when names are spread evenly.
const BUCKET_BYTES_MAX: usize = 4 * PER_BUCKET * 9;

#[derive(Debug)]
pub(super) struct Vanished {
    /// As many bytes for each bucket.
    block: Vec<u8>,
    bucket_bytes: usize,
    buckets: Box<[Bucket]>,
    records: usize,
    records_max: usize,
}

/// The extent of a bucket.
#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    /// The positions of its first record and of its last.
    first: u64,
    last: u64,
    bytes: usize,
}

/// A topic's name as a hash: which bucket it is in, and what tells it from the others there.
#[derive(Clone, Copy)]
struct Key {
    bucket: usize,
    hash: u64,
}

impl Vanished {
    pub(super) fn new(records_max: usize) -> Vanished {
        let buckets = records_max.div_ceil(PER_BUCKET).max(1);
        let buckets = vec![Bucket::default(); buckets].into();
        Vanished { block: Vec::new(), bucket_bytes: 0, buckets, records: 0, records_max }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.records
    }

    /// Records a topic. Returns the oldest position if there are more records than are allowed, of all topics or in the
    /// bucket: that one is forgotten.
    pub(super) fn insert(&mut self, name: &Topic, position: Sequence) -> Option<Sequence> {
        self.take(name);
        let Key { bucket, hash } = self.key(name);
        let is_full = self.buckets[bucket].bytes + 2 * RECORD_BYTES_MAX > BUCKET_BYTES_MAX;
        let forgotten = if is_full { self.take_first(bucket) } else { None };
        let Bucket { last, bytes, .. } = self.buckets[bucket];
        if bytes + 2 * RECORD_BYTES_MAX > self.bucket_bytes {
            self.grow();
        }
        if bytes == 0 || position.0 >= last {
            self.append(bucket, hash, position.0);
        } else {
            let mut records: Vec<_> = self.records_of(bucket).collect();
            let index = records.partition_point(|(_, other)| *other <= position.0);
            records.insert(index, (hash, position.0));
            self.rewrite(bucket, &records);
        }
        self.records += 1;
        if self.records > self.records_max { self.take_oldest() } else { forgotten }
    }

    /// Takes out the record of a topic, if there is one.
    pub(super) fn take(&mut self, name: &Topic) -> Option<Sequence> {
        let Key { bucket, hash } = self.key(name);
        // Of two with the same hash, the newer one: the other topic's clients get a gap.
        let position = self.records_of(bucket).filter(|record| record.0 == hash).last()?.1;
        self.retain(bucket, |record| record.0 != hash);
        Some(Sequence(position))
    }

    /// Forgets everything; returns the newest position.
    pub(super) fn clear(&mut self) -> Sequence {
        let newest = self.buckets.iter().map(|bucket| bucket.last).max().unwrap_or_default();
        *self = Vanished::new(self.records_max);
        Sequence(newest)
    }

    fn take_oldest(&mut self) -> Option<Sequence> {
        let filled = self.buckets.iter().enumerate().filter(|(_, bucket)| bucket.bytes > 0);
        let (bucket, _) = filled.min_by_key(|(_, bucket)| bucket.first)?;
        self.take_first(bucket)
    }

    fn take_first(&mut self, bucket: usize) -> Option<Sequence> {
        let first = self.buckets[bucket].first;
        let mut is_first = true;
        self.retain(bucket, |_| !std::mem::take(&mut is_first));
        Some(Sequence(first))
    }

    fn key(&self, name: &Topic) -> Key {
        let mut hasher = DefaultHasher::new();
        name.as_str().hash(&mut hasher);
        let hash = hasher.finish();
        Key {
            bucket: (hash >> (8 * HASH_BYTES)) as usize % self.buckets.len(),
            hash: hash & ((1 << (8 * HASH_BYTES)) - 1),
        }
    }

    // ---- buckets ----

    /// A bucket's records, the oldest first.
    fn records_of(&self, bucket: usize) -> impl Iterator<Item = (u64, u64)> {
        let Bucket { first, bytes, .. } = self.buckets[bucket];
        let start = bucket * self.bucket_bytes;
        let mut rest = &self.block[start..start + bytes];
        let mut position = first;
        std::iter::from_fn(move || {
            let (hash, after) = rest.split_first_chunk::<HASH_BYTES>()?;
            let (difference, after) = read_number(after);
            rest = after;
            position += difference;
            let mut bytes = [0; 8];
            bytes[..HASH_BYTES].copy_from_slice(hash);
            Some((u64::from_le_bytes(bytes), position))
        })
    }

    fn append(&mut self, bucket: usize, hash: u64, position: u64) {
        let extent = &mut self.buckets[bucket];
        if extent.bytes == 0 {
            (extent.first, extent.last) = (position, position);
        }
        let start = bucket * self.bucket_bytes + extent.bytes;
        let free = &mut self.block[start..start + RECORD_BYTES_MAX];
        free[..HASH_BYTES].copy_from_slice(&hash.to_le_bytes()[..HASH_BYTES]);
        extent.bytes += HASH_BYTES + write_number(&mut free[HASH_BYTES..], position - extent.last);
        extent.last = position;
    }

    fn retain(&mut self, bucket: usize, keep: impl FnMut(&(u64, u64)) -> bool) {
        let before: Vec<_> = self.records_of(bucket).collect();
        let count = before.len();
        let kept: Vec<_> = before.into_iter().filter(keep).collect();
        self.records -= count - kept.len();
        self.rewrite(bucket, &kept);
        if self.records == 0 {
            (self.block, self.bucket_bytes) = (Vec::new(), 0);
        }
    }

    fn rewrite(&mut self, bucket: usize, records: &[(u64, u64)]) {
        self.buckets[bucket] = Bucket::default();
        records.iter().for_each(|(hash, position)| self.append(bucket, *hash, *position));
    }

    /// Gives each bucket a sixteenth more bytes: they fill up evenly.
    fn grow(&mut self) {
        let bucket_bytes = self.bucket_bytes + (self.bucket_bytes / 16).max(2 * RECORD_BYTES_MAX);
        let mut block = vec![0; bucket_bytes * self.buckets.len()];
        for (index, bucket) in self.buckets.iter().enumerate() {
            let from = index * self.bucket_bytes;
            block[index * bucket_bytes..][..bucket.bytes].copy_from_slice(&self.block[from..from + bucket.bytes]);
        }
        (self.block, self.bucket_bytes) = (block, bucket_bytes);
    }
}

/// Writes seven bits of a number in each byte, the lowest first; returns how many bytes these are.
fn write_number(bytes: &mut [u8], mut number: u64) -> usize {
    let mut length = 0;
    while number >= 0x80 {
        bytes[length] = number as u8 | 0x80;
        number >>= 7;
        length += 1;
    }
    bytes[length] = number as u8;
    length + 1
}

fn read_number(bytes: &[u8]) -> (u64, &[u8]) {
    let length = bytes.iter().position(|byte| byte & 0x80 == 0).map_or(bytes.len(), |last| last + 1);
    let (number, rest) = bytes.split_at(length);
    (number.iter().rev().fold(0, |number, byte| number << 7 | u64::from(byte & 0x7f)), rest)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn name(n: u64) -> Topic {
        Topic::new(&format!("topic {n}")).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 30, ..ProptestConfig::default() })]

        #[test]
        fn records_are_those_of_a_map_that_forgets_the_oldest(
            steps in prop::collection::vec((0u64..2000, prop_oneof![0u64..300, 0..u64::MAX], any::<bool>()), 1..800),
        ) {
            let (mut vanished, mut naive) = (Vanished::new(500), BTreeMap::new());
            for (topic, position, is_return) in steps {
                if is_return {
                    prop_assert_eq!(vanished.take(&name(topic)), naive.remove(&topic));
                    continue;
                }
                naive.insert(topic, Sequence(position));
                let forgotten = vanished.insert(&name(topic), Sequence(position));
                let oldest = naive.values().min().copied().filter(|_| naive.len() > 500);
                prop_assert_eq!(forgotten, oldest);
                if let Some(oldest) = oldest {
                    // Of several that are as old, which one is its own affair.
                    let is_oldest = |topic: &&u64| vanished.records_of(vanished.key(&name(**topic)).bucket)
                        .all(|record| record.0 != vanished.key(&name(**topic)).hash);
                    let gone = naive.iter().filter(|(_, position)| **position == oldest).map(|(topic, _)| topic);
                    let gone = *gone.into_iter().find(is_oldest).expect("one of them is gone");
                    naive.remove(&gone);
                }
                prop_assert_eq!(vanished.len(), naive.len());
            }
            for (topic, position) in naive {
                prop_assert_eq!(vanished.take(&name(topic)), Some(position));
            }
            prop_assert_eq!((vanished.len(), vanished.block.capacity()), (0, 0));
        }
    }

    /// What `docs/architecture.md` says of their memory.
    #[test]
    fn a_record_takes_ten_bytes_at_most_when_topics_were_published_to_once() {
        const COUNT: usize = 100_000;
        let mut vanished = Vanished::new(COUNT);
        (0..COUNT as u64).for_each(|n| assert_eq!(vanished.insert(&name(n), Sequence(n)), None));
        let bytes = vanished.block.capacity() + vanished.buckets.len() * size_of::<Bucket>();
        assert!(bytes <= 10 * COUNT, "{bytes} bytes");
        assert_eq!(vanished.insert(&name(COUNT as u64), Sequence(COUNT as u64)), Some(Sequence(0)), "the bound");
        assert_eq!((vanished.take(&name(0)), vanished.len()), (None, COUNT));
    }

    #[test]
    fn names_of_one_bucket_take_no_more_than_its_bound() {
        let mut vanished = Vanished::new(10_000);
        let bucket = vanished.key(&name(0)).bucket;
        let names: Vec<_> = (0..).map(name).filter(|name| vanished.key(name).bucket == bucket).take(4000).collect();
        let forgotten: Vec<_> =
            (1..).zip(&names).filter_map(|(n, name)| vanished.insert(name, Sequence(n))).map(|it| it.0).collect();
        assert!(vanished.bucket_bytes <= BUCKET_BYTES_MAX + BUCKET_BYTES_MAX / 16, "{}", vanished.bucket_bytes);
        assert_eq!(forgotten, (1..=forgotten.len() as u64).collect::<Vec<_>>(), "the oldest first");
        assert!(!forgotten.is_empty());
        assert_eq!(vanished.len(), names.len() - forgotten.len());
        assert_eq!(vanished.take(names.last().unwrap()), Some(Sequence(4000)));
    }
}
