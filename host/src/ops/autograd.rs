//! Backward passes of this module's operations on a tape of our own, beside candle's graph.
//!
//! candle's `Tensor::backward` allocates zeros and adds for every gradient it hands on, and keeps all activations until the loss is dropped. While a
//! [`Recording`] is open on a thread, the fast operations note themselves on its tape instead; their outputs are leaves (variables) to candle.
//! [`Recording::backward`] then walks the tape from its end: gradients move instead of being copied, a second one is added in place, and activations are freed
//! as soon as their last reader is done: on the way back, or forward already where no backward pass reads them.
//!
//! Anything candle computes between two such operations (a view, a sum, whatever a plugin does) stays candle's: when a gradient arrives at a tensor with a
//! candle history, candle carries it back to the leaves, which are on the tape again. So no gradient is ever cut, whoever made the graph. The order is sound since
//! a leaf is always older on the tape than what was computed from it.
//!
//! Without a recording, operations record themselves in candle's graph, and `Tensor::backward` works as ever.

use std::cell::RefCell;
use std::collections::HashMap;
use std::marker::PhantomData;
use std::sync::Arc;

use candle_core::{
    CpuStorage, CustomOp1, InplaceOp2, Layout, Result, Shape, Tensor, TensorId, Var,
};
use rayon::prelude::*;

use super::elementwise::CHUNK;
use super::function::Held;

/// The backward pass of one operation: `(inputs, output, gradient of the output)` to the gradient of each tracked input.
pub(super) trait Backward {
    fn backward(
        &self,
        inputs: &[&Tensor],
        output: &Tensor,
        grad: &Tensor,
    ) -> Result<Vec<Option<Tensor>>>;
}

/// What happened on a tape, in order.
enum Node {
    /// An operation with what its backward pass reads.
    Operation {
        operation: Arc<dyn Backward>,
        inputs: Vec<Kept>,
        output: Kept,
    },
    /// A piece of network that is computed again when its gradient is wanted.
    Checkpoint {
        compute: Box<dyn Fn() -> Result<Tensor>>,
        output: TensorId,
    },
}

impl Node {
    fn output(&self) -> TensorId {
        match self {
            Self::Operation { output, .. } => output.id,
            Self::Checkpoint { output, .. } => *output,
        }
    }
}

/// A tensor as a tape keeps it: whole, or, where no backward pass reads its values, as no more than its shape, so that its memory is free for others.
struct Kept {
    id: TensorId,
    /// A variable, whose gradient is its own.
    leaf: bool,
    /// With the shape and type of the one that is kept, and tracked as it is.
    tensor: Tensor,
}

impl Kept {
    fn whole(tensor: &Tensor) -> Self {
        Self {
            id: tensor.id(),
            leaf: tensor.is_variable(),
            tensor: tensor.clone(),
        }
    }

    /// Gradients reach what candle made through its own graph, which needs the tensor.
    fn new(tensor: &Tensor, read: bool) -> Result<Self> {
        let mut kept = Self::whole(tensor);
        if kept.leaf && !read {
            let one = Var::zeros((), tensor.dtype(), tensor.device())?;
            kept.tensor = one.broadcast_as(tensor.shape())?;
        }
        Ok(kept)
    }
}

/// What operations of a thread do besides computing.
enum Frame {
    /// They note themselves.
    Tape(Vec<Node>),
    /// Nothing: no gradient is wanted.
    Paused,
}

thread_local! {
    /// What was begun on this thread and has not ended, the innermost last.
    static FRAMES: RefCell<Vec<Frame>> = const { RefCell::new(Vec::new()) };
}

/// What an operation has to do on this thread.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Record itself in candle's graph.
    Graph,
    /// Note itself on a tape.
    Tape,
    /// Only compute.
    Paused,
}

pub(super) fn mode() -> Mode {
    FRAMES.with_borrow(|frames| match frames.last() {
        None => Mode::Graph,
        Some(Frame::Tape(_)) => Mode::Tape,
        Some(Frame::Paused) => Mode::Paused,
    })
}

/// Puts an operation on the innermost tape, each tensor with whether its backward pass reads the values. `output` must be a variable that nothing has read yet.
pub(super) fn note(
    operation: Arc<dyn Backward>,
    inputs: &[(&Tensor, bool)],
    output: (&Tensor, bool),
) -> Result<()> {
    let kept = |&(tensor, read): &(&Tensor, bool)| Kept::new(tensor, read);
    push(Node::Operation {
        operation,
        inputs: inputs.iter().map(kept).collect::<Result<_>>()?,
        output: kept(&output)?,
    });
    Ok(())
}

fn push(node: Node) {
    FRAMES.with_borrow_mut(|frames| {
        if let Some(Frame::Tape(nodes)) = frames.last_mut() {
            nodes.push(node);
        }
    });
}

