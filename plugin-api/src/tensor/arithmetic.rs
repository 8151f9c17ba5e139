//! Elementwise arithmetic: methods in candle's spelling, and the operators, which return `Result` as the methods do.

use std::{
    borrow::Cow,
    ops::{Add, Div, Mul, Neg, Sub},
};

use super::Tensor;
use crate::{
    Result,
    ops::{self, Op},
};

/// The right-hand side of a comparison, [`Tensor::maximum`] or [`Tensor::minimum`]: a tensor or a number.
pub trait Operand {
    /// The operand as a tensor of `like`'s type and device.
    ///
    /// # Errors
    /// When the host cannot make one.
    fn operand<'a>(&'a self, like: &Tensor) -> Result<Cow<'a, Tensor>>;
}

impl Operand for Tensor {
    fn operand<'a>(&'a self, _like: &Tensor) -> Result<Cow<'a, Tensor>> {
        Ok(Cow::Borrowed(self))
    }
}

impl Operand for &Tensor {
    fn operand<'a>(&'a self, _like: &Tensor) -> Result<Cow<'a, Tensor>> {
        Ok(Cow::Borrowed(self))
    }
}

impl Operand for f64 {
    fn operand<'a>(&'a self, like: &Tensor) -> Result<Cow<'a, Tensor>> {
        Ok(Cow::Owned(like.full_like(*self, [0usize; 0])?))
    }
}

