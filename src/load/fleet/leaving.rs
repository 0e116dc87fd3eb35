//! Client misbehaviour: leaving, coming back in a storm, falling silent, reading slowly. Parts of a fleet's turn.

use std::cmp::Reverse;

use super::super::client::{Phase, Scratch};
use super::super::plan::{Role, is_chosen};
use super::{Fleet, Stage};

const SLOW_READ_INTERVAL_US: u64 = 100_000;

impl Fleet {
    /// Lets clients leave when their time has come, depending on the stage.
    pub(super) fn let_leave(&mut self, now_us: u64) {
        let elapsed_us = now_us - self.last_turn_us;
        self.last_turn_us = now_us;
        match self.stage {
            Stage::Holding { storm_at_us } => {
                if storm_at_us.is_some_and(|at_us| at_us <= now_us) {
                    self.stage = Stage::Holding { storm_at_us: None };
                    self.storm(now_us);
                }
                self.churn(elapsed_us, now_us);
            }
            Stage::RampingDown { at_us, mut stopped } => {
                let plan = &self.shared.plan;
                while stopped < self.clients.len() {
                    let index = self.part.index + stopped as u32 * self.part.count;
                    if at_us + plan.connect_after_us(index) > now_us {
                        break;
                    }
                    self.clients[stopped].hang_up(Phase::Gone);
                    stopped += 1;
                }
                self.stage = Stage::RampingDown { at_us, stopped };
            }
            _ => {}
        }
    }

    fn storm(&mut self, now_us: u64) {
        for slot in 0..self.clients.len() {
            if is_chosen(self.client_index(slot), self.shared.plan.storm_share) {
                self.leave(slot, now_us);
            }
        }
    }

    fn churn(&mut self, elapsed_us: u64, now_us: u64) {
        let leavers = self.clients.len() as f64 * self.shared.plan.churn_per_second * elapsed_us as f64 / 1e6;
        self.churn_credit += leavers;
        while self.churn_credit >= 1.0 {
            self.churn_credit -= 1.0;
            let slot = (self.next_random() % self.clients.len() as u64) as usize;
            self.leave(slot, now_us);
        }
    }

    /// Disconnects a client, which comes back when it has been away for long enough.
    fn leave(&mut self, slot: usize, now_us: u64) {
        let client = &mut self.clients[slot];
        if client.role == Role::Plain && client.is_streaming() {
            client.hang_up(Phase::Away);
            client.attempt = client.attempt.wrapping_add(1);
            self.due.push(Reverse((now_us + self.shared.plan.away_us, slot as u32, client.attempt)));
        }
    }

    /// Makes blackhole clients silent, as if their cables were cut.
    pub(super) fn silence_blackholes(&mut self) {
        for client in self.clients.iter().filter(|client| client.role == Role::Blackhole && client.is_streaming()) {
            if client.line.as_ref().is_some_and(|line| line.go_silent().is_ok()) {
                self.shared.tally.counters.blackholed_clients += 1;
            }
        }
    }

    /// Lets slow clients read their share of bytes.
    pub(super) fn read_slowly(&mut self, now_us: u64, scratch: &mut Scratch) {
        let bytes_per_second = self.shared.plan.slow_bytes_per_second;
        if now_us < self.next_slow_read_us || bytes_per_second == 0 || self.shared.plan.slow_share == 0.0 {
            return;
        }
        self.next_slow_read_us = now_us + SLOW_READ_INTERVAL_US;
        self.slow_read_phase += 1;
        // Below ten bytes a second, some turns have no byte to read.
        let turns_per_second = (1_000_000 / SLOW_READ_INTERVAL_US) as u32;
        let phase = self.slow_read_phase % turns_per_second;
        let budget = bytes_per_second * (phase + 1) / turns_per_second - bytes_per_second * phase / turns_per_second;
        for slot in 0..self.clients.len() {
            let index = self.client_index(slot);
            let client = &mut self.clients[slot];
            if client.role != Role::Slow || !client.is_streaming() {
                continue;
            }
            if let Err(ending) = client.read(index, budget as usize, false, &mut self.shared, scratch) {
                self.ended(slot, &ending);
            }
        }
    }

    /// xorshift64: the choice of clients that leave is arbitrary but the same in every run.
    fn next_random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}
