//! Batches in a seeded order, decoded by background threads; the order depends on the seed alone, and its place can be saved.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use candle_core::{Device, Tensor};
use crossbeam_channel::{Receiver, Sender, unbounded};
use serde::{Deserialize, Serialize};

use super::{Batch, ColumnKind, Dataset, Error, Item, MapKind, Origin, Size};
use crate::random::Stream;

/// Where a [`Loader`] stands: all that is needed to continue it exactly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoaderState {
    /// How many times the whole dataset has been seen.
    pub epoch: u64,
    /// How many places of this epoch's order have been taken or skipped.
    pub position: usize,
}

/// Gives full batches for ever. Every epoch visits every item once in a fresh order; a batch may span two epochs.
///
/// Where items are in buckets, each batch is of one bucket, and none spans two epochs: a bucket's last batch is filled with items of it again. An item that cannot
/// be read is then replaced by one of its batch, so that batches stay whole.
///
/// The batches depend on the dataset, the seed and the batch size, and on nothing else: not on the number of threads, not on timing.
/// Dropping the loader stops its threads.
pub struct Loader {
    dataset: Arc<dyn Dataset>,
    batch_size: usize,
    state: LoaderState,
    orders: Orders,
    /// The place and ticket of the next item to hand to the threads.
    ahead: (LoaderState, u64),
    /// The ticket of the next item to take.
    next: u64,
    /// Items that arrived before their turn.
    early: BTreeMap<u64, Result<Item, Error>>,
    jobs: Option<Sender<Job>>,
    results: Receiver<(u64, Result<Item, Error>)>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    bad: BTreeMap<String, String>,
}

struct Job {
    ticket: u64,
    index: usize,
    mirrored: bool,
}

