//! What the parts of a commit and of a snapshot cost in the processor: `cargo bench -p pwal-bench --bench parts`.
//!
//! A FULL commit of one page may cost some 10 us beside its sync before one thread falls behind stock;
//! these are the parts of that which are pwal's own: checksum, chain and header of a one-page batch, the
//! words it is published through, and bringing a reader's view up to date.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use pwal::internal::log::format::{
    BatchHeader, Descriptor, ImageForm, ImagePlace, OmittedZeros, encode_batch_sealed, image_crc,
};
use pwal::internal::shared::{CommitEntry, ControlMapping, EpochRecord, Owner};
use pwal::internal::view::{FrameTable, Snapshot, View};
use std::hint::black_box;

const PAGE_BYTES: u32 = 4096;

fn batch(criterion: &mut Criterion) {
    let image = vec![7; PAGE_BYTES as usize];
    let mut group = criterion.benchmark_group("one-page batch");
    group.throughput(Throughput::Bytes(u64::from(PAGE_BYTES)));
    group.bench_function("image CRC", |bencher| bencher.iter(|| image_crc(9, 2, 5, black_box(&image))));
    let mut half = image.clone();
    half[1024..3072].fill(0);
    for (name, image) in [("longest run of zeros, none", &image), ("longest run of zeros, half of the page", &half)] {
        group.bench_function(name, |bencher| bencher.iter(|| OmittedZeros::longest_in(black_box(image))));
    }
    let descriptor = [Descriptor { page: 2, place: ImagePlace::Batch(1024), form: ImageForm::PLAIN, crc: 3 }];
    let header = BatchHeader {
        log_id: 9,
        sequence: 5,
        ordinal: 1,
        offset: 8192,
        bytes: 8192,
        frames: 1,
        database_pages: 3,
        lane: 0,
        wants_durable: true,
        time_us: 1,
        chain: 11,
        certificate: None,
    };
    group.bench_function("header and chain", |bencher| {
        bencher.iter(|| {
            let mut header = black_box(&header).clone();
            encode_batch_sealed(&mut header, &descriptor, |_| None).expect("a valid batch")
        });
    });
    group.finish();
}

fn control(criterion: &mut Criterion) {
    let mapping = ControlMapping::anonymous().expect("memory");
    let control = mapping.control();
    let me = control.process_slots().acquire(0, 1, "bench").expect("a process slot");
    let slot = control.snapshot_slots().claim(me).expect("a snapshot slot");
    let mut group = criterion.benchmark_group("shared words");
    group.bench_function("commit: WRITE, APPEND, publish, cut, certify, visible", |bencher| {
        bencher.iter(|| publish_one(&mapping, me));
    });
    group.bench_function("snapshot", |bencher| {
        bencher.iter(|| {
            let visible = control.advance_visible();
            assert!(control.take_snapshot(slot, visible, 1));
            control.snapshot_slots().end(slot);
        });
    });
    group.bench_function("checkpoint target over all snapshots", |bencher| {
        bencher.iter(|| control.choose_checkpoint_target(|_| true));
    });
    group.finish();
}

fn publish_one(mapping: &ControlMapping, me: Owner) {
    let control = mapping.control();
    assert!(control.write().try_acquire(me, false));
    control.append().acquire(me, |_| true, || Ok::<(), ()>(())).expect("an endless wait");
    let sequence = control.published() + 1;
    let entry = CommitEntry {
        sequence,
        wants_durable: true,
        ordinal: 1,
        segment: 0,
        offset: 4096,
        end: 8192,
        frames: 1,
        database_pages: 3,
        has_certificate: true,
        has_spill: false,
        has_forms: false,
        chain: sequence,
        lane: 3,
        pages: [7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    };
    control.publish(&entry).expect("the next commit");
    let (durable, epoch) = (control.durable(), control.last_written_epoch() + 1);
    let cut = EpochRecord {
        epoch,
        lo: durable + 1,
        hi: sequence,
        ordinal: 1,
        segment: 0,
        offset: 4096,
        is_doubled: false,
        doubled_ordinal: 1,
        backfilled: 0,
        chain: 1,
    };
    control.store_epoch(&cut).expect("the next epoch");
    control.append().release(me);
    control.write().release(me);
    control.certify(epoch);
    control.advance_visible();
    control.flush_events().of(control.last_certified_epoch()).notify();
}

/// One frame for each commit; 1000 pages in turns.
struct Frames;

impl FrameTable for Frames {
    fn between(&self, from: u64, to: u64, each: &mut dyn FnMut(u64, u32)) -> bool {
        (from + 1..=to).for_each(|number| each(number, (number % 1000) as u32 + 1));
        true
    }

    fn newest(&self, to: u64, each: &mut dyn FnMut(u64, u32)) {
        (to.saturating_sub(999).max(1)..=to).for_each(|number| each(number, (number % 1000) as u32 + 1));
    }
}

fn view(criterion: &mut Criterion) {
    let at = |sequence| Snapshot { sequence, database_pages: 1000 };
    let begun = || {
        let mut view = View::new(PAGE_BYTES, 1 << 22);
        view.refresh(&Frames, at(5000), 3000);
        view
    };
    let mut group = criterion.benchmark_group("view refresh");
    for commits in [1, 10, 1000] {
        group.bench_function(format!("{commits} commits behind"), |bencher| {
            bencher.iter_batched_ref(
                begun,
                |view| view.refresh(&Frames, at(5000 + commits), 3000),
                BatchSize::SmallInput,
            );
        });
    }
    group.bench_function("over the bound: 1000 newest pages", |bencher| {
        bencher.iter_batched_ref(begun, |view| view.refresh(&Frames, at(5000 + 1500), 2000), BatchSize::SmallInput);
    });
    group.finish();
}

fn short() -> Criterion {
    Criterion::default()
        .sample_size(20)
        .warm_up_time(std::time::Duration::from_millis(200))
        .measurement_time(std::time::Duration::from_millis(600))
}

criterion_group! { name = parts; config = short(); targets = batch, control, view }
criterion_main!(parts);
