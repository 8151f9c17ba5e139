//! The loader's order, its place, its threads, and what it does with bad items.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;

use super::*;

/// Items whose image is their number, so that a batch tells its order.
struct Numbers {
    count: usize,
    flips: bool,
    bad: fn(usize) -> bool,
    panics_at: Option<usize>,
    reads: AtomicUsize,
    buckets: Option<Vec<usize>>,
}

impl Numbers {
    fn new(count: usize) -> Self {
        Self {
            count,
            flips: false,
            bad: |_| false,
            panics_at: None,
            reads: AtomicUsize::new(0),
            buckets: None,
        }
    }
}

fn column(kind: ColumnKind, rows: usize) -> Column {
    Column {
        kind,
        values: [0.25, 0.5].repeat(rows),
    }
}

impl Dataset for Numbers {
    fn len(&self) -> usize {
        self.count
    }

    fn get(&self, index: usize) -> Result<Item, Error> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        if (self.bad)(index) {
            return Err(Error::Unreadable {
                name: format!("n{index}"),
                reason: "bad".to_owned(),
            });
        }
        assert_ne!(Some(index), self.panics_at, "item of ill omen");
        // Later items are quicker, so that several threads finish out of order.
        std::thread::sleep(std::time::Duration::from_micros(
            ((index * 7919) % 5 * 40) as u64,
        ));
        let row = [index as f32, index as f32 + 0.25];
        Ok(Item {
            image: row.repeat(6),
            size: Size::square(2),
            origin: None,
            class: Some(index as u32),
            caption: Some(format!("number {index}")),
            name: format!("n{index}"),
            maps: BTreeMap::from([
                (
                    MapKind::Mask,
                    Map {
                        channels: 1,
                        values: vec![1.0, 0.0, 1.0, 0.0],
                    },
                ),
                (
                    MapKind::Normals,
                    Map {
                        channels: 3,
                        values: [0.6, 0.8].repeat(6),
                    },
                ),
            ]),
            columns: BTreeMap::from([
                ("source".to_owned(), column(ColumnKind::Picture, 6)),
                ("towards".to_owned(), column(ColumnKind::Normals, 6)),
                ("hole".to_owned(), column(ColumnKind::Mask, 2)),
            ]),
        })
    }

    fn classes(&self) -> &[String] {
        &[]
    }

    fn describe(&self) -> String {
        format!("{} numbers", self.count)
    }

    fn fingerprint(&self) -> String {
        format!("numbers:{}", self.count)
    }

    fn size(&self) -> usize {
        2
    }

    fn flips(&self) -> bool {
        self.flips
    }

    fn buckets(&self) -> Option<&[usize]> {
        self.buckets.as_deref()
    }
}

fn loader(dataset: Numbers, state: LoaderState, batch: usize, threads: usize) -> Loader {
    Loader::new(Arc::new(dataset), state, 42, batch, threads).unwrap()
}

fn labels(batch: &Batch) -> Vec<u32> {
    batch.tensors["class_labels"].to_vec1().unwrap()
}

fn drawn(loader: &mut Loader, batches: usize) -> Vec<Vec<u32>> {
    (0..batches)
        .map(|_| labels(&loader.next_batch().unwrap()))
        .collect()
}

#[test]
fn the_order_does_not_depend_on_the_number_of_threads() {
    let with = |threads| {
        drawn(
            &mut loader(Numbers::new(37), LoaderState::default(), 8, threads),
            15,
        )
    };
    let one = with(1);
    assert_eq!(one, with(2));
    assert_eq!(one, with(5));
}

#[test]
fn every_epoch_visits_every_item_once_in_another_order_and_batches_are_always_full() {
    let seen: Vec<u32> = drawn(
        &mut loader(Numbers::new(10), LoaderState::default(), 4, 2),
        5,
    )
    .concat();
    let epoch = |range: std::ops::Range<usize>| {
        let mut items = seen[range].to_vec();
        items.sort_unstable();
        items
    };
    let all: Vec<u32> = (0..10).collect();
    assert_eq!(epoch(0..10), all);
    assert_eq!(epoch(10..20), all);
    assert_ne!(seen[..10], seen[10..]);
    assert_ne!(seen[..10], all);
}