/// Begins a frame and returns how to end it: its depth.
fn open(frame: Frame) -> usize {
    FRAMES.with_borrow_mut(|frames| {
        frames.push(frame);
        frames.len() - 1
    })
}

/// Ends a frame, and whatever was begun in it and has not ended.
fn close(depth: usize) -> Option<Frame> {
    FRAMES.with_borrow_mut(|frames| {
        frames.truncate(depth + 1);
        match frames.len() > depth {
            true => frames.pop(),
            false => None,
        }
    })
}

/// Runs `work` without recording the operations in it: their outputs are constants to whatever comes later, and keep nothing alive.
pub fn no_grad<T>(work: impl FnOnce() -> T) -> T {
    struct End(usize);
    impl Drop for End {
        fn drop(&mut self) {
            close(self.0);
        }
    }
    let _end = End(open(Frame::Paused));
    work()
}

/// The time in which operations of this thread go to one tape; ends with [`Recording::backward`], or when dropped.
#[derive(Debug)]
pub struct Recording {
    /// Which of the thread's frames is this one's.
    depth: usize,
    /// Belongs to its thread.
    _thread: PhantomData<*const ()>,
}

impl Recording {
    /// Opens a tape; an outer one rests meanwhile.
    #[must_use]
    pub fn start() -> Self {
        Self {
            depth: open(Frame::Tape(Vec::new())),
            _thread: PhantomData,
        }
    }

    /// The gradients of a scalar with respect to every variable it was computed from.
    ///
    /// # Errors
    /// If `loss` is not a scalar, or an operation fails.
    pub fn backward(self, loss: &Tensor) -> Result<Gradients> {
        if loss.elem_count() != 1 {
            candle_core::bail!(
                "a loss must be a scalar to be differentiated, this one is {:?}",
                loss.dims()
            );
        }
        self.backward_from(loss, &loss.ones_like()?)
    }

    /// The gradients of `Σ grad output`; `grad` has the shape of `output`.
    ///
    /// # Errors
    /// If the shapes differ, or an operation fails.
    pub fn backward_from(self, output: &Tensor, grad: &Tensor) -> Result<Gradients> {
        if grad.dims() != output.dims() {
            candle_core::bail!(
                "a gradient of shape {:?} does not fit an output of shape {:?}",
                grad.dims(),
                output.dims()
            );
        }
        let Some(Frame::Tape(mut nodes)) = close(self.depth) else {
            candle_core::bail!("this recording has ended already");
        };
        let mut gradients = Gradients::default();
        gradients.hand_on(&Kept::whole(output), Gradient::Shared(grad.clone()))?;
        while let Some(node) = nodes.pop() {
            let Some(grad) = gradients.0.remove(&node.output()) else {
                continue;
            };
            match node {
                Node::Operation {
                    operation,
                    inputs,
                    output,
                } => gradients.operation(operation.as_ref(), &inputs, &output.tensor, grad)?,
                Node::Checkpoint { compute, .. } => {
                    let again = Self::start();
                    let output = compute()?;
                    for (id, grad) in again.backward_from(&output, &grad.into_tensor())?.0 {
                        gradients.add(id, grad)?;
                    }
                }
            }
        }
        Ok(gradients)
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        // The frame ends its life here, outside of the thread's cell.
        drop(close(self.depth));
    }
}

/// Computes a piece of a network without keeping its activations: `compute` runs now, and again when its gradient is wanted (gradient checkpointing, Chen et al.
/// 2016). It must be a pure function: the same tensors each time. Without a recording it just runs.
///
/// # Errors
/// Whatever `compute` fails with.
pub fn checkpoint(compute: impl Fn() -> Result<Tensor> + 'static) -> Result<Tensor> {
    if mode() != Mode::Tape {
        return compute();
    }
    let output = {
        // Shows whether anything in it trains; the activations go with the tape.
        let _forgotten = Recording::start();
        compute()?
    };
    if !output.track_op() {
        return Ok(output);
    }
    let output = match output.is_variable() {
        true => output,
        false => Var::from_tensor(&output.detach())?.into_inner(),
    };
    push(Node::Checkpoint {
        compute: Box::new(compute),
        output: output.id(),
    });
    Ok(output)
}

/// Gradients by the tensor they belong to.
#[derive(Debug, Default)]
pub struct Gradients(HashMap<TensorId, Gradient>);

/// A gradient on its way.
#[derive(Debug)]
enum Gradient {
    /// Nothing else reads its memory.
    Own(Tensor),
    /// Something else may.
    Shared(Tensor),
}

impl Gradient {
    fn into_tensor(self) -> Tensor {
        match self {
            Self::Own(tensor) | Self::Shared(tensor) => tensor,
        }
    }
}