impl Loader {
    /// Starts `threads` decode threads (at least 1) at a saved place; `LoaderState::default()` is the beginning.
    ///
    /// # Errors
    /// [`Error::NoItems`], [`Error::OutOfRange`] for a batch size of 0, or [`Error::StaleState`] if the place lies beyond the data.
    pub fn new(
        dataset: Arc<dyn Dataset>,
        state: LoaderState,
        seed: u64,
        batch_size: usize,
        threads: usize,
    ) -> Result<Self, Error> {
        if dataset.is_empty() {
            return Err(Error::NoItems {
                dataset: dataset.describe(),
            });
        }
        if batch_size == 0 {
            return Err(Error::OutOfRange {
                setting: "batch size",
                value: "0".to_owned(),
                expected: "at least 1",
            });
        }
        let orders = Orders::new(&*dataset, seed, batch_size);
        if state.position >= orders.len {
            return Err(Error::StaleState {
                position: state.position,
                len: orders.len,
                dataset: dataset.describe(),
            });
        }
        let state = LoaderState {
            position: orders.aligned(state.position),
            ..state
        };
        let (jobs, job_queue) = unbounded::<Job>();
        let (done, results) = unbounded();
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..threads.max(1))
            .map(|number| {
                let (dataset, queue, done, stop) = (
                    dataset.clone(),
                    job_queue.clone(),
                    done.clone(),
                    stop.clone(),
                );
                let name = format!("data-{number}");
                std::thread::Builder::new()
                    .name(name.clone())
                    .spawn(move || work(&*dataset, &queue, &done, &stop))
                    .map_err(Error::io(name))
            })
            .collect::<Result<Vec<_>, _>>()?;
        let mut loader = Self {
            orders,
            dataset,
            batch_size,
            state,
            ahead: (state, 0),
            next: 0,
            early: BTreeMap::new(),
            jobs: Some(jobs),
            results,
            stop,
            threads,
            bad: BTreeMap::new(),
        };
        // Two batches ahead: one being decoded while one is waiting to be taken.
        for _ in 0..2 * batch_size {
            loader.send()?;
        }
        Ok(loader)
    }

    /// The next batch: waits for it where the threads are behind.
    ///
    /// # Errors
    /// [`Error::AllUnreadable`] if a whole epoch holds no readable item; whatever else a dataset reports but [`Error::Unreadable`], which is skipped.
    pub fn next_batch(&mut self) -> Result<Batch, Error> {
        if self.orders.buckets.is_some() {
            return self.next_of_bucket();
        }
        let mut items = Vec::with_capacity(self.batch_size);
        let mut skipped = 0;
        while items.len() < self.batch_size {
            match self.take()? {
                Ok(item) => {
                    skipped = 0;
                    items.push(item);
                }
                Err((name, reason)) => {
                    skipped += 1;
                    self.note(&name, &reason);
                    // So many in a row hold one whole epoch. One epoch's length would not do: a single readable item may
                    // come first in one epoch and last in the next.
                    if skipped >= 2 * self.dataset.len() - 1 {
                        return Err(Error::AllUnreadable {
                            dataset: self.dataset.describe(),
                            count: self.dataset.len(),
                            first: format!("{name}: {reason}"),
                        });
                    }
                }
            }
        }
        collate(&items)
    }

    /// The next batch of one bucket.
    fn next_of_bucket(&mut self) -> Result<Batch, Error> {
        // So many in a row hold one whole epoch.
        let mut first = None;
        for _ in 0..2 * self.orders.len.div_ceil(self.batch_size) {
            let mut items = Vec::with_capacity(self.batch_size);
            for _ in 0..self.batch_size {
                match self.take()? {
                    Ok(item) => items.push(item),
                    Err((name, reason)) => {
                        self.note(&name, &reason);
                        first.get_or_insert(format!("{name}: {reason}"));
                    }
                }
            }
            if !items.is_empty() {
                let all: Vec<Item> = (items.iter().cycle())
                    .take(self.batch_size)
                    .cloned()
                    .collect();
                return collate(&all);
            }
        }
        Err(Error::AllUnreadable {
            dataset: self.dataset.describe(),
            count: self.dataset.len(),
            first: first.unwrap_or_default(),
        })
    }

    /// Takes down a file that cannot be read, and tells it once.
    fn note(&mut self, name: &str, reason: &str) {
        let known = self.bad.insert(name.to_owned(), reason.to_owned());
        if known.is_none() {
            tracing::warn!(file = name, reason, "skipped an unreadable file");
        }
    }

    /// The place after the last batch given; a loader made with it continues with the batch that would follow.
    pub fn state(&self) -> LoaderState {
        self.state
    }

    /// The unreadable files met so far, by name, each with its reason.
    pub fn bad_items(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.bad
            .iter()
            .map(|(name, reason)| (name.as_str(), reason.as_str()))
    }

    /// The next item in order, or the name of one to skip.
    fn take(&mut self) -> Result<Result<Item, (String, String)>, Error> {
        let result = loop {
            if let Some(result) = self.early.remove(&self.next) {
                break result;
            }
            let (ticket, result) = self.results.recv().map_err(|_| Error::Worker {
                item: self.dataset.describe(),
                message: "every data thread has stopped".to_owned(),
            })?;
            self.early.insert(ticket, result);
        };
        self.next += 1;
        self.state = self.orders.after(self.state);
        self.send()?;
        match result {
            Ok(item) => Ok(Ok(item)),
            Err(Error::Unreadable { name, reason }) => Ok(Err((name, reason))),
            Err(other) => Err(other),
        }
    }

    /// Hands one more item to the threads.
    fn send(&mut self) -> Result<(), Error> {
        let (place, ticket) = self.ahead;
        let job = Job {
            ticket,
            index: self.orders.index(place),
            mirrored: self.orders.mirrored(place),
        };
        self.ahead = (self.orders.after(place), ticket + 1);
        let sent = self.jobs.as_ref().map(|jobs| jobs.send(job));
        match sent {
            Some(Ok(())) => Ok(()),
            _ => Err(Error::Worker {
                item: self.dataset.describe(),
                message: "every data thread has stopped".to_owned(),
            }),
        }
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Closing the queue wakes the threads that wait for work.
        self.jobs = None;
        for thread in self.threads.drain(..) {
            // A thread's panic has been reported already, as the error of its item.
            let _ = thread.join();
        }
    }
}

/// What each epoch's order is.
struct Orders {
    seed: u64,
    flips: bool,
    items: usize,
    /// Each item's bucket, where batches are of one bucket each.
    buckets: Option<Vec<usize>>,
    batch_size: usize,
    /// Places in an epoch.
    len: usize,
    /// The order in use, with its epoch.
    current: Option<(u64, Vec<usize>)>,
}

