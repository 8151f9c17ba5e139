//! The seam to autograd: one trait for a fast f32 CPU operation of one to three operands, forward and backward, and its way onto our tape or into
//! candle's graph.

use std::borrow::Cow;
use std::sync::Arc;

use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, CustomOp3, DType, Device, Layout, Result, Shape, Storage,
    StorageRef, Tensor, Var,
};

use super::autograd::{self, Backward, Mode};
use super::profile::{Direction, timed};

/// A differentiable operation on f32 CPU tensors.
pub(super) trait Function: Send + Sync + 'static {
    /// Named in errors.
    const NAME: &'static str;

    /// Whether backward reads the values of the output.
    const READS_OUTPUT: bool = false;

    /// Whether backward reads the values of input `index`. Of what it does not read it may get no more than the shape.
    fn reads(&self, _inputs: &[&Tensor], _index: usize) -> bool {
        true
    }

    /// The result, row-major, with its shape.
    fn forward(&self, inputs: &[Input<'_>]) -> Result<(Vec<f32>, Shape)>;

    /// The gradient of each input, in order; `None` for those that are not tracked ([`Tensor::track_op`]).
    fn backward(
        &self,
        inputs: &[&Tensor],
        output: &Tensor,
        grad: &Tensor,
    ) -> Result<Vec<Option<Tensor>>>;
}

/// Whether the fast path takes these operands: all f32, all in CPU memory.
pub(super) fn fast(tensors: &[&Tensor]) -> bool {
    tensors
        .iter()
        .all(|tensor| tensor.dtype() == DType::F32 && tensor.device().is_cpu())
}

/// Runs a function of one to three inputs and records it for backward if any input is tracked: on the open tape, else in candle's graph.
pub(super) fn apply<F: Function>(function: F, inputs: &[&Tensor]) -> Result<Tensor> {
    match inputs {
        _ if autograd::mode() != Mode::Graph => record(function, inputs),
        [a] => a.apply_op1(Recorded(function)),
        [a, b] => a.apply_op2(b, Recorded(function)),
        [a, b, c] => a.apply_op3(b, c, Recorded(function)),
        _ => candle_core::bail!(
            "{}: takes one to three tensors, got {}",
            F::NAME,
            inputs.len()
        ),
    }
}

fn record<F: Function>(function: F, inputs: &[&Tensor]) -> Result<Tensor> {
    let function = Recorded(function);
    let (values, shape) = {
        let held: Vec<Held<'_>> = inputs.iter().map(|&input| Held::new(input)).collect();
        let operands: Vec<Input<'_>> = held.iter().map(Held::input).collect::<Result<_>>()?;
        function.run(&operands)?
    };
    let tracked = inputs.iter().any(|input| input.track_op());
    if autograd::mode() != Mode::Tape || !tracked {
        return tensor(values, shape);
    }
    let output = Var::from_vec(values, shape, &Device::Cpu)?.into_inner();
    let read: Vec<(&Tensor, bool)> = (inputs.iter().enumerate())
        .map(|(index, &input)| (input, function.0.reads(inputs, index)))
        .collect();
    autograd::note(Arc::new(function), &read, (&output, F::READS_OUTPUT))?;
    Ok(output)
}

/// A tensor of the given values in CPU memory.
pub(super) fn tensor(values: Vec<f32>, shape: impl Into<Shape>) -> Result<Tensor> {
    Tensor::from_vec(values, shape.into(), &Device::Cpu)
}

/// An operand as it lies in memory.
#[derive(Clone, Copy)]
pub(super) struct Input<'a> {
    /// The whole storage; the layout says which elements.
    pub(super) data: &'a [f32],
    pub(super) layout: &'a Layout,
}

impl<'a> Input<'a> {
    pub(super) fn new(storage: &'a CpuStorage, layout: &'a Layout) -> Result<Self> {
        Ok(Self {
            data: storage.as_slice::<f32>()?,
            layout,
        })
    }

