//! The beginning of the freelist, decoded, as the last commit of this process that changed it has left it.
//!
//! Each commit that allocates beside others needs page 1 and the first trunk as the commit before it left them, and the next
//! transaction of each connection is shown a list that is made of them. Both are in no page cache that pwal could ask. A frame number
//! stands for one image as long as the engine exists: what is known of the newest frame of page 1 is right.

use crate::pages::Head;
use crate::sync::Mutex;
use std::sync::Arc;

/// Page 1 as a frame holds it, and the beginning of the freelist that it leads to.
#[derive(Debug)]
pub(crate) struct Freelist {
    pub(crate) page_one: Vec<u8>,
    pub(crate) head: Head,
}

/// See the head of the file.
#[derive(Debug, Default)]
pub(crate) struct FreelistCache(Mutex<Option<(u64, Arc<Freelist>)>>);

impl FreelistCache {
    /// Of the frame `number` of page 1.
    pub(crate) fn get(&self, number: u64) -> Option<Arc<Freelist>> {
        self.0.lock().as_ref().filter(|(known, _)| *known == number).map(|(_, freelist)| Arc::clone(freelist))
    }

    /// Of the frame `number` of page 1, which is published; an older one than what is known is of no use.
    pub(crate) fn put(&self, number: u64, freelist: Arc<Freelist>) {
        let mut known = self.0.lock();
        if known.as_ref().is_none_or(|(known, _)| *known < number) {
            *known = Some((number, freelist));
        }
    }
}