#[test]
fn a_dataset_smaller_than_a_batch_still_fills_it() {
    let mut loader = loader(Numbers::new(3), LoaderState::default(), 8, 2);
    let first = labels(&loader.next_batch().unwrap());
    assert_eq!(first.len(), 8);
    for item in 0..3 {
        assert!(first.iter().filter(|&&label| label == item).count() >= 2);
    }
    assert_eq!(
        loader.state(),
        LoaderState {
            epoch: 2,
            position: 2
        }
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn a_loader_resumed_anywhere_continues_exactly(count in 1usize..40, batch in 1usize..12, before in 0usize..12, flips: bool) {
        let numbers = || Numbers { flips, bad: |i| i % 7 == 3, ..Numbers::new(count) };
        let mut whole = loader(numbers(), LoaderState::default(), batch, 3);
        for _ in 0..before {
            whole.next_batch().unwrap();
        }
        let saved = serde_json::to_string(&whole.state()).unwrap();
        let mut resumed = loader(numbers(), serde_json::from_str(&saved).unwrap(), batch, 1);
        for _ in 0..4 {
            let (a, b) = (whole.next_batch().unwrap(), resumed.next_batch().unwrap());
            prop_assert_eq!(labels(&a), labels(&b));
            prop_assert_eq!(&a.meta, &b.meta);
            let pixels = |batch: &Batch| batch.tensors["images"].flatten_all().unwrap().to_vec1::<f32>().unwrap();
            prop_assert_eq!(pixels(&a), pixels(&b));
            prop_assert_eq!(whole.state(), resumed.state());
        }
    }
}

#[test]
fn flips_mirror_images_and_maps_and_change_from_epoch_to_epoch() {
    let numbers = Numbers {
        flips: true,
        ..Numbers::new(16)
    };
    let mut loader = loader(numbers, LoaderState::default(), 16, 2);
    let epochs: Vec<Vec<bool>> = (0..2)
        .map(|_| {
            let batch = loader.next_batch().unwrap();
            let mut flipped = vec![false; 16];
            for (at, label) in labels(&batch).into_iter().enumerate() {
                let rows: Vec<f32> = batch.tensors["images"]
                    .get(at)
                    .unwrap()
                    .flatten_all()
                    .unwrap()
                    .to_vec1()
                    .unwrap();
                let mirrored = rows[0] > rows[1];
                let value = label as f32;
                let expected = if mirrored {
                    [value + 0.25, value]
                } else {
                    [value, value + 0.25]
                };
                assert_eq!(rows, expected.repeat(6));
                let mask: Vec<f32> = batch.tensors["mask"]
                    .get(at)
                    .unwrap()
                    .flatten_all()
                    .unwrap()
                    .to_vec1()
                    .unwrap();
                assert_eq!(mask[0] == 0.0, mirrored);
                let normals: Vec<f32> = batch.tensors["normals"]
                    .get(at)
                    .unwrap()
                    .flatten_all()
                    .unwrap()
                    .to_vec1()
                    .unwrap();
                let (across, other) = if mirrored {
                    ([-0.8, -0.6], [0.8, 0.6])
                } else {
                    ([0.6, 0.8], [0.6, 0.8])
                };
                assert_eq!(normals, [across.repeat(2), other.repeat(4)].concat());
                flipped[label as usize] = mirrored;
            }
            flipped
        })
        .collect();
    assert!(epochs[0].contains(&true) && epochs[0].contains(&false));
    assert_ne!(epochs[0], epochs[1]);
}

#[test]
fn unreadable_items_are_skipped_the_same_way_every_time_and_named() {
    let numbers = || Numbers {
        bad: |i| i == 2 || i == 5,
        ..Numbers::new(9)
    };
    let mut one = loader(numbers(), LoaderState::default(), 7, 1);
    let batches = drawn(&mut one, 6);
    assert_eq!(
        batches,
        drawn(&mut loader(numbers(), LoaderState::default(), 7, 4), 6)
    );
    assert!(batches.concat().iter().all(|label| ![2, 5].contains(label)));
    let bad: Vec<_> = one
        .bad_items()
        .map(|(name, reason)| format!("{name}: {reason}"))
        .collect();
    assert_eq!(bad, ["n2: bad", "n5: bad"]);
}

#[test]
fn a_dataset_with_nothing_readable_is_an_error() {
    let mut loader = loader(
        Numbers {
            bad: |_| true,
            ..Numbers::new(5)
        },
        LoaderState::default(),
        4,
        2,
    );
    let message = loader.next_batch().unwrap_err().to_string();
    assert!(
        message.contains("none of the 5 items") && message.contains("n"),
        "{message}"
    );
}

#[test]
fn a_single_readable_item_is_enough() {
    let numbers = Numbers {
        bad: |i| i != 3,
        ..Numbers::new(6)
    };
    let mut loader = loader(numbers, LoaderState::default(), 4, 2);
    assert_eq!(drawn(&mut loader, 10), vec![vec![3; 4]; 10]);
}

#[test]
fn a_panic_in_a_data_thread_becomes_an_error_that_names_the_item() {
    let mut loader = loader(
        Numbers {
            panics_at: Some(4),
            ..Numbers::new(6)
        },
        LoaderState::default(),
        6,
        2,
    );
    let message = loader.next_batch().unwrap_err().to_string();
    assert!(
        message.contains("item 4 of 6 numbers") && message.contains("ill omen"),
        "{message}"
    );
}

#[test]
fn dropping_the_loader_stops_its_threads_and_reading_ahead_is_bounded() {
    let numbers = Arc::new(Numbers::new(1000));
    let mut loader = Loader::new(numbers.clone(), LoaderState::default(), 1, 4, 3).unwrap();
    loader.next_batch().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(100));
    let read = numbers.reads.load(Ordering::Relaxed);
    assert!(
        (4..=12).contains(&read),
        "{read} items read for one batch of 4"
    );
    drop(loader);
    // Each thread held the dataset; now nobody else does.
    assert_eq!(Arc::strong_count(&numbers), 1);
}

