//! Cursors: how far a source that keeps its entries was read, stored by the bus together with what was appended from it.
//!
//! The comparison of the cursor is the fence. A node that was paused appends nothing, because another node has moved the
//! cursor meanwhile. A crash neither loses nor repeats: a node that got no answer reads the cursor and continues there.

use crate::sources::bus::{Content, EngineError, Receipt};

/// An engine that stores how far a source was read together with what was appended from it. Every call is bounded in time.
pub trait CursorEngine: Send {
    /// How far the source was read; none: nothing yet.
    fn cursor(&mut self, source: &str) -> Result<Option<String>, EngineError>;

    /// Appends and moves the cursor, both or neither. `None`: the cursor is not `from`, because another node moved it;
    /// nothing was appended. After an error, both may have happened all the same: the cursor shows it. No cursor is empty.
    fn append_from(
        &mut self,
        source: &str,
        from: Option<&str>,
        to: &str,
        contents: &[Content],
    ) -> Result<Option<Vec<Receipt>>, EngineError>;
}