impl Gradients {
    /// Takes the gradient of a variable; none if the loss does not depend on it.
    pub fn remove(&mut self, variable: &Tensor) -> Option<Tensor> {
        self.0.remove(&variable.id()).map(Gradient::into_tensor)
    }

    fn operation(
        &mut self,
        operation: &dyn Backward,
        inputs: &[Kept],
        output: &Tensor,
        grad: Gradient,
    ) -> Result<()> {
        let own = matches!(grad, Gradient::Own(_));
        let grad = grad.into_tensor();
        let tensors: Vec<&Tensor> = inputs.iter().map(|input| &input.tensor).collect();
        let found = operation.backward(&tensors, output, &grad)?;
        // An operation may hand its gradient on as it came; memory that two inputs then share must not be added to.
        let aliases = found
            .iter()
            .flatten()
            .filter(|found| same_memory(found, &grad))
            .count();
        for (input, found) in inputs.iter().zip(found) {
            let Some(found) = found else { continue };
            let found = match same_memory(&found, &grad) && !(own && aliases == 1) {
                true => Gradient::Shared(found),
                false => Gradient::Own(found),
            };
            self.hand_on(input, found)?;
        }
        Ok(())
    }

    /// Brings a gradient to a tensor: to its own account if it is a leaf, else by candle to the leaves it was computed from.
    fn hand_on(&mut self, kept: &Kept, grad: Gradient) -> Result<()> {
        if kept.leaf {
            return self.add(kept.id, grad);
        }
        let tensor = &kept.tensor;
        if !tensor.track_op() {
            return Ok(());
        }
        let store = seeded(tensor, grad.into_tensor())?.backward()?;
        for &id in store.get_ids() {
            // Also holds gradients of constants, which candle computes but nobody asks for.
            if let Some(grad) = store.get_id(id) {
                self.add(id, Gradient::Own(grad.clone()))?;
            }
        }
        Ok(())
    }

    fn add(&mut self, id: TensorId, grad: Gradient) -> Result<()> {
        let sum = match self.0.remove(&id) {
            None => grad,
            Some(Gradient::Own(sum)) => add_to(sum, &grad.into_tensor())?,
            Some(Gradient::Shared(sum)) => match grad {
                Gradient::Own(grad) => add_to(grad, &sum)?,
                Gradient::Shared(grad) => Gradient::Own((sum + grad)?),
            },
        };
        self.0.insert(id, sum);
        Ok(())
    }
}

/// `sum + grad`, in the memory of `sum`, which nothing else reads.
fn add_to(sum: Tensor, grad: &Tensor) -> Result<Gradient> {
    if super::function::fast(&[&sum, grad])
        && sum.is_contiguous()
        && grad.is_contiguous()
        && sum.dims() == grad.dims()
    {
        sum.inplace_op2(grad, &AddTo)?;
        return Ok(Gradient::Own(sum));
    }
    Ok(Gradient::Own((sum + grad)?))
}

struct AddTo;

impl InplaceOp2 for AddTo {
    fn name(&self) -> &'static str {
        "add_to"
    }

    fn cpu_fwd(
        &self,
        sum: &mut CpuStorage,
        sum_at: &Layout,
        grad: &CpuStorage,
        grad_at: &Layout,
    ) -> Result<()> {
        let (CpuStorage::F32(sum), CpuStorage::F32(grad)) = (sum, grad) else {
            candle_core::bail!("gradients of other types are not added in place")
        };
        let count = sum_at.shape().elem_count();
        let sum = &mut sum[sum_at.start_offset()..][..count];
        let grad = &grad[grad_at.start_offset()..][..count];
        sum.par_chunks_mut(CHUNK)
            .zip(grad.par_chunks(CHUNK))
            .for_each(|(sum, grad)| super::elementwise::add_rows(sum, grad));
        Ok(())
    }
}

/// Whether two tensors begin at the same place in memory.
fn same_memory(a: &Tensor, b: &Tensor) -> bool {
    let start = |tensor: &Tensor| {
        Held::new(tensor)
            .input()
            .map(|input| input.data.as_ptr())
            .ok()
    };
    start(a).is_some_and(|at| start(b) == Some(at))
}

/// A scalar whose gradient with respect to `tensor` is `grad`: how candle is told to start in the middle of its graph.
fn seeded(tensor: &Tensor, grad: Tensor) -> Result<Tensor> {
    if !tensor.device().is_cpu() {
        return (tensor * grad.detach())?.sum_all();
    }
    tensor.apply_op1(Seed(grad.detach()))
}

struct Seed(Tensor);

impl CustomOp1 for Seed {
    fn name(&self) -> &'static str {
        "seed"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(vec![0.0]), Shape::from(())))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, _: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(self.0.clone()))
    }
}

#[cfg(test)]
mod tests;
