//! What a process owes its databases when it exits: the engines of all registrations are closed.

use super::registry::Context;
use crate::os::{between_forks, watch};
use crate::sync::Mutex;
use std::sync::{Arc, Weak};

/// The contexts whose engines the exit of the process closes.
static CONTEXTS: Mutex<Vec<Weak<Context>>> = Mutex::new(Vec::new());

fn close_at_exit() {
    // Not held over the closes, which call the application's log: it may fork.
    let Some(contexts) = CONTEXTS.try_lock().map(|contexts| contexts.clone()) else { return };
    for context in contexts.iter().filter_map(Weak::upgrade) {
        context.registry.close_all();
    }
}

/// Before the first lock: a child that is forked from here on closes what it inherits.
pub(super) fn watch_process(context: &Arc<Context>) {
    watch(close_at_exit);
    let _no_fork = between_forks();
    let mut contexts = CONTEXTS.lock();
    if !contexts.iter().any(|known| std::ptr::eq(known.as_ptr(), Arc::as_ptr(context))) {
        contexts.push(Arc::downgrade(context));
    }
}
