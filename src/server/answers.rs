//! Answers that clients have not read yet: how many bytes may wait, and whose they are.
//!
//! The public listeners share `--answer-bytes`. One client address may hold a quarter of it, so that no single one
//! makes the server refuse all others. The admin listener has an allowance of its own, which no stranger can use up.
//! Peers that stand for many clients (a trusted proxy that names none, a unix socket) have no share, only the whole.
//!
//! Invariant: what was charged is released once, to the same account, when the answer is written or its connection
//! closes. Absent: answers that the kernel took at once; they wait for nobody and are not counted.

use std::collections::HashMap;

use super::Server;
use super::connection::{AddressKey, Flags, Phase, Responding};
use super::refusal::Refusal;
use crate::io::Io;
use crate::protocol::head::RequestHead;
use crate::protocol::response::{self, Response};

/// What one client address may hold of `--answer-bytes`: one part in four.
const ADDRESS_SHARE: usize = 4;
/// What the admin listener's clients may leave unread. No view that it has is larger than a few hundred KiB.
const ADMIN_BYTES_MAX: usize = 4 << 20;
/// An answer that is always given: a health check's, a refusal's.
const SMALL_ANSWER_BYTES: usize = 1 << 10;

/// Who pays for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Account {
    /// The admin listener.
    Admin,
    /// A client of a public listener, by its address; none: a peer that stands for many.
    Public(Option<AddressKey>),
}

/// Bytes of the answers that are being written.
#[derive(Debug, Default)]
pub(super) struct WaitingAnswers {
    public_bytes: usize,
    admin_bytes: usize,
    of_addresses: HashMap<AddressKey, usize>,
}

impl WaitingAnswers {
    /// Those of the public listeners.
    pub(super) fn public_bytes(&self) -> usize {
        self.public_bytes
    }

    /// True if an answer of this size may wait. Where none waits, one of any size may.
    fn has_room(&self, account: Account, bytes: usize, public_max: usize) -> bool {
        let fits = |waiting: usize, max: usize| waiting == 0 || waiting.saturating_add(bytes) <= max;
        match account {
            Account::Admin => fits(self.admin_bytes, ADMIN_BYTES_MAX),
            Account::Public(address) => {
                let of_address = address.and_then(|address| self.of_addresses.get(&address)).copied().unwrap_or(0);
                fits(self.public_bytes, public_max) && fits(of_address, public_max / ADDRESS_SHARE)
            }
        }
    }

    fn charge(&mut self, account: Account, bytes: usize) {
        match account {
            Account::Admin => self.admin_bytes += bytes,
            Account::Public(address) => {
                self.public_bytes += bytes;
                if let Some(address) = address {
                    *self.of_addresses.entry(address).or_insert(0) += bytes;
                }
            }
        }
    }

    /// Takes back what an answer was charged; nothing, if it never had to wait.
    pub(super) fn release(&mut self, answer: &Responding) {
        let bytes = answer.waiting_bytes;
        match answer.account {
            _ if bytes == 0 => {}
            Account::Admin => self.admin_bytes -= bytes,
            Account::Public(address) => {
                self.public_bytes -= bytes;
                let Some(address) = address else { return };
                let of_address = self.of_addresses.get_mut(&address).expect("it was charged");
                *of_address -= bytes;
                if *of_address == 0 {
                    self.of_addresses.remove(&address);
                }
            }
        }
    }
}

impl<I: Io> Server<I> {
    /// Who pays for the answer to a request; without a head, for one that could not be read.
    pub(super) fn account(&self, slot: u32, head: Option<&RequestHead>) -> Account {
        let connection = &self.connections[slot as usize];
        if connection.flags.has(Flags::ADMIN) {
            return Account::Admin;
        }
        let client = head.map_or(connection.peer, |head| self.client(slot, head));
        let stands_for_many = client.ip().is_none() || self.is_trusted(client);
        Account::Public((!stands_for_many).then(|| client.key()))
    }

