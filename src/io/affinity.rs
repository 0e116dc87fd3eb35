//! Which cores threads run on: each loop has a core of its own, and all other threads share the rest.
#![allow(unsafe_code)]

use std::io;
use std::mem::{MaybeUninit, size_of};

/// Cores that threads may use, by their numbers in the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cores(Vec<usize>);

impl Cores {
    /// Those that this thread may use.
    pub fn allowed() -> io::Result<Cores> {
        let mut set = MaybeUninit::<libc::cpu_set_t>::zeroed();
        // SAFETY: the pointer and the size are those of a live set, which the call writes.
        let outcome = unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), set.as_mut_ptr()) };
        if outcome != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: zero is a valid set, and so is what the call wrote.
        let set = unsafe { set.assume_init() };
        // SAFETY: every number is below the size of a set.
        let is_in = |core: &usize| unsafe { libc::CPU_ISSET(*core, &set) };
        Ok(Cores((0..libc::CPU_SETSIZE as usize).filter(is_in).collect()))
    }

    /// One core for each of `loops` loops, and what is left for other threads: all, if no core is left. None: there are fewer
    /// cores than loops, or only one loop; no thread has a core of its own then.
    pub fn split(&self, loops: usize) -> Option<(Vec<Cores>, Cores)> {
        if loops < 2 || loops > self.0.len() {
            return None;
        }
        let (of_loops, rest) = self.0.split_at(loops);
        let rest = if rest.is_empty() { self.clone() } else { Cores(rest.to_vec()) };
        Some((of_loops.iter().map(|core| Cores(vec![*core])).collect(), rest))
    }

    /// Has this thread, and the threads that it starts from now on, use these cores only.
    pub fn keep_this_thread(&self) -> io::Result<()> {
        let mut set = MaybeUninit::<libc::cpu_set_t>::zeroed();
        // SAFETY: zero is a valid set.
        let set = unsafe { set.assume_init_mut() };
        // SAFETY: every number is below the size of a set.
        self.0.iter().for_each(|core| unsafe { libc::CPU_SET(*core, set) });
        // SAFETY: the pointer and the size are those of a live set, which the call reads.
        let outcome = unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), set) };
        if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loops_have_cores_of_their_own_if_there_are_enough() {
        let cores = |numbers: &[usize]| Cores(numbers.to_vec());
        let four = cores(&[1, 2, 5, 7]);
        assert_eq!(four.split(1), None);
        assert_eq!(four.split(2), Some((vec![cores(&[1]), cores(&[2])], cores(&[5, 7]))));
        let (of_loops, rest) = four.split(4).unwrap();
        assert_eq!((of_loops.len(), rest), (4, four.clone()), "no core is left: other threads use all");
        assert_eq!(four.split(5), None);
    }

    #[test]
    fn a_thread_keeps_to_its_cores() {
        let allowed = Cores::allowed().unwrap();
        let last = Cores(vec![*allowed.0.last().unwrap()]);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                last.keep_this_thread().unwrap();
                assert_eq!(Cores::allowed().unwrap(), last);
            });
        });
        assert_eq!(Cores::allowed().unwrap(), allowed, "another thread's");
    }
}