impl Orders {
    fn new(dataset: &dyn Dataset, seed: u64, batch_size: usize) -> Self {
        let buckets = dataset.buckets().map(<[usize]>::to_vec);
        let len = match &buckets {
            None => dataset.len(),
            Some(buckets) => {
                let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
                for bucket in buckets {
                    *counts.entry(*bucket).or_default() += 1;
                }
                let batches = counts.values().map(|count| count.div_ceil(batch_size));
                batches.sum::<usize>() * batch_size
            }
        };
        Self {
            seed,
            flips: dataset.flips(),
            items: dataset.len(),
            buckets,
            batch_size,
            len,
            current: None,
        }
    }

    /// The beginning of the batch that a place is in, where batches have fixed places.
    fn aligned(&self, position: usize) -> usize {
        match self.buckets {
            None => position,
            Some(_) => position / self.batch_size * self.batch_size,
        }
    }

    fn index(&mut self, place: LoaderState) -> usize {
        let fresh = || {
            let mut stream = Stream::new(self.seed, &format!("data/order/{}", place.epoch));
            let mut order: Vec<usize> = (0..self.items).collect();
            shuffle(&mut order, &mut stream);
            let order = match &self.buckets {
                None => order,
                Some(buckets) => bucketed(order, buckets, self.batch_size, &mut stream),
            };
            (place.epoch, order)
        };
        let current = self
            .current
            .take()
            .filter(|(epoch, _)| *epoch == place.epoch)
            .unwrap_or_else(fresh);
        self.current.insert(current).1[place.position]
    }

    fn mirrored(&self, place: LoaderState) -> bool {
        self.flips
            && Stream::new(
                self.seed,
                &format!("data/flip/{}/{}", place.epoch, place.position),
            )
            .below(2)
                == 1
    }

    fn after(&self, place: LoaderState) -> LoaderState {
        if place.position + 1 < self.len {
            LoaderState {
                position: place.position + 1,
                ..place
            }
        } else {
            LoaderState {
                epoch: place.epoch + 1,
                position: 0,
            }
        }
    }
}

/// An order of whole batches of one bucket each, from an order of all items.
fn bucketed(
    order: Vec<usize>,
    buckets: &[usize],
    batch_size: usize,
    stream: &mut Stream,
) -> Vec<usize> {
    let mut by_bucket: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for item in order {
        by_bucket.entry(buckets[item]).or_default().push(item);
    }
    let mut batches: Vec<Vec<usize>> = Vec::new();
    for items in by_bucket.values() {
        for chunk in items.chunks(batch_size) {
            let again = items.iter().cycle().take(batch_size - chunk.len());
            batches.push(chunk.iter().chain(again).copied().collect());
        }
    }
    shuffle(&mut batches, stream);
    batches.concat()
}

/// Puts a slice in random order.
pub(super) fn shuffle<T>(order: &mut [T], stream: &mut Stream) {
    for last in (1..order.len()).rev() {
        order.swap(last, stream.below(last + 1));
    }
}

fn work(
    dataset: &dyn Dataset,
    queue: &Receiver<Job>,
    done: &Sender<(u64, Result<Item, Error>)>,
    stop: &AtomicBool,
) {
    for job in queue {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let item = std::panic::catch_unwind(AssertUnwindSafe(|| dataset.get(job.index)))
            .unwrap_or_else(|panic| {
                let message = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
                let message = message.or_else(|| panic.downcast_ref::<String>().cloned());
                Err(Error::Worker {
                    item: format!("item {} of {}", job.index, dataset.describe()),
                    message: message.unwrap_or_else(|| "it panicked".to_owned()),
                })
            });
        let item = item.map(|item| if job.mirrored { mirror(item) } else { item });
        if done.send((job.ticket, item)).is_err() {
            return;
        }
    }
}

/// The item as seen in a mirror, left to right: also its maps, whose normals then point the other way across.
fn mirror(mut item: Item) -> Item {
    let (size, plane) = (item.size.width, item.size.area());
    let reverse = |values: &mut [f32]| values.chunks_exact_mut(size).for_each(<[f32]>::reverse);
    reverse(&mut item.image);
    for column in item.columns.values_mut() {
        reverse(&mut column.values);
        if matches!(
            column.kind,
            ColumnKind::Normals | ColumnKind::NormalsPicture
        ) {
            column.values[..plane].iter_mut().for_each(|x| *x = -*x);
        }
    }
    for (kind, map) in &mut item.maps {
        reverse(&mut map.values);
        if *kind == MapKind::Normals {
            map.values[..plane].iter_mut().for_each(|x| *x = -*x);
        }
    }
    item
}