    /// Asks, before a large answer is built, whether it may be.
    pub(super) fn admit_answer(&mut self, slot: u32, head: &RequestHead, bytes: usize) -> Result<(), Response> {
        let account = self.account(slot, Some(head));
        match self.has_room_for_answer(account, bytes) {
            true => Ok(()),
            false => Err(self.refuse_answer()),
        }
    }

    /// True if an answer may be given to this account.
    pub(super) fn may_answer(&self, account: Account, response: &Response) -> bool {
        // What was published is published: its sender must not be told to try again.
        response.status == 202 || self.has_room_for_answer(account, response.body.len())
    }

    fn has_room_for_answer(&self, account: Account, bytes: usize) -> bool {
        bytes <= SMALL_ANSWER_BYTES || self.answers.has_room(account, bytes, self.settings.limits.answer_bytes_max)
    }

    pub(super) fn refuse_answer(&mut self) -> Response {
        let refusal = Refusal::AnswerBytes;
        self.count_refusal(refusal);
        response::problem(refusal.status(), "Too busy", refusal.detail()).with_header("Retry-After", "1")
    }

    /// Charges an answer that the kernel did not take whole.
    pub(super) fn charge_if_waiting(&mut self, slot: u32, bytes: usize) {
        if let Phase::Responding(responding) = &mut self.connections[slot as usize].phase {
            responding.waiting_bytes = bytes;
            self.answers.charge(responding.account, bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::request::Request;

    const PUBLIC_MAX: usize = 400;

    fn charged(answers: &mut WaitingAnswers, account: Account, bytes: usize) -> Responding {
        answers.charge(account, bytes);
        Responding { request: Request::default(), last: None, account, waiting_bytes: bytes }
    }

    #[test]
    fn one_address_holds_its_share_and_all_together_the_whole() {
        let mut answers = WaitingAnswers::default();
        let address = |n: u8| Account::Public(Some([n; 8]));
        let first = charged(&mut answers, address(1), 60);
        assert!(answers.has_room(address(1), 40, PUBLIC_MAX));
        assert!(!answers.has_room(address(1), 41, PUBLIC_MAX));
        assert!(answers.has_room(address(2), 340, PUBLIC_MAX), "whose first answer it is may have one of any size");
        let others: Vec<_> = (2..5).map(|n| charged(&mut answers, address(n), 100)).collect();
        assert!(answers.has_room(address(5), 40, PUBLIC_MAX));
        assert!(!answers.has_room(address(5), 41, PUBLIC_MAX));
        assert!(!answers.has_room(Account::Public(None), 41, PUBLIC_MAX));
        others.iter().for_each(|answer| answers.release(answer));
        assert!(answers.has_room(Account::Public(None), 340, PUBLIC_MAX), "who stands for many may have the whole");
        answers.release(&first);
        assert_eq!((answers.public_bytes(), answers.of_addresses.len()), (0, 0));
        assert!(answers.has_room(address(1), 10 * PUBLIC_MAX, PUBLIC_MAX), "one of any size, where none waits");
    }

    #[test]
    fn the_admin_listener_and_the_public_ones_do_not_share() {
        let mut answers = WaitingAnswers::default();
        let public = charged(&mut answers, Account::Public(None), PUBLIC_MAX);
        assert!(answers.has_room(Account::Admin, ADMIN_BYTES_MAX, PUBLIC_MAX));
        let admin = charged(&mut answers, Account::Admin, ADMIN_BYTES_MAX - 1);
        assert!(answers.has_room(Account::Admin, 1, PUBLIC_MAX) && !answers.has_room(Account::Admin, 2, PUBLIC_MAX));
        answers.release(&public);
        assert!(answers.has_room(Account::Public(None), PUBLIC_MAX, PUBLIC_MAX));
        answers.release(&admin);
        assert_eq!(answers.admin_bytes, 0);
    }
}
