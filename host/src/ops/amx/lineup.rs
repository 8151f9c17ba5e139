//! Blocks of a factor in an order that can be packed, in small pieces of work.

use super::pack::{self, Block, QUARTERS};
use super::tiles::{DEPTH, SIDE};
use crate::ops::gemm::Matrix;

/// Where a block is copied that does not lie as it should.
pub(super) struct Scratch([f32; SIDE * DEPTH]);

/// A block of a matrix.
#[derive(Clone, Copy)]
pub(super) struct Part {
    /// As it lies; its rows are the matrix's columns if it is [`Order::Columns`].
    block: Block,
    order: Order,
    rows: usize,
    columns: usize,
}

/// What of a matrix lies side by side.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// The elements of a row.
    Rows,
    /// Those of a column.
    Columns,
    /// Neither; so many elements are between those of a row.
    None(usize),
}

impl Order {
    pub(super) fn of(matrix: Matrix<'_>) -> Self {
        match matrix.strides() {
            [_, 1] => Self::Rows,
            [1, _] => Self::Columns,
            [_, between] => Self::None(between),
        }
    }

    /// Pieces of work that [`Scratch::line_up`] is.
    pub(super) fn pieces(self) -> usize {
        match self {
            Self::Rows => 0,
            Self::Columns => QUARTERS,
            Self::None(_) => SIDE,
        }
    }
}

impl Part {
    /// At most 32 by 32 elements of a matrix, which must be there; `ahead` is as in [`Block`].
    #[inline]
    pub(super) fn new(
        matrix: Matrix<'_>,
        [row, column]: [usize; 2],
        [rows, columns]: [usize; 2],
        ahead: usize,
    ) -> Self {
        let [row_stride, column_stride] = matrix.strides();
        let first = row * row_stride + column * column_stride;
        let last = first + (rows - 1) * row_stride + (columns - 1) * column_stride;
        assert!(
            (1..=SIDE).contains(&rows)
                && (1..=DEPTH).contains(&columns)
                && last < matrix.data().len(),
            "a block beyond its matrix"
        );
        let order = Order::of(matrix);
        let (stride, [lines, elements]) = match order {
            Order::Columns => (column_stride, [columns, rows]),
            _ => (row_stride, [rows, columns]),
        };
        let block = Block {
            data: matrix.data().as_ptr().wrapping_add(first),
            stride,
            rows: lines,
            columns: elements,
            ahead,
        };
        Self {
            block,
            order,
            rows,
            columns,
        }
    }
}

impl Scratch {
    pub(super) fn new() -> Self {
        Self([0.0; SIDE * DEPTH])
    }

    /// One of the pieces of copying a block that does not lie as it should.
    #[inline]
    pub(super) fn line_up(&mut self, part: &Part, piece: usize) {
        match part.order {
            Order::Rows => {}
            // SAFETY: the tile unit is only found beside AVX-512; the block lies in its matrix.
            Order::Columns => unsafe { pack::transpose(&part.block, piece, &mut self.0) },
            Order::None(between) if piece < part.rows => {
                let from = part.block.data.wrapping_add(piece * part.block.stride);
                for (i, to) in self.0[piece * DEPTH..][..part.columns]
                    .iter_mut()
                    .enumerate()
                {
                    // SAFETY: an element of the block, which lies in its matrix.
                    *to = unsafe { *from.add(i * between) };
                }
            }
            Order::None(_) => {}
        }
    }

    /// The block with its rows' elements side by side, after all pieces of [`line_up`](Self::line_up).
    #[inline]
    pub(super) fn lined_up(&self, part: &Part) -> Block {
        match part.order {
            Order::Rows => part.block,
            _ => Block {
                data: self.0.as_ptr(),
                stride: DEPTH,
                rows: part.rows,
                columns: part.columns,
                ahead: 0,
            },
        }
    }
}
