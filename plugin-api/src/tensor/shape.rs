//! Shapes, joining, cutting and selecting.

use super::{
    Dim, Dims, Tensor,
    index::{extents, int},
};
use crate::{Error, Result, ops};

impl Tensor {
    /// The same elements in another shape.
    ///
    /// # Errors
    /// [`Error::Shape`] when the number of elements differs.
    pub fn reshape(&self, shape: impl AsRef<[usize]>) -> Result<Tensor> {
        let shape = shape.as_ref();
        let dims = self.dims();
        if shape.iter().product::<usize>() != dims.iter().product::<usize>() {
            return Err(Error::Shape {
                what: "reshape".into(),
                expected: shape.to_vec(),
                got: dims,
            });
        }
        self.apply(ops::RESHAPE, &[], &extents(shape), &[])
    }

    /// Dimensions in another order: new dimension `i` is old dimension `dims[i]`.
    ///
    /// # Errors
    /// [`Error::Dimension`] for a dimension that is not there; the host refuses what is no permutation.
    pub fn permute(&self, dims: impl Dims) -> Result<Tensor> {
        self.apply(
            ops::PERMUTE,
            &[],
            &dims.resolve_all(&self.dims(), "permute")?,
            &[],
        )
    }

    /// Two dimensions exchanged.
    ///
    /// # Errors
    /// [`Error::Dimension`] for a dimension that is not there.
    pub fn transpose(&self, a: impl Dim, b: impl Dim) -> Result<Tensor> {
        let dims = self.dims();
        let (a, b) = (
            a.resolve(&dims, "transpose")?,
            b.resolve(&dims, "transpose")?,
        );
        let mut order: Vec<i64> = (0..dims.len()).map(int).collect();
        order.swap(a, b);
        self.apply(ops::PERMUTE, &[], &order, &[])
    }

    /// The last two dimensions exchanged.
    ///
    /// # Errors
    /// [`Error::Dimension`] below rank 2.
    pub fn t(&self) -> Result<Tensor> {
        self.transpose(super::D::Minus2, super::D::Minus1)
    }

    /// `length` entries of `dim` from `start` on.
    ///
    /// # Errors
    /// [`Error::Dimension`], or the host's refusal when the range leaves the tensor.
    pub fn narrow(&self, dim: impl Dim, start: usize, length: usize) -> Result<Tensor> {
        let dim = dim.resolve(&self.dims(), "narrow")?;
        self.apply(ops::NARROW, &[], &[int(dim), int(start), int(length)], &[])
    }

    /// Entry `index` of `dim`, which disappears.
    ///
    /// # Errors
    /// As [`Tensor::narrow`].
    pub fn select(&self, dim: impl Dim, index: usize) -> Result<Tensor> {
        let at = dim.resolve(&self.dims(), "select")?;
        self.narrow(at, index, 1)?.squeeze(at)
    }

    /// `parts` pieces along `dim`, as equal as they can be, the first ones larger.
    ///
    /// # Errors
    /// [`Error::Dimension`], and for zero parts or more parts than entries.
    pub fn chunk(&self, parts: usize, dim: impl Dim) -> Result<Vec<Tensor>> {
        let dims = self.dims();
        let at = dim.resolve(&dims, "chunk")?;
        if parts == 0 || parts > dims[at] {
            return Err(Error::Message(format!(
                "chunk: cannot cut {} entries into {parts} parts",
                dims[at]
            )));
        }
        let (size, larger) = (dims[at] / parts, dims[at] % parts);
        let mut start = 0;
        (0..parts)
            .map(|part| {
                let length = size + usize::from(part < larger);
                let piece = self.narrow(at, start, length);
                start += length;
                piece
            })
            .collect()
    }

    /// Tensors joined along an existing dimension.
    ///
    /// # Errors
    /// For an empty list, and when other dimensions differ.
    pub fn cat<T: std::borrow::Borrow<Tensor>>(tensors: &[T], dim: impl Dim) -> Result<Tensor> {
        let all: Vec<&Tensor> = tensors.iter().map(std::borrow::Borrow::borrow).collect();
        let first = *all.first().ok_or_else(|| Error::msg("cat: no tensors"))?;
        let dim = dim.resolve(&first.dims(), "cat")?;
        Tensor::invoke(first.ops(), ops::CAT, &all, &[int(dim)], &[])
    }

    /// Tensors of one shape joined along a new dimension, which becomes dimension `dim`.
    ///
    /// # Errors
    /// For an empty list, and when shapes differ.
    pub fn stack<T: std::borrow::Borrow<Tensor>>(tensors: &[T], dim: usize) -> Result<Tensor> {
        let rows: Vec<Tensor> = tensors
            .iter()
            .map(|tensor| tensor.borrow().unsqueeze(dim))
            .collect::<Result<_>>()?;
        if rows.is_empty() {
            return Err(Error::msg("stack: no tensors"));
        }
        Tensor::cat(&rows, dim)
    }

    /// Without dimension `dim`, if its extent is 1; else unchanged.
    ///
    /// # Errors
    /// [`Error::Dimension`] for a dimension that is not there.
    pub fn squeeze(&self, dim: impl Dim) -> Result<Tensor> {
        let mut dims = self.dims();
        let at = dim.resolve(&dims, "squeeze")?;
        if dims[at] != 1 {
            return Ok(self.clone());
        }
        dims.remove(at);
        self.reshape(dims)
    }

