//! Leases of pages: which free pages each connection that allocates beside others may take without meeting them.
//!
//! A connection notes in its snapshot slot when it last leased, and as far as which page beyond the end of the database. Those that have
//! leased within a time share the freelist by the numbers of its pages, each in its place among them; and a stretch beyond the end
//! begins after those of all others. It is all a hint: what is published is checked. So there is no lock, and the lease of a process that
//! is dead or stopped needs no end but its time. A stretch that lies far after the end was leased when the database was larger, before a
//! VACUUM: it does not count, or the file would grow back to it.

use super::control_block::ControlView;
use super::snapshots::{SnapshotSlot, SnapshotTable};
use crate::interleave::step;
use crate::sync::atomic::Ordering::SeqCst;
use std::ops::RangeInclusive;

/// What each connection that leases pages gets of the freelist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sharing {
    /// Its place among them, from 0 on.
    pub place: u32,
    /// How many they are.
    pub sharers: u32,
    /// What it has leased beyond the end of the database,
    pub own: RangeInclusive<u64>,
    /// and each of the others, which may lie in the database by now.
    pub others: Vec<RangeInclusive<u64>>,
}

impl Sharing {
    /// Whether its lease beyond the end lies farther after a database of `pages` pages than leases do: it was larger then.
    #[must_use]
    pub fn is_far(&self, pages: u32) -> bool {
        let leased = self.others.iter().chain([&self.own]);
        *self.own.start() > reach(pages, 0, leased)
    }
}

/// The last page that the next lease beyond the end may begin at: after those that there are, and what was left of earlier ones as they
/// were used up.
fn reach<'l>(pages: u32, count: u32, leased: impl Iterator<Item = &'l RangeInclusive<u64>>) -> u64 {
    let length = |range: &RangeInclusive<u64>| range.end().saturating_add(1).saturating_sub(*range.start());
    let all = leased.map(length).fold(u64::from(count), u64::saturating_add);
    u64::from(pages).saturating_add(LEFT.saturating_mul(all))
}

/// How often what is leased may have been left, and leased anew.
const LEFT: u64 = 4;

/// The leases of a database.
#[derive(Clone, Copy)]
pub struct PageLeases<'a>(&'a SnapshotTable);

impl<'a> PageLeases<'a> {
    /// Those of this control block.
    #[must_use]
    pub fn of(control: &'a ControlView) -> PageLeases<'a> {
        PageLeases(&control.snapshots)
    }

    /// The connections other than that of `slot` that have leased pages within `lease_us`, and what each has leased beyond the end: its
    /// place before (true) or after that one.
    fn leases(
        &self,
        slot: SnapshotSlot,
        now_us: u64,
        lease_us: u64,
    ) -> impl Iterator<Item = (bool, RangeInclusive<u64>)> + 'a {
        self.0.slots.iter().take(self.0.used()).zip(0u16..).filter_map(move |(line, index)| {
            let leased_us = line.leased_us.load(SeqCst);
            let counts = leased_us != 0 && now_us.saturating_sub(leased_us) < lease_us && line.owner.load(SeqCst) != 0;
            (counts && index != slot.0).then(|| (index < slot.0, line.leased()))
        })
    }

    /// When transactions last allocated pages beside each other (us, as [`now_us`](crate::os::now_us)); 0: never.
    pub(crate) fn allocated_us(&self) -> u64 {
        self.0.counts.allocated_us.load(SeqCst)
    }

    /// As [`allocated_us`](PageLeases::allocated_us).
    pub(crate) fn set_allocated_us(&self, now_us: u64) {
        self.0.counts.allocated_us.store(now_us, SeqCst);
    }

    /// Leases of pages beyond the end that were given.
    fn leases_given(&self) -> u64 {
        self.0.counts.leases_given.load(SeqCst)
    }

    /// One more is given, if none was since there were `leases`.
    fn give_lease(&self, leases: u64) -> bool {
        self.0.counts.leases_given.compare_exchange(leases, leases + 1, SeqCst, SeqCst).is_ok()
    }

    fn renew_lease(&self, slot: SnapshotSlot, now_us: u64, lease_us: u64) {
        let line = self.0.line(slot);
        if now_us.saturating_sub(line.leased_us.load(SeqCst)) >= lease_us {
            line.leased_to.store(0, SeqCst);
        }
        line.leased_us.store(now_us, SeqCst);
    }

    /// The connection of this slot leases pages of the freelist, with those that have within `lease_us`. Like all leases a hint: what
    /// is published is checked. So one of a process that is dead or stopped needs no end but its time.
    pub fn share_pages(&self, slot: SnapshotSlot, now_us: u64, lease_us: u64) -> Sharing {
        self.renew_lease(slot, now_us, lease_us);
        let mut sharing = Sharing { place: 0, sharers: 1, own: self.0.line(slot).leased(), others: Vec::new() };
        for (is_before, leased) in self.leases(slot, now_us, lease_us) {
            sharing.place += u32::from(is_before);
            sharing.sharers += 1;
            sharing.others.push(leased);
        }
        sharing
    }

    /// The first of `count` pages that no other connection has leased beyond the end of a database of `pages` pages. Leases of a time
    /// when it was far larger do not count.
    pub fn lease_beyond(&self, slot: SnapshotSlot, (pages, count): (u32, u32), now_us: u64, lease_us: u64) -> u32 {
        self.renew_lease(slot, now_us, lease_us);
        let line = self.0.line(slot);
        loop {
            let leases = self.leases_given();
            let others: Vec<_> = self.leases(slot, now_us, lease_us).map(|(_, leased)| leased).collect();
            let reach = reach(pages, count, others.iter());
            let near = others.iter().filter(|leased| *leased.start() <= reach);
            let last = near.map(|leased| *leased.end()).max().unwrap_or(0).max(u64::from(pages));
            step("before a lease");
            line.leased_from.store(last + 1, SeqCst);
            line.leased_to.store(last + u64::from(count), SeqCst);
            // Else another one has leased meanwhile, perhaps the same.
            if self.give_lease(leases) {
                return u32::try_from(last + 1).unwrap_or(u32::MAX);
            }
            line.leased_to.store(0, SeqCst);
        }
    }
}
