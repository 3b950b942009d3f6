//! The images of a commit as its batch stores them.
//!
//! A batch that carries its certificate is written in whole blocks. If it needs fewer of them without the longest run of zeros of
//! each image, these are left out; else images are stored as they are, but for masks. In a batch that shares its blocks with the
//! next ones, or is large, there is little to gain: nothing is looked for there.

use crate::log::format::{self, Descriptor, ImageForm, ImagePlace, OmittedZeros};
use crate::view::{Image, Lane, StagedFrame};
use std::borrow::Cow;

/// Zeros are looked for in commits of up to this number of frames.
const FRAMES_MAX: usize = 16;

/// Which zeros the images of a commit are stored without.
#[derive(Clone)]
pub(super) struct BatchImages {
    /// Of each frame; none at all: of no frame.
    omitted: Vec<OmittedZeros>,
    /// The batch without padding.
    pub(super) bytes: u64,
}

impl BatchImages {
    /// All images are stored whole.
    pub(super) fn whole(lane: &Lane, page_bytes: u32) -> BatchImages {
        let images = lane.memory_frames() as u64 * u64::from(page_bytes);
        BatchImages { omitted: Vec::new(), bytes: format::batch_head_bytes(lane.len()) + images }
    }

    /// Without zeros if the batch, which carries its certificate and begins at `tail`, needs fewer blocks then. `round_up`: to a
    /// block.
    pub(super) fn in_fewest_blocks(
        lane: &Lane,
        page_bytes: u32,
        tail: u64,
        round_up: impl Fn(u64) -> u64,
    ) -> BatchImages {
        let whole = BatchImages::whole(lane, page_bytes);
        if lane.len() > FRAMES_MAX {
            return whole;
        }
        let zeros = |frame: StagedFrame<'_>| match frame.image {
            Image::Memory(image) => OmittedZeros::longest_in(image),
            Image::Spill(_) => OmittedZeros::NONE,
        };
        let omitted: Vec<OmittedZeros> = lane.frames().map(zeros).collect();
        let bytes = whole.bytes - omitted.iter().map(|omitted| omitted.range().len() as u64).sum::<u64>();
        if round_up(tail + bytes) < round_up(tail + whole.bytes) { BatchImages { omitted, bytes } } else { whole }
    }

    /// The descriptors of the frames, and their images if one of them is not stored as it is. `mask_of` chooses the mask for
    /// bytes at a position.
    pub(super) fn store<'a>(
        &self,
        lane: &'a Lane,
        spill: Option<u32>,
        mask_of: impl Fn(&[u8], u64) -> u8,
    ) -> (Vec<Descriptor>, Vec<Cow<'a, [u8]>>) {
        let mut position = format::batch_head_bytes(lane.len());
        let (mut descriptors, mut images) = (Vec::with_capacity(lane.len()), Vec::new());
        let omitted = self.omitted.iter().copied().chain(std::iter::repeat(OmittedZeros::NONE));
        for (index, (frame, omitted)) in lane.frames().zip(omitted).enumerate() {
            let (place, form) = match frame.image {
                Image::Memory(image) => {
                    let place = ImagePlace::Batch(position);
                    let (form, stored) = ImageForm::of(image, omitted, position, &mask_of);
                    position += stored.len() as u64;
                    // Mostly there is none that is not plain: no list is made then.
                    if !form.is_plain() && images.is_empty() {
                        images.extend(lane.frames().take(index).filter_map(plain));
                    }
                    if !form.is_plain() || !images.is_empty() {
                        images.push(stored);
                    }
                    (place, form)
                }
                Image::Spill(offset) => {
                    (ImagePlace::Spill { file: spill.unwrap_or(u32::MAX), offset }, ImageForm::PLAIN)
                }
            };
            descriptors.push(Descriptor { page: frame.page, place, form, crc: frame.crc });
        }
        (descriptors, images)
    }
}

fn plain(frame: StagedFrame<'_>) -> Option<Cow<'_, [u8]>> {
    match frame.image {
        Image::Memory(image) => Some(Cow::Borrowed(image)),
        Image::Spill(_) => None,
    }
}
