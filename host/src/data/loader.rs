//! Batches in a seeded order, decoded by background threads; the order depends on the seed alone, and its place can be saved.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use candle_core::{Device, Tensor};
use crossbeam_channel::{Receiver, Sender, unbounded};
use serde::{Deserialize, Serialize};

use super::{Batch, ColumnKind, Dataset, Error, Item, MapKind};
use crate::random::Stream;

/// Where a [`Loader`] stands: all that is needed to continue it exactly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoaderState {
    /// How many times the whole dataset has been seen.
    pub epoch: u64,
    /// How many items of this epoch's order have been taken or skipped.
    pub position: usize,
}

/// Gives full batches for ever. Every epoch visits every item once in a fresh order; a batch may span two epochs.
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
        if state.position >= dataset.len() {
            return Err(Error::StaleState {
                position: state.position,
                len: dataset.len(),
                dataset: dataset.describe(),
            });
        }
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
            orders: Orders {
                seed,
                flips: dataset.flips(),
                len: dataset.len(),
                current: None,
            },
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
                    if self.bad.insert(name.clone(), reason.clone()).is_none() {
                        tracing::warn!(file = name, reason, "skipped an unreadable file");
                    }
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
        collate(&items, self.dataset.size())
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
    len: usize,
    /// The order in use, with its epoch.
    current: Option<(u64, Vec<usize>)>,
}

impl Orders {
    fn index(&mut self, place: LoaderState) -> usize {
        let fresh = || {
            let mut order: Vec<usize> = (0..self.len).collect();
            shuffle(
                &mut order,
                &mut Stream::new(self.seed, &format!("data/order/{}", place.epoch)),
            );
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

/// Puts a slice in random order.
pub(super) fn shuffle(order: &mut [usize], stream: &mut Stream) {
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
        let item = item.map(|item| {
            if job.mirrored {
                mirror(item, dataset.size())
            } else {
                item
            }
        });
        if done.send((job.ticket, item)).is_err() {
            return;
        }
    }
}

/// The item as seen in a mirror, left to right: also its maps, whose normals then point the other way across.
fn mirror(mut item: Item, size: usize) -> Item {
    let reverse = |values: &mut [f32]| values.chunks_exact_mut(size).for_each(<[f32]>::reverse);
    reverse(&mut item.image);
    for column in item.columns.values_mut() {
        reverse(&mut column.values);
        if matches!(
            column.kind,
            ColumnKind::Normals | ColumnKind::NormalsPicture
        ) {
            column.values[..size * size]
                .iter_mut()
                .for_each(|x| *x = -*x);
        }
    }
    for (kind, map) in &mut item.maps {
        reverse(&mut map.values);
        if *kind == MapKind::Normals {
            map.values[..size * size].iter_mut().for_each(|x| *x = -*x);
        }
    }
    item
}

/// The first `count` readable items as one batch, begun again where the dataset has fewer.
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
    let mut items = Vec::new();
    for index in 0..dataset.len() {
        match dataset.get(index) {
            Ok(item) => items.push(item),
            Err(Error::Unreadable { .. }) => {}
            Err(other) => return Err(other),
        }
        if items.len() == count {
            break;
        }
    }
    if items.is_empty() {
        super::check_readable(dataset)?;
    }
    let all: Vec<Item> = items.iter().cycle().take(count).cloned().collect();
    collate(&all, dataset.size())
}

fn collate(items: &[Item], size: usize) -> Result<Batch, Error> {
    let mut batch = Batch::default();
    let stack =
        |channels: usize, values: &dyn Fn(&Item) -> Option<&[f32]>| -> Result<Tensor, Error> {
            let expected = channels * size * size;
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
                (items.len(), channels, size, size),
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
    let names: Vec<&str> = items.iter().map(|item| item.name.as_str()).collect();
    batch
        .meta
        .insert("names".to_owned(), serde_json::json!(names).to_string());
    if let Some(captions) = items
        .iter()
        .map(|item| item.caption.as_deref())
        .collect::<Option<Vec<&str>>>()
    {
        batch.meta.insert(
            "captions".to_owned(),
            serde_json::json!(captions).to_string(),
        );
    }
    Ok(batch)
}