    pub(super) fn dims(&self) -> &'a [usize] {
        self.layout.dims()
    }

    /// The elements in row-major order; copied only if they do not lie so.
    pub(super) fn contiguous(&self) -> Cow<'a, [f32]> {
        if let Some((start, end)) = self.layout.contiguous_offsets() {
            return Cow::Borrowed(&self.data[start..end]);
        }
        let (dims, stride) = (self.layout.dims(), self.layout.stride());
        let mut copy = Vec::with_capacity(self.layout.shape().elem_count());
        gather(
            &self.data[self.layout.start_offset()..],
            dims,
            stride,
            &mut copy,
        );
        Cow::Owned(copy)
    }
}

/// Appends the elements of a strided array in row-major order.
fn gather(data: &[f32], dims: &[usize], stride: &[usize], copy: &mut Vec<f32>) {
    match (dims, stride) {
        ([], _) => copy.push(data[0]),
        ([count], [1]) => copy.extend_from_slice(&data[..*count]),
        ([count], [stride]) => copy.extend((0..*count).map(|i| data[i * stride])),
        _ if dims.contains(&0) => {}
        _ => (0..dims[0])
            .for_each(|i| gather(&data[i * stride[0]..], &dims[1..], &stride[1..], copy)),
    }
}

/// A tensor held for reading, as backward passes need it.
pub(super) struct Held<'a> {
    storage: StorageRef<'a>,
    layout: &'a Layout,
}

impl<'a> Held<'a> {
    pub(super) fn new(tensor: &'a Tensor) -> Self {
        let (storage, layout) = tensor.storage_and_layout();
        Self { storage, layout }
    }

    pub(super) fn input(&self) -> Result<Input<'_>> {
        match &*self.storage {
            Storage::Cpu(storage) => Input::new(storage, self.layout),
            _ => candle_core::bail!("expected a tensor in CPU memory"),
        }
    }
}

struct Recorded<F>(F);

impl<F: Function> Recorded<F> {
    fn run(&self, inputs: &[Input<'_>]) -> Result<(Vec<f32>, Shape)> {
        timed(F::NAME, Direction::Forward, || self.0.forward(inputs))
    }

    fn store(&self, inputs: &[Input<'_>]) -> Result<(CpuStorage, Shape)> {
        let (values, shape) = self.run(inputs)?;
        Ok((CpuStorage::F32(values), shape))
    }
}

impl<F: Function> Backward for Recorded<F> {
    fn backward(
        &self,
        inputs: &[&Tensor],
        output: &Tensor,
        grad: &Tensor,
    ) -> Result<Vec<Option<Tensor>>> {
        timed(F::NAME, Direction::Backward, || {
            self.0.backward(inputs, output, grad)
        })
    }
}

impl<F: Function> CustomOp1 for Recorded<F> {
    fn name(&self) -> &'static str {
        F::NAME
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout) -> Result<(CpuStorage, Shape)> {
        self.store(&[Input::new(s1, l1)?])
    }

    fn bwd(&self, a: &Tensor, output: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let mut grads = self.backward(&[a], output, grad)?.into_iter();
        Ok(grads.next().flatten())
    }
}

impl<F: Function> CustomOp2 for Recorded<F> {
    fn name(&self) -> &'static str {
        F::NAME
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.store(&[Input::new(s1, l1)?, Input::new(s2, l2)?])
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        output: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let mut grads = self.backward(&[a, b], output, grad)?.into_iter();
        Ok((grads.next().flatten(), grads.next().flatten()))
    }
}

impl<F: Function> CustomOp3 for Recorded<F> {
    fn name(&self) -> &'static str {
        F::NAME
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.store(&[
            Input::new(s1, l1)?,
            Input::new(s2, l2)?,
            Input::new(s3, l3)?,
        ])
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        c: &Tensor,
        output: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let mut grads = self.backward(&[a, b, c], output, grad)?.into_iter();
        Ok((
            grads.next().flatten(),
            grads.next().flatten(),
            grads.next().flatten(),
        ))
    }
}
