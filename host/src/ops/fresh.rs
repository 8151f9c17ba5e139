//! New memory without a pass of its own to clear it: each piece is cleared by the thread that writes it, just before it does, while it is in that core's cache.

use std::cell::Cell;
use std::mem::MaybeUninit;

use rayon::prelude::*;

use super::elementwise::CHUNK;

/// A row-major result of `groups` by `group` elements, cut into blocks of at most `block` elements that do not cross groups.
#[derive(Clone, Copy)]
pub(super) struct Cut {
    /// Elements of a group.
    pub(super) group: usize,
    /// Elements of a block.
    pub(super) block: usize,
}

impl Cut {
    /// One group, in blocks of `block`.
    pub(super) fn flat(len: usize, block: usize) -> Self {
        Self {
            group: len.max(1),
            block: block.max(1),
        }
    }
}

/// A vector of `len` elements whose blocks are written in parallel: `write` gets the group, where the block begins in the whole, and the block, all zeros.
pub(super) fn build(
    len: usize,
    cut: Cut,
    write: impl Fn(usize, usize, &mut [f32]) + Sync,
) -> Vec<f32> {
    let mut out = Vec::with_capacity(len);
    let (group, block) = (cut.group.max(1), cut.block.max(1));
    out.spare_capacity_mut()[..len]
        .par_chunks_mut(group)
        .enumerate()
        .for_each(|(index, out)| {
            out.par_chunks_mut(block)
                .enumerate()
                .for_each(|(piece, out)| write(index, index * group + piece * block, cleared(out)));
        });
    // SAFETY: the chunks of chunks above are the first `len` elements without gaps, and `cleared` initialised each of them.
    unsafe { out.set_len(len) };
    out
}

/// Zeros, written by all threads; for what is added to in an order of its own.
pub(super) fn zeros(len: usize) -> Vec<f32> {
    build(len, Cut::flat(len, CHUNK), |_, _, _| ())
}

thread_local! {
    static SCRATCH: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// Runs `work` with memory for `len` elements of whatever content, which this thread keeps for the next time.
pub(super) fn with_scratch<R>(len: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    // Taken out while in use: work that waits for other threads may come here again.
    let mut scratch = SCRATCH.take();
    if scratch.len() < len {
        scratch.resize(len, 0.0);
    }
    let result = work(&mut scratch[..len]);
    SCRATCH.set(scratch);
    result
}

/// The memory with zeros in it.
fn cleared(memory: &mut [MaybeUninit<f32>]) -> &mut [f32] {
    memory.fill(MaybeUninit::new(0.0));
    // SAFETY: every element was written just above.
    unsafe { memory.assume_init_mut() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_cover_the_whole_once_and_do_not_cross_groups() {
        for (len, group, block) in [
            (0, 5, 2),
            (20, 5, 2),
            (20, 20, 7),
            (20, 1, 1),
            (6, 100, 100),
        ] {
            let out = build(len, Cut { group, block }, |index, start, out| {
                assert!(out.iter().all(|x| *x == 0.0) && out.len() <= block);
                for (i, x) in out.iter_mut().enumerate() {
                    assert_eq!((start + i) / group, index);
                    *x = (start + i) as f32;
                }
            });
            assert_eq!(out, (0..len).map(|i| i as f32).collect::<Vec<_>>());
        }
    }
}
