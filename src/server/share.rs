//! How the budgets of a turn give way to live delivery.

/// While walks are in progress, reading and catching up each have one part in this many of their budget.
const SHARE_BESIDE_WALKS: u32 = 4;

/// What such a budget is divided by.
pub(super) fn share(is_walking: bool) -> u32 {
    if is_walking { SHARE_BESIDE_WALKS } else { 1 }
}
