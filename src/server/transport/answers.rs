//! Answers that clients have not read yet: how many bytes may wait, and for which clients.
//!
//! All loops of the node count together, and none waits for another. Between the check and the charge of an answer, another
//! loop may charge one, too.
//!
//! The public listeners share `--answer-bytes`. One client address may hold a quarter of it, so that no client makes
//! the server refuse all others. The admin listener has an allowance of its own, which public clients cannot use up.
//! Peers that stand for many clients (a trusted proxy that names none, a unix socket) have no share, only the whole.
//!
//! Invariant: a charge is released once, to the same account, when the answer is written or its connection closes.
//! Answers that the kernel took at once are not counted.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::peer::{AddressKey, CompactPeer};
use crate::server::node::address_counts::AddressCounts;
use crate::server::settings::Settings;

/// What one client address may hold of `--answer-bytes`: one part in four.
const ADDRESS_SHARE: usize = 4;
/// What the admin listener's clients may leave unread. Its largest view has a few hundred KiB.
const ADMIN_BYTES_MAX: usize = 4 << 20;
/// The size of an answer that is always given: a health check's, a refusal's.
pub(crate) const SMALL_ANSWER_BYTES: usize = 1 << 10;

/// Which account an answer is charged to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Account {
    /// The admin listener.
    Admin,
    /// A client of a public listener, by its address; none: a peer that stands for many.
    Public(Option<AddressKey>),
}

impl Account {
    /// The account of a client, or of a peer whose client is not known.
    pub(super) fn of(is_admin: bool, peer: CompactPeer, settings: &Settings) -> Account {
        if is_admin {
            return Account::Admin;
        }
        let stands_for_many = peer.ip().is_none() || settings.proxies.trusted.trusts(peer.ip());
        Account::Public((!stands_for_many).then(|| peer.key()))
    }
}

/// Bytes of the answers that are being written.
#[derive(Debug, Default)]
pub(crate) struct WaitingAnswers {
    public_bytes: AtomicUsize,
    admin_bytes: AtomicUsize,
    of_addresses: AddressCounts<usize>,
}

impl WaitingAnswers {
    /// The bytes of the public listeners' answers.
    pub(crate) fn public_bytes(&self) -> usize {
        self.public_bytes.load(Ordering::Relaxed)
    }

    /// True if an answer of this size may wait. If no other waits, any size may.
    pub(crate) fn has_room(&self, account: Account, bytes: usize, public_max: usize) -> bool {
        let fits = |waiting: usize, max: usize| waiting == 0 || waiting.saturating_add(bytes) <= max;
        match account {
            Account::Admin => fits(self.admin_bytes.load(Ordering::Relaxed), ADMIN_BYTES_MAX),
            Account::Public(address) => {
                let of_address = address.map_or(0, |address| self.of_addresses.count(address));
                fits(self.public_bytes(), public_max) && fits(of_address, public_max / ADDRESS_SHARE)
            }
        }
    }

    pub(crate) fn charge(&self, account: Account, bytes: usize) {
        match account {
            Account::Admin => _ = self.admin_bytes.fetch_add(bytes, Ordering::Relaxed),
            Account::Public(address) => {
                self.public_bytes.fetch_add(bytes, Ordering::Relaxed);
                address.into_iter().for_each(|address| _ = self.of_addresses.take(address, bytes, usize::MAX));
            }
        }
    }

    /// Releases an answer's charge; none, if it never had to wait.
    pub(crate) fn release(&self, account: Account, bytes: usize) {
        match account {
            _ if bytes == 0 => {}
            Account::Admin => _ = self.admin_bytes.fetch_sub(bytes, Ordering::Relaxed),
            Account::Public(address) => {
                self.public_bytes.fetch_sub(bytes, Ordering::Relaxed);
                address.into_iter().for_each(|address| self.of_addresses.give_back(address, bytes));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUBLIC_MAX: usize = 400;

    fn charged(answers: &WaitingAnswers, account: Account, bytes: usize) -> (Account, usize) {
        answers.charge(account, bytes);
        (account, bytes)
    }

    #[test]
    fn one_address_holds_its_share_and_all_together_the_whole() {
        let answers = WaitingAnswers::default();
        let address = |n: u8| Account::Public(Some([n; 8]));
        let first = charged(&answers, address(1), 60);
        assert!(answers.has_room(address(1), 40, PUBLIC_MAX));
        assert!(!answers.has_room(address(1), 41, PUBLIC_MAX));
        assert!(answers.has_room(address(2), 340, PUBLIC_MAX), "whose first answer it is may have one of any size");
        let others: Vec<_> = (2..5).map(|n| charged(&answers, address(n), 100)).collect();
        assert!(answers.has_room(address(5), 40, PUBLIC_MAX));
        assert!(!answers.has_room(address(5), 41, PUBLIC_MAX));
        assert!(!answers.has_room(Account::Public(None), 41, PUBLIC_MAX));
        others.into_iter().for_each(|(account, bytes)| answers.release(account, bytes));
        assert!(answers.has_room(Account::Public(None), 340, PUBLIC_MAX), "who stands for many may have the whole");
        answers.release(first.0, first.1);
        assert_eq!((answers.public_bytes(), answers.of_addresses.len()), (0, 0));
        assert!(answers.has_room(address(1), 10 * PUBLIC_MAX, PUBLIC_MAX), "one of any size, where none waits");
    }

    #[test]
    fn the_admin_listener_and_the_public_ones_do_not_share() {
        let answers = WaitingAnswers::default();
        let public = charged(&answers, Account::Public(None), PUBLIC_MAX);
        assert!(answers.has_room(Account::Admin, ADMIN_BYTES_MAX, PUBLIC_MAX));
        let admin = charged(&answers, Account::Admin, ADMIN_BYTES_MAX - 1);
        assert!(answers.has_room(Account::Admin, 1, PUBLIC_MAX) && !answers.has_room(Account::Admin, 2, PUBLIC_MAX));
        answers.release(public.0, public.1);
        assert!(answers.has_room(Account::Public(None), PUBLIC_MAX, PUBLIC_MAX));
        answers.release(admin.0, admin.1);
        assert_eq!(answers.admin_bytes.into_inner(), 0);
    }
}
