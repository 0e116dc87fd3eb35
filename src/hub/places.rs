//! A table whose entries keep their places: it grows in steps and moves no entry, and returns the memory of parts that have
//! become empty.
//!
//! Free places are taken from the front, so that after a time with many entries the parts at the end become empty.

use std::collections::BTreeSet;

/// Places of one part. With a topic in each, a part is larger than the blocks that the allocator returns one by one
/// (`io::allocator`).
const PART: usize = 512;

#[derive(Debug)]
pub(super) struct Places<T> {
    parts: Vec<Part<T>>,
    /// The parts that have both entries and free places, or whose places are not allocated.
    open: BTreeSet<u32>,
    len: usize,
}

#[derive(Debug)]
struct Part<T> {
    /// None of them while there is no entry.
    entries: Box<[Option<T>]>,
    /// A bit for each place that is taken.
    taken: [u64; PART / 64],
    len: usize,
}

impl<T> Places<T> {
    pub(super) fn new() -> Places<T> {
        Places { parts: Vec::new(), open: BTreeSet::new(), len: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// All places are below this one.
    pub(super) fn end(&self) -> usize {
        self.parts.len() * PART
    }

    pub(super) fn get(&self, place: usize) -> Option<&T> {
        self.parts.get(place / PART)?.entries.get(place % PART)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, place: usize) -> Option<&mut T> {
        self.parts.get_mut(place / PART)?.entries.get_mut(place % PART)?.as_mut()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, &T)> {
        let places = self.parts.iter().enumerate().flat_map(|(index, part)| {
            part.entries.iter().enumerate().map(move |(place, entry)| (index * PART + place, entry))
        });
        places.filter_map(|(place, entry)| Some((place, entry.as_ref()?)))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.parts.iter_mut().flat_map(|part| part.entries.iter_mut().flatten())
    }

    /// Stores an entry at the first free place, which it returns.
    pub(super) fn insert(&mut self, entry: T) -> usize {
        let index = self.open.first().map_or(self.parts.len(), |index| *index as usize);
        if index == self.parts.len() {
            self.parts.push(Part::new());
            self.open.insert(index as u32);
        }
        let part = &mut self.parts[index];
        let place = part.insert(entry);
        if part.len == PART {
            self.open.remove(&(index as u32));
        }
        self.len += 1;
        index * PART + place
    }

    pub(super) fn remove(&mut self, place: usize) -> Option<T> {
        let index = place / PART;
        let entry = self.parts.get_mut(index)?.remove(place % PART)?;
        self.open.insert(index as u32);
        self.len -= 1;
        while self.parts.pop_if(|part| part.len == 0).is_some() {
            self.open.remove(&(self.parts.len() as u32));
        }
        Some(entry)
    }
}

impl<T> Part<T> {
    fn new() -> Part<T> {
        Part { entries: Box::default(), taken: [0; PART / 64], len: 0 }
    }

    fn insert(&mut self, entry: T) -> usize {
        if self.entries.is_empty() {
            self.entries = (0..PART).map(|_| None).collect();
        }
        let word = self.taken.iter().position(|word| *word != u64::MAX).expect("an open part has a free place");
        let bit = self.taken[word].trailing_ones() as usize;
        self.taken[word] |= 1 << bit;
        self.entries[word * 64 + bit] = Some(entry);
        self.len += 1;
        word * 64 + bit
    }

    fn remove(&mut self, place: usize) -> Option<T> {
        let entry = self.entries.get_mut(place)?.take()?;
        self.taken[place / 64] &= !(1 << (place % 64));
        self.len -= 1;
        if self.len == 0 {
            self.entries = Box::default();
        }
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_keep_their_places_and_empty_parts_take_no_memory() {
        let mut places = Places::new();
        (0..3 * PART + 1).for_each(|n| assert_eq!(places.insert(n), n));
        assert_eq!((places.len(), places.end()), (3 * PART + 1, 4 * PART));
        let removed = [PART + 5, PART + 5, 9 * PART].map(|place| places.remove(place));
        assert_eq!(removed, [Some(PART + 5), None, None]);
        assert_eq!([places.remove(7), places.remove(3)], [Some(7), Some(3)]);
        assert_eq!([(); 4].map(|()| places.insert(0)), [3, 7, PART + 5, 3 * PART + 1], "the first free place");
        assert_eq!(
            (places.get(PART).copied(), places.get_mut(3).copied(), places.get(4 * PART)),
            (Some(PART), Some(0), None)
        );
        assert_eq!((places.iter().count(), places.iter_mut().count()), (places.len(), places.len()));
        // An empty part in the middle stays without memory; those at the end go.
        (PART..2 * PART).for_each(|place| _ = places.remove(place));
        assert!(places.parts[1].entries.is_empty());
        (2 * PART..3 * PART + 2).for_each(|place| _ = places.remove(place));
        assert_eq!((places.len(), places.end()), (PART, PART));
        assert_eq!(places.insert(1), PART);
    }
}
