//! How methods are told dimensions: by number, or from the end.

use crate::{Error, Result};

/// Dimensions counted from the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum D {
    /// The last dimension.
    Minus1,
    /// The one before the last.
    Minus2,
    /// Any other, given as a negative number.
    Minus(usize),
}

/// One dimension: a `usize`, or [`D`].
pub trait Dim: Copy {
    /// The number of the dimension in `0..shape.len()`.
    ///
    /// # Errors
    /// [`Error::Dimension`], naming `op`, when the shape has no such dimension.
    fn resolve(self, shape: &[usize], op: &'static str) -> Result<usize>;
}

impl Dim for usize {
    fn resolve(self, shape: &[usize], op: &'static str) -> Result<usize> {
        if self < shape.len() {
            return Ok(self);
        }
        Err(Error::Dimension {
            op,
            dim: i64::try_from(self).unwrap_or(i64::MAX),
            shape: shape.to_vec(),
        })
    }
}

impl Dim for D {
    fn resolve(self, shape: &[usize], op: &'static str) -> Result<usize> {
        let back = match self {
            D::Minus1 => 1,
            D::Minus2 => 2,
            D::Minus(back) => back,
        };
        shape
            .len()
            .checked_sub(back)
            .filter(|_| back > 0)
            .ok_or_else(|| Error::Dimension {
                op,
                dim: -i64::try_from(back).unwrap_or(i64::MAX),
                shape: shape.to_vec(),
            })
    }
}

/// Several dimensions: one [`Dim`], an array or slice of numbers, or a pair such as `(1, 2)`.
pub trait Dims {
    /// The numbers of the dimensions.
    ///
    /// # Errors
    /// [`Error::Dimension`], naming `op`, when the shape lacks one of them.
    fn resolve_all(&self, shape: &[usize], op: &'static str) -> Result<Vec<i64>>;
}

fn number(dim: usize) -> i64 {
    i64::try_from(dim).unwrap_or(i64::MAX)
}

impl Dims for usize {
    fn resolve_all(&self, shape: &[usize], op: &'static str) -> Result<Vec<i64>> {
        Ok(vec![number(self.resolve(shape, op)?)])
    }
}

impl Dims for D {
    fn resolve_all(&self, shape: &[usize], op: &'static str) -> Result<Vec<i64>> {
        Ok(vec![number(self.resolve(shape, op)?)])
    }
}

impl<T: Dim> Dims for [T] {
    fn resolve_all(&self, shape: &[usize], op: &'static str) -> Result<Vec<i64>> {
        self.iter()
            .map(|dim| Ok(number(dim.resolve(shape, op)?)))
            .collect()
    }
}

impl<T: Dim, const N: usize> Dims for [T; N] {
    fn resolve_all(&self, shape: &[usize], op: &'static str) -> Result<Vec<i64>> {
        self.as_slice().resolve_all(shape, op)
    }
}

impl<T: Dim> Dims for Vec<T> {
    fn resolve_all(&self, shape: &[usize], op: &'static str) -> Result<Vec<i64>> {
        self.as_slice().resolve_all(shape, op)
    }
}

impl<T: Dims + ?Sized> Dims for &T {
    fn resolve_all(&self, shape: &[usize], op: &'static str) -> Result<Vec<i64>> {
        (**self).resolve_all(shape, op)
    }
}

impl<A: Dim, B: Dim> Dims for (A, B) {
    fn resolve_all(&self, shape: &[usize], op: &'static str) -> Result<Vec<i64>> {
        Ok(vec![
            number(self.0.resolve(shape, op)?),
            number(self.1.resolve(shape, op)?),
        ])
    }
}

impl<A: Dim, B: Dim, C: Dim> Dims for (A, B, C) {
    fn resolve_all(&self, shape: &[usize], op: &'static str) -> Result<Vec<i64>> {
        let mut dims = (self.0, self.1).resolve_all(shape, op)?;
        dims.push(number(self.2.resolve(shape, op)?));
        Ok(dims)
    }
}

/// A shape as the boundary's integers.
pub(crate) fn extents(shape: &[usize]) -> Vec<i64> {
    shape.iter().copied().map(number).collect()
}

pub(crate) fn int(value: usize) -> i64 {
    number(value)
}
