//! A process's place among those that share a database: which of the others live is said, not asked of the kernel.

use super::{ControlBlock, Owner};
use std::fmt;
use std::sync::Arc;

pub(crate) struct Member {
    control: Arc<ControlBlock>,
    me: Owner,
}

impl Member {
    pub(crate) fn new(control: &Arc<ControlBlock>, me: Owner) -> Member {
        Member { control: Arc::clone(control), me }
    }

    pub(crate) fn control(&self) -> &ControlBlock {
        &self.control
    }

    pub(crate) fn me(&self) -> Owner {
        self.me
    }

    /// Nobody dies.
    pub(crate) fn is_alive(&self, _owner: Owner) -> bool {
        true
    }
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.me.fmt(f)
    }
}