/// The first `count` readable items of one size: all that there are where the dataset has fewer.
///
/// # Errors
/// Whatever a dataset reports but [`Error::Unreadable`].
pub fn first_images(dataset: &dyn Dataset, count: usize) -> Result<Vec<Item>, Error> {
    let mut items: Vec<Item> = Vec::new();
    for index in 0..dataset.len() {
        if items.len() == count {
            break;
        }
        match dataset.get(index) {
            Ok(item) if items.first().is_none_or(|first| first.size == item.size) => {
                items.push(item);
            }
            Ok(_) | Err(Error::Unreadable { .. }) => {}
            Err(other) => return Err(other),
        }
    }
    Ok(items)
}

/// The first `count` readable items of one size as one batch, begun again where the dataset has fewer.
///
/// # Errors
/// [`Error::AllUnreadable`] if there is none, [`Error::OutOfRange`] for a count of 0; whatever else a dataset reports.
pub fn first_items(dataset: &dyn Dataset, count: usize) -> Result<Batch, Error> {
    if count == 0 {
        return Err(Error::OutOfRange {
            setting: "count",
            value: "0".to_owned(),
            expected: "at least 1",
        });
    }
    let items = first_images(dataset, count)?;
    if items.is_empty() {
        super::check_readable(dataset)?;
    }
    let all: Vec<Item> = items.iter().cycle().take(count).cloned().collect();
    collate(&all)
}

fn collate(items: &[Item]) -> Result<Batch, Error> {
    let mut batch = Batch::default();
    let size = items.first().map_or(Size::square(0), |item| item.size);
    let stack =
        |channels: usize, values: &dyn Fn(&Item) -> Option<&[f32]>| -> Result<Tensor, Error> {
            let expected = channels * size.area();
            let mut all = Vec::with_capacity(items.len() * expected);
            for item in items {
                let values = values(item).unwrap_or_default();
                if values.len() != expected {
                    return Err(Error::UnevenItems {
                        name: item.name.clone(),
                        got: values.len(),
                        expected,
                    });
                }
                all.extend_from_slice(values);
            }
            Ok(Tensor::from_vec(
                all,
                (items.len(), channels, size.height, size.width),
                &Device::Cpu,
            )?)
        };
    batch
        .tensors
        .insert("images".to_owned(), stack(3, &|item| Some(&item.image))?);
    for kind in items
        .first()
        .map(|item| item.maps.keys())
        .into_iter()
        .flatten()
    {
        let map = stack(kind.channels(), &|item| {
            item.maps.get(kind).map(|map| map.values.as_slice())
        })?;
        batch.tensors.insert(kind.name().to_owned(), map);
    }
    for (name, kind) in items.first().into_iter().flat_map(|item| {
        item.columns
            .iter()
            .map(|(name, column)| (name, column.kind))
    }) {
        let column = stack(kind.channels(), &|item| {
            item.columns
                .get(name)
                .map(|column| column.values.as_slice())
        })?;
        batch.tensors.insert(name.clone(), column);
    }
    if let Some(labels) = items
        .iter()
        .map(|item| item.class)
        .collect::<Option<Vec<u32>>>()
    {
        batch.tensors.insert(
            "class_labels".to_owned(),
            Tensor::new(labels, &Device::Cpu)?,
        );
    }
    let listed = |texts: Vec<String>| serde_json::json!(texts).to_string();
    let names = items.iter().map(|item| item.name.clone()).collect();
    batch.meta.insert("names".to_owned(), listed(names));
    let captions = items.iter().map(|item| item.caption.clone());
    if let Some(captions) = captions.collect::<Option<Vec<String>>>() {
        batch.meta.insert("captions".to_owned(), listed(captions));
    }
    let origins = items.iter().map(|item| item.origin);
    if let Some(origins) = origins.collect::<Option<Vec<Origin>>>() {
        let origins = origins.iter().map(Origin::to_string).collect();
        batch.meta.insert("origins".to_owned(), listed(origins));
    }
    Ok(batch)
}