macro_rules! unary {
    ($($(#[$meta:meta])* $name:ident => $op:ident;)*) => {
        impl Tensor {$(
            $(#[$meta])*
            ///
            /// # Errors
            /// When the host does not have the operation for this element type.
            pub fn $name(&self) -> Result<Tensor> {
                self.apply(ops::$op, &[], &[], &[])
            }
        )*}
    };
}

unary! {
    /// Absolute value.
    abs => ABS;
    /// `e^x`.
    exp => EXP;
    /// Natural logarithm.
    log => LOG;
    /// Square root.
    sqrt => SQRT;
    /// Square.
    sqr => SQR;
    /// `1 / x`.
    recip => RECIP;
    /// Cosine of radians.
    cos => COS;
    /// Sine of radians.
    sin => SIN;
    /// Hyperbolic tangent.
    tanh => TANH;
    /// Error function.
    erf => ERF;
    /// Arc cosine, of values in -1..1, in radians; its gradient stays finite at both ends.
    acos => ACOS;
    /// `max(x, 0)`.
    relu => RELU;
    /// GELU in the tanh approximation.
    gelu => GELU_TANH;
    /// Exact GELU.
    gelu_erf => GELU_ERF;
    /// `x * sigmoid(x)`.
    silu => SILU;
    /// `1 / (1 + e^-x)`.
    sigmoid => SIGMOID;
    /// Rounded down; no gradient.
    floor => FLOOR;
    /// Rounded up; no gradient.
    ceil => CEIL;
    /// Rounded to the nearest, halves away from zero; no gradient.
    round => ROUND;
    /// -1, 0 or 1; no gradient.
    sign => SIGN;
}

macro_rules! binary {
    ($($(#[$meta:meta])* $name:ident => $op:ident;)*) => {
        impl Tensor {$(
            $(#[$meta])*
            ///
            /// # Errors
            /// When the shapes do not broadcast or the element types differ.
            pub fn $name(&self, rhs: &Tensor) -> Result<Tensor> {
                self.apply(ops::$op, &[rhs], &[], &[])
            }
        )*}
    };
}

binary! {
    /// `self + rhs`, broadcasting.
    broadcast_add => ADD;
    /// `self - rhs`, broadcasting.
    broadcast_sub => SUB;
    /// `self * rhs`, broadcasting.
    broadcast_mul => MUL;
    /// `self / rhs`, broadcasting.
    broadcast_div => DIV;
}

macro_rules! compare {
    ($($(#[$meta:meta])* $name:ident => $op:ident;)*) => {
        impl Tensor {$(
            $(#[$meta])*
            ///
            /// # Errors
            /// When the shapes do not broadcast or the element types differ.
            pub fn $name(&self, rhs: impl Operand) -> Result<Tensor> {
                self.apply(ops::$op, &[&*rhs.operand(self)?], &[], &[])
            }
        )*}
    };
}

compare! {
    /// Elementwise larger of the two, broadcasting.
    maximum => MAXIMUM;
    /// Elementwise smaller of the two, broadcasting.
    minimum => MINIMUM;
    /// `self == rhs` as u8 0 or 1, broadcasting.
    eq => EQ;
    /// `self != rhs` as u8 0 or 1, broadcasting.
    ne => NE;
    /// `self < rhs` as u8 0 or 1, broadcasting.
    lt => LT;
    /// `self <= rhs` as u8 0 or 1, broadcasting.
    le => LE;
    /// `self > rhs` as u8 0 or 1, broadcasting.
    gt => GT;
    /// `self >= rhs` as u8 0 or 1, broadcasting.
    ge => GE;
}

impl Tensor {
    /// `self * mul + add`.
    ///
    /// # Errors
    /// When the host fails.
    pub fn affine(&self, mul: f64, add: f64) -> Result<Tensor> {
        self.apply(ops::AFFINE, &[], &[], &[mul, add])
    }

    /// `-self`.
    ///
    /// # Errors
    /// When the host fails.
    pub fn neg(&self) -> Result<Tensor> {
        self.affine(-1.0, 0.0)
    }

    /// `self^exponent`.
    ///
    /// # Errors
    /// When the host fails.
    pub fn powf(&self, exponent: f64) -> Result<Tensor> {
        self.apply(ops::POWF, &[], &[], &[exponent])
    }

    /// Values limited to `low..=high`; either may be infinite. The gradient is zero outside.
    ///
    /// # Errors
    /// When the host fails.
    pub fn clamp(&self, low: f64, high: f64) -> Result<Tensor> {
        self.apply(ops::CLAMP, &[], &[], &[low, high])
    }
}

/// What the operators need to know of a right-hand side.
trait Rhs {
    fn with(&self, op: Op, lhs: &Tensor) -> Result<Tensor>;
}

impl Rhs for Tensor {
    fn with(&self, op: Op, lhs: &Tensor) -> Result<Tensor> {
        lhs.apply(op, &[self], &[], &[])
    }
}

impl Rhs for Result<Tensor> {
    fn with(&self, op: Op, lhs: &Tensor) -> Result<Tensor> {
        match self {
            Ok(rhs) => rhs.with(op, lhs),
            Err(error) => Err(error.clone()),
        }
    }
}

impl Rhs for f64 {
    fn with(&self, op: Op, lhs: &Tensor) -> Result<Tensor> {
        let (mul, add) = match op {
            ops::ADD => (1.0, *self),
            ops::SUB => (1.0, -self),
            ops::MUL => (*self, 0.0),
            _ => (1.0 / self, 0.0),
        };
        lhs.affine(mul, add)
    }
}

macro_rules! operator {
    ($trait:ident $method:ident $op:ident: $($rhs:ty),*) => {$(
        impl $trait<$rhs> for Tensor {
            type Output = Result<Tensor>;
            fn $method(self, rhs: $rhs) -> Result<Tensor> {
                Rhs::with(&rhs, ops::$op, &self)
            }
        }
        impl $trait<$rhs> for &Tensor {
            type Output = Result<Tensor>;
            fn $method(self, rhs: $rhs) -> Result<Tensor> {
                Rhs::with(&rhs, ops::$op, self)
            }
        }
    )*
        impl $trait<&Tensor> for Tensor {
            type Output = Result<Tensor>;
            fn $method(self, rhs: &Tensor) -> Result<Tensor> {
                Rhs::with(rhs, ops::$op, &self)
            }
        }
        impl $trait<&Tensor> for &Tensor {
            type Output = Result<Tensor>;
            fn $method(self, rhs: &Tensor) -> Result<Tensor> {
                Rhs::with(rhs, ops::$op, self)
            }
        }
        impl $trait<Tensor> for f64 {
            type Output = Result<Tensor>;
            fn $method(self, rhs: Tensor) -> Result<Tensor> {
                $trait::$method(self, &rhs)
            }
        }
    };
}
operator!(Add add ADD: Tensor, Result<Tensor>, f64);
operator!(Sub sub SUB: Tensor, Result<Tensor>, f64);
operator!(Mul mul MUL: Tensor, Result<Tensor>, f64);
operator!(Div div DIV: Tensor, Result<Tensor>, f64);

impl Add<&Tensor> for f64 {
    type Output = Result<Tensor>;
    fn add(self, rhs: &Tensor) -> Result<Tensor> {
        rhs.affine(1.0, self)
    }
}

impl Sub<&Tensor> for f64 {
    type Output = Result<Tensor>;
    fn sub(self, rhs: &Tensor) -> Result<Tensor> {
        rhs.affine(-1.0, self)
    }
}

impl Mul<&Tensor> for f64 {
    type Output = Result<Tensor>;
    fn mul(self, rhs: &Tensor) -> Result<Tensor> {
        rhs.affine(self, 0.0)
    }
}

impl Div<&Tensor> for f64 {
    type Output = Result<Tensor>;
    fn div(self, rhs: &Tensor) -> Result<Tensor> {
        rhs.recip()?.affine(self, 0.0)
    }
}

impl Neg for Tensor {
    type Output = Result<Tensor>;
    fn neg(self) -> Result<Tensor> {
        Tensor::neg(&self)
    }
}

impl Neg for &Tensor {
    type Output = Result<Tensor>;
    fn neg(self) -> Result<Tensor> {
        Tensor::neg(self)
    }
}