#[test]
fn impossible_loaders_are_refused() {
    let make = |count, state, batch| {
        Loader::new(Arc::new(Numbers::new(count)), state, 0, batch, 1)
            .err()
            .unwrap()
            .to_string()
    };
    let start = LoaderState::default();
    assert!(make(0, start, 4).contains("no items"));
    assert!(make(3, start, 0).contains("batch size is 0"));
    let message = make(
        3,
        LoaderState {
            epoch: 1,
            position: 3,
        },
        4,
    );
    assert!(
        message.contains("position 3") && message.contains("3 items"),
        "{message}"
    );
}

/// Twenty numbers in three buckets of 11, 6 and 3.
fn bucketed(bad: fn(usize) -> bool) -> Numbers {
    let bucket = |number: usize| match number % 20 {
        0..11 => 0,
        11..17 => 1,
        _ => 2,
    };
    Numbers {
        bad,
        buckets: Some((0..20).map(bucket).collect()),
        ..Numbers::new(20)
    }
}

fn numbers_of(batch: &Batch) -> Vec<usize> {
    let labels = batch.tensors["class_labels"].to_vec1::<u32>().unwrap();
    labels.into_iter().map(|label| label as usize).collect()
}

#[test]
fn batches_are_of_one_bucket_and_an_epoch_sees_every_item() {
    let data = bucketed(|_| false);
    let of = data.buckets.clone().unwrap();
    let mut loader = loader(data, LoaderState::default(), 4, 2);
    // 3 batches of the first bucket, 2 of the second, 1 of the third.
    let mut epochs = Vec::new();
    for _ in 0..2 {
        let batches: Vec<Vec<usize>> = (0..6)
            .map(|_| numbers_of(&loader.next_batch().unwrap()))
            .collect();
        for batch in &batches {
            assert!(
                batch.iter().all(|item| of[*item] == of[batch[0]]),
                "{batch:?}"
            );
        }
        let mut seen = batches.concat();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen, (0..20).collect::<Vec<_>>());
        epochs.push(batches);
    }
    assert_ne!(epochs[0], epochs[1]);
    assert_eq!(
        loader.state(),
        LoaderState {
            epoch: 2,
            position: 0
        }
    );
}

#[test]
fn bucketed_batches_go_on_where_they_stood_and_replace_what_cannot_be_read() {
    let bad = |number: usize| number.is_multiple_of(5) || number >= 17;
    let mut whole = loader(bucketed(bad), LoaderState::default(), 4, 3);
    let mut batches = Vec::new();
    let mut places = Vec::new();
    for _ in 0..8 {
        let batch = numbers_of(&whole.next_batch().unwrap());
        assert_eq!(batch.len(), 4);
        assert!(batch.iter().all(|number| !bad(*number)), "{batch:?}");
        batches.push(batch);
        places.push(whole.state());
    }
    let mut rest = loader(bucketed(bad), places[2], 4, 1);
    for batch in &batches[3..] {
        assert_eq!(numbers_of(&rest.next_batch().unwrap()), *batch);
    }
    let mut none = loader(bucketed(|_| true), LoaderState::default(), 4, 1);
    assert!(matches!(
        none.next_batch(),
        Err(Error::AllUnreadable { .. })
    ));
}