    /// With a new dimension of extent 1, which becomes dimension `dim` (at most the rank).
    ///
    /// # Errors
    /// [`Error::Dimension`] when `dim` is above the rank.
    pub fn unsqueeze(&self, dim: usize) -> Result<Tensor> {
        let mut dims = self.dims();
        if dim > dims.len() {
            return Err(Error::Dimension {
                op: "unsqueeze",
                dim: int(dim),
                shape: dims,
            });
        }
        dims.insert(dim, 1);
        self.reshape(dims)
    }

    /// Repeated to `shape` by broadcasting.
    ///
    /// # Errors
    /// When this shape does not broadcast to that one.
    pub fn broadcast_as(&self, shape: impl AsRef<[usize]>) -> Result<Tensor> {
        self.apply(ops::BROADCAST_AS, &[], &extents(shape.as_ref()), &[])
    }

    /// A `[B]` tensor as `[B, 1, 1, ..]`, to broadcast against a tensor of `rank` dimensions.
    ///
    /// # Errors
    /// When this tensor is not of rank 1.
    pub fn per_sample(&self, rank: usize) -> Result<Tensor> {
        let [batch] = self.dims_n()?;
        let mut dims = vec![1; rank.max(1)];
        dims[0] = batch;
        self.reshape(dims)
    }

    /// Dimensions `first..=last` merged into one.
    ///
    /// # Errors
    /// [`Error::Dimension`] for a dimension that is not there.
    pub fn flatten(&self, first: impl Dim, last: impl Dim) -> Result<Tensor> {
        let dims = self.dims();
        let (first, last) = (
            first.resolve(&dims, "flatten")?,
            last.resolve(&dims, "flatten")?,
        );
        if first > last {
            return Err(Error::Dimension {
                op: "flatten",
                dim: int(first),
                shape: dims,
            });
        }
        let mut merged = dims[..first].to_vec();
        merged.push(dims[first..=last].iter().product());
        merged.extend(&dims[last + 1..]);
        self.reshape(merged)
    }

    /// Dimension `first` and all after it merged into one.
    ///
    /// # Errors
    /// [`Error::Dimension`] for a dimension that is not there.
    pub fn flatten_from(&self, first: impl Dim) -> Result<Tensor> {
        self.flatten(first, super::D::Minus1)
    }

    /// All elements in one dimension.
    ///
    /// # Errors
    /// When the host fails.
    pub fn flatten_all(&self) -> Result<Tensor> {
        self.reshape([self.elem_count()])
    }

    /// Slices along `dim` at `ids` (`[N]`, u32 or i64).
    ///
    /// # Errors
    /// [`Error::Dimension`], and when an index is out of range.
    pub fn index_select(&self, ids: &Tensor, dim: impl Dim) -> Result<Tensor> {
        let dim = dim.resolve(&self.dims(), "index_select")?;
        self.apply(ops::INDEX_SELECT, &[ids], &[int(dim)], &[])
    }

    /// Single elements along `dim`: for `dim` 0, `out[i][j] = self[ids[i][j]][j]`.
    ///
    /// # Errors
    /// [`Error::Dimension`], and when shapes do not fit or an index is out of range.
    pub fn gather(&self, ids: &Tensor, dim: impl Dim) -> Result<Tensor> {
        let dim = dim.resolve(&self.dims(), "gather")?;
        self.apply(ops::GATHER, &[ids], &[int(dim)], &[])
    }

    /// This tensor with slice `k` of `source` added at `ids[k]` along `dim`.
    ///
    /// # Errors
    /// [`Error::Dimension`], and when shapes do not fit or an index is out of range.
    pub fn index_add(&self, ids: &Tensor, source: &Tensor, dim: impl Dim) -> Result<Tensor> {
        let dim = dim.resolve(&self.dims(), "index_add")?;
        self.apply(ops::INDEX_ADD, &[ids, source], &[int(dim)], &[])
    }

    /// `on_true` where this u8 tensor is not 0, else `on_false`; all three broadcast.
    ///
    /// # Errors
    /// When this is not u8, types differ or shapes do not broadcast.
    pub fn where_cond(&self, on_true: &Tensor, on_false: &Tensor) -> Result<Tensor> {
        self.apply(ops::WHERE_COND, &[on_true, on_false], &[], &[])
    }

    /// With `before` and `after` zeros added along `dim`.
    ///
    /// # Errors
    /// [`Error::Dimension`] for a dimension that is not there.
    pub fn pad_with_zeros(&self, dim: impl Dim, before: usize, after: usize) -> Result<Tensor> {
        let dim = dim.resolve(&self.dims(), "pad_with_zeros")?;
        self.apply(
            ops::PAD_ZEROS,
            &[],
            &[int(dim), int(before), int(after)],
            &[],
        )
    }

    /// With `dims` reversed.
    ///
    /// # Errors
    /// [`Error::Dimension`] for a dimension that is not there.
    pub fn flip(&self, dims: impl Dims) -> Result<Tensor> {
        self.apply(
            ops::FLIP,
            &[],
            &dims.resolve_all(&self.dims(), "flip")?,
            &[],
        )
    }
}
