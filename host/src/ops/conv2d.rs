//! Two-dimensional convolution by matrix products over unrolled patches (im2col): a band of output rows at a time, or, on the tile unit, as the product asks for them.

use candle_core::{DType, Result, Shape, Tensor};
use rayon::prelude::*;

use super::amx;
use super::fresh::{Cut, build, zeros};
use super::function::{Function, Held, Input, apply, fast, tensor};
use super::gemm::{Matrix, Right, Rows, Threads, Write, product, product_with};
use super::simd::{multiversion, total_with};

/// How a kernel moves over an image; the same down and across.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv2d {
    /// Positions between outputs, at least 1.
    pub stride: usize,
    /// Rows and columns of zeros around the image.
    pub padding: usize,
    /// Positions between a kernel's elements, at least 1.
    pub dilation: usize,
    /// Groups of channels that do not see each other, at least 1.
    pub groups: usize,
}

impl Default for Conv2d {
    fn default() -> Self {
        Self {
            stride: 1,
            padding: 0,
            dilation: 1,
            groups: 1,
        }
    }
}

/// The cross-correlation of each image with the kernels, plus a bias by output channel.
///
/// # Shapes
/// `x [B, C, H, W]`, `w [O, C / groups, KH, KW]`, `b [O]` → `[B, O, (H + 2 padding - dilation (KH - 1) - 1) / stride + 1, ..]`.
///
/// # Errors
/// If the shapes do not fit, or the dilated kernel is larger than the padded image.
pub fn conv2d(x: &Tensor, w: &Tensor, b: Option<&Tensor>, config: Conv2d) -> Result<Tensor> {
    let geometry = Geometry::new(x, w, config)?;
    if let Some(b) = b
        && b.dims() != [geometry.outputs]
    {
        candle_core::bail!(
            "conv2d: bias {:?} does not fit weight {:?}",
            b.dims(),
            w.dims()
        );
    }
    let operands: Vec<&Tensor> = [Some(x), Some(w), b].into_iter().flatten().collect();
    if fast(&operands) {
        return apply(geometry, &operands);
    }
    if x.device().is_cpu() && matches!(x.dtype(), DType::F16 | DType::BF16) {
        // Candle's own convolution has no halves there.
        let wide = |tensor: &Tensor| tensor.to_dtype(DType::F32);
        let b = b.map(wide).transpose()?;
        return conv2d(&wide(x)?, &wide(w)?, b.as_ref(), config)?.to_dtype(x.dtype());
    }
    let y = compose(x, w, &geometry)?;
    match b {
        Some(b) => y.broadcast_add(&b.reshape((1, geometry.outputs, 1, 1))?),
        None => Ok(y),
    }
}

/// Candle's convolution where its gradient is right, which it is not for a stride over sides of different remainder; else a
/// sum over the kernel's elements of products with the image shifted.
fn compose(x: &Tensor, w: &Tensor, g: &Geometry) -> Result<Tensor> {
    let c = g.config;
    if c.stride == 1 || (g.image[0] == g.image[1] && g.kernel[0] == g.kernel[1]) {
        return x.conv2d(w, c.padding, c.stride, c.dilation, c.groups);
    }
    let padded = x
        .pad_with_zeros(2, c.padding, c.padding)?
        .pad_with_zeros(3, c.padding, c.padding)?
        .contiguous()?;
    let pick = |tap: usize, count: usize| {
        let indices: Vec<u32> = (0..count)
            .map(|i| (i * c.stride + tap * c.dilation) as u32)
            .collect();
        Tensor::from_vec(indices, count, x.device())
    };
    let [oh, ow] = g.output;
    let (inner, outer) = (g.channels / c.groups, g.outputs / c.groups);
    let mut sum: Option<Tensor> = None;
    for i in 0..g.kernel[0] {
        for j in 0..g.kernel[1] {
            let shifted = padded
                .index_select(&pick(i, oh)?, 2)?
                .index_select(&pick(j, ow)?, 3)?;
            let shifted = shifted.reshape((g.batch, c.groups, inner, oh * ow))?;
            let tap = w
                .narrow(2, i, 1)?
                .narrow(3, j, 1)?
                .reshape((1, c.groups, outer, inner))?;
            let y = tap.broadcast_matmul(&shifted)?;
            sum = Some(match sum {
                Some(sum) => (sum + y)?,
                None => y,
            });
        }
    }
    match sum {
        Some(sum) => sum.reshape((g.batch, g.outputs, oh, ow)),
        None => candle_core::bail!("conv2d: the kernel {:?} is empty", w.dims()),
    }
}

/// Sizes of a convolution, checked to fit each other.
#[derive(Clone, Copy)]
struct Geometry {
    config: Conv2d,
    batch: usize,
    channels: usize,
    outputs: usize,
    image: [usize; 2],
    kernel: [usize; 2],
    output: [usize; 2],
}

impl Geometry {
    fn new(x: &Tensor, w: &Tensor, config: Conv2d) -> Result<Self> {
        let ((batch, channels, h, width), (outputs, inner, kh, kw)) = (x.dims4()?, w.dims4()?);
        let Conv2d {
            stride,
            padding,
            dilation,
            groups,
        } = config;
        if stride == 0 || dilation == 0 || groups == 0 {
            candle_core::bail!(
                "conv2d: stride, dilation and groups must be positive, got {config:?}"
            );
        }
        if inner * groups != channels || outputs % groups != 0 || kh == 0 || kw == 0 {
            let (x, w) = (x.dims(), w.dims());
            candle_core::bail!("conv2d: weight {w:?} in {groups} groups does not fit x {x:?}");
        }
        let side = |image: usize, kernel: usize| {
            let (padded, reach) = (image + 2 * padding, dilation * (kernel - 1) + 1);
            match padded.checked_sub(reach) {
                Some(room) => Ok(room / stride + 1),
                None => candle_core::bail!(
                    "conv2d: the kernel reaches {reach}, beyond the padded image of {padded}"
                ),
            }
        };
        Ok(Self {
            config,
            batch,
            channels,
            outputs,
            image: [h, width],
            kernel: [kh, kw],
            output: [side(h, kh)?, side(width, kw)?],
        })
    }

    /// Elements of an image and of an output, all channels.
    fn sample(&self) -> [usize; 2] {
        let [h, w] = self.image;
        let [oh, ow] = self.output;
        [self.channels * h * w, self.outputs * oh * ow]
    }

    /// Rows of a patch matrix: the elements that one output of a group sums over.
    fn patch(&self) -> usize {
        self.channels / self.config.groups * self.kernel[0] * self.kernel[1]
    }

    /// Whether the image is its own patch matrix.
    fn pointwise(&self) -> bool {
        self.kernel == [1, 1] && self.config.stride == 1 && self.config.padding == 0
    }

    /// Whether a group's product with the patches of all positions goes to the tile unit.
    fn on_tiles(&self) -> bool {
        let (outer, [oh, ow]) = (self.outputs / self.config.groups, self.output);
        amx::takes([outer, oh * ow, self.patch()])
    }

    /// Output rows taken at a time, so that their patches stay near the processor. The tile unit packs the kernels anew for each band, so it gets larger ones.
    fn band(&self) -> usize {
        const ELEMENTS: usize = 1 << 20;
        const COLUMNS: usize = 512;
        let ([oh, ow], patch) = (self.output, self.patch());
        let columns = match self.on_tiles() {
            true => (ELEMENTS / patch.max(1)).max(COLUMNS),
            false => ELEMENTS / patch.max(1),
        };
        (columns / ow.max(1)).clamp(1, oh.max(1))
    }

    /// Bands of output rows: the first row and the count of each.
    fn bands(&self) -> impl Iterator<Item = (usize, usize)> {
        let (rows, band) = (self.output[0], self.band());
        (0..rows)
            .step_by(band)
            .map(move |first| (first, band.min(rows - first)))
    }

    /// The kernels of a group.
    fn kernels<'a>(&self, w: &'a [f32], group: usize) -> Matrix<'a> {
        let (outer, patch) = (self.outputs / self.config.groups, self.patch());
        Matrix::new(&w[group * outer * patch..][..outer * patch], outer, patch)
    }

    /// A band of a group's outputs (or of their gradient) within one sample: `[O / groups, count OW]`.
    fn outputs_of<'a>(
        &self,
        sample: &'a [f32],
        group: usize,
        (first, count): (usize, usize),
    ) -> Matrix<'a> {
        let (outer, [oh, ow]) = (self.outputs / self.config.groups, self.output);
        let data = &sample[group * outer * oh * ow + first * ow..];
        Matrix::strided(data, [outer, count * ow], [oh * ow, 1])
    }

    /// Where a group's channels lie within one image.
    fn channels_of(&self, group: usize) -> std::ops::Range<usize> {
        let size = self.channels / self.config.groups * self.image[0] * self.image[1];
        group * size..(group + 1) * size
    }

    /// Runs over samples: in parallel if there are enough for all threads, else one by one with every thread inside. Both
    /// give the same bits.
    fn by_sample<'a>(
        &self,
        out: &'a mut [f32],
        size: usize,
        run: impl Fn(usize, &'a mut [f32], Threads) + Sync,
    ) {
        if self.batch >= rayon::current_num_threads() {
            out.par_chunks_mut(size)
                .enumerate()
                .for_each(|(sample, out)| run(sample, out, Threads::One));
        } else {
            out.chunks_mut(size)
                .enumerate()
                .for_each(|(sample, out)| run(sample, out, Threads::All));
        }
    }

    /// Writes the patch matrix of a band: `[C / groups, KH, KW]` by `[count, OW]`, zero where the kernel hangs over.
    fn unroll(
        &self,
        image: &[f32],
        (first, count): (usize, usize),
        patches: &mut [f32],
        threads: Threads,
    ) {
        let ([h, w], [kh, kw], ow) = (self.image, self.kernel, self.output[1]);
        let run = |(row, patch): (usize, &mut [f32])| {
            let (channel, i, j) = (row / (kh * kw), row / kw % kh, row % kw);
            let channel = &image[channel * h * w..][..h * w];
            for (y, out) in patch.chunks_exact_mut(ow).enumerate() {
                self.unroll_row(channel, [first + y, i], [0, j], out);
            }
        };
        match threads {
            Threads::One => patches
                .chunks_exact_mut(count * ow)
                .enumerate()
                .for_each(run),
            Threads::All => patches
                .par_chunks_exact_mut(count * ow)
                .enumerate()
                .for_each(run),
        }
    }

    /// Position in the padded image of a kernel element at an output.
    fn at(&self, output: usize, tap: usize) -> usize {
        output * self.config.stride + tap * self.config.dilation
    }

    /// The outputs of a row whose kernel element `j` lies on the image.
    fn inside(&self, j: usize) -> std::ops::Range<usize> {
        let Conv2d {
            stride, padding, ..
        } = self.config;
        let (w, ow) = (self.image[1], self.output[1]);
        let tap = j * self.config.dilation;
        let start = padding.saturating_sub(tap).div_ceil(stride).min(ow);
        let end = (w + padding).saturating_sub(tap).div_ceil(stride).min(ow);
        start..end.max(start)
    }

    /// Writes the elements that a kernel's element `[i, j]` sees from the output `[y, x]` on, within a row.
    fn unroll_row(&self, channel: &[f32], [y, i]: [usize; 2], [x, j]: [usize; 2], out: &mut [f32]) {
        let [h, w] = self.image;
        let Conv2d {
            stride, padding, ..
        } = self.config;
        let Some(y) = self.at(y, i).checked_sub(padding).filter(|&y| y < h) else {
            return out.fill(0.0);
        };
        let inside = self.inside(j);
        let start = inside.start.clamp(x, x + out.len()) - x;
        let end = inside.end.clamp(x + start, x + out.len()) - x;
        out[..start].fill(0.0);
        out[end..].fill(0.0);
        let out = &mut out[start..end];
        if out.is_empty() {
            return;
        }
        let from = &channel[y * w..][..w][self.at(x + start, j) - padding..];
        if stride == 1 {
            out.copy_from_slice(&from[..out.len()]);
        } else {
            for (out, x) in out.iter_mut().zip(from.iter().step_by(stride)) {
                *out = *x;
            }
        }
    }

    /// Adds the patch matrix of a band back onto the image: the transpose of [`unroll`](Self::unroll).
    fn roll(
        &self,
        patches: &[f32],
        (first, count): (usize, usize),
        image: &mut [f32],
        threads: Threads,
    ) {
        let ([h, w], [kh, kw], ow) = (self.image, self.kernel, self.output[1]);
        let run = |(image, patches): (&mut [f32], &[f32])| {
            for (tap, patch) in patches.chunks_exact(count * ow).enumerate() {
                let (i, j) = (tap / kw, tap % kw);
                let inside = self.inside(j);
                if inside.is_empty() {
                    continue;
                }
                let start = self.at(inside.start, j) - self.config.padding;
                for (y, patch) in patch.chunks_exact(ow).enumerate() {
                    if let Some(y) = self
                        .at(first + y, i)
                        .checked_sub(self.config.padding)
                        .filter(|&y| y < h)
                    {
                        add_strided(
                            &mut image[y * w + start..(y + 1) * w],
                            &patch[inside.clone()],
                            self.config.stride,
                        );
                    }
                }
            }
        };
        let channel = kh * kw * count * ow;
        match threads {
            Threads::One => image
                .chunks_exact_mut(h * w)
                .zip(patches.chunks_exact(channel))
                .for_each(run),
            Threads::All => image
                .par_chunks_exact_mut(h * w)
                .zip(patches.par_chunks_exact(channel))
                .for_each(run),
        }
    }

    fn forward(&self, x: &[f32], w: &[f32], b: Option<&[f32]>, out: &mut [f32]) {
        let [input, output] = self.sample();
        let outer = self.outputs / self.config.groups;
        let [oh, ow] = self.output;
        self.by_sample(out, output, |sample, out, threads| {
            let x = &x[sample * input..][..input];
            let mut write = Write::Replace { scale: 1.0 };
            if let Some(b) = b {
                out.chunks_exact_mut(oh * ow)
                    .zip(b)
                    .for_each(|(out, &b)| out.fill(b));
                write = Write::Add { scale: 1.0 };
            }
            let mut patches = Vec::new();
            for group in 0..self.config.groups {
                let image = &x[self.channels_of(group)];
                let kernels = self.kernels(w, group);
                let out = &mut out[group * outer * oh * ow..][..outer * oh * ow];
                if self.pointwise() {
                    let image = Matrix::new(image, self.patch(), oh * ow);
                    product(out, oh * ow, kernels, image, write, threads);
                    continue;
                }
                if self.on_tiles() {
                    let patches = Right::Made(&Patches {
                        geometry: self,
                        image,
                    });
                    product_with(out, oh * ow, kernels, patches, write, threads);
                    continue;
                }
                for (first, count) in self.bands() {
                    patches.resize(self.patch() * count * ow, 0.0);
                    self.unroll(image, (first, count), &mut patches, threads);
                    let patches = Matrix::new(&patches, self.patch(), count * ow);
                    product(
                        &mut out[first * ow..],
                        oh * ow,
                        kernels,
                        patches,
                        write,
                        threads,
                    );
                }
            }
        });
    }

    /// The convolution of the output's gradient that is the image's, with [`turned`](Self::turned) kernels; none where the gradient comes by way of patches: where
    /// it is no convolution, where vectors do it, or where turning the kernels would take longer than the patches.
    fn transposed(&self) -> Option<Self> {
        let ([kh, kw], config) = (self.kernel, self.config);
        let reach = config.dilation * (kh - 1);
        if kh != kw || kh == 1 || config.stride != 1 || reach < config.padding {
            return None;
        }
        let transposed = Self {
            config: Conv2d {
                padding: reach - config.padding,
                ..config
            },
            channels: self.outputs,
            outputs: self.channels,
            image: self.output,
            output: self.image,
            ..*self
        };
        let few = self.outputs / config.groups <= self.image[0] * self.image[1];
        (few && transposed.on_tiles()).then_some(transposed)
    }

    /// The kernels from outputs to channels, upside down: `[C, O / groups, KH, KW]`.
    fn turned(&self, w: &[f32]) -> Vec<f32> {
        let taps = self.kernel[0] * self.kernel[1];
        let groups = self.config.groups;
        let (inner, outer) = (self.channels / groups, self.outputs / groups);
        let cut = Cut::flat(w.len(), outer * taps);
        build(w.len(), cut, |_, at, out| {
            let channel = at / (outer * taps);
            let (group, channel) = (channel / inner, channel % inner);
            for (output, out) in out.chunks_exact_mut(taps).enumerate() {
                let from = &w[((group * outer + output) * inner + channel) * taps..][..taps];
                for (out, x) in out.iter_mut().zip(from.iter().rev()) {
                    *out = *x;
                }
            }
        })
    }

    fn image_grad(&self, w: &[f32], grad: &[f32], out: &mut [f32]) {
        if let Some(transposed) = self.transposed() {
            return Geometry::forward(&transposed, grad, &self.turned(w), None, out);
        }
        let [input, output] = self.sample();
        let write = Write::Replace { scale: 1.0 };
        let ow = self.output[1];
        self.by_sample(out, input, |sample, out, threads| {
            let grad = &grad[sample * output..][..output];
            let mut patches = Vec::new();
            for group in 0..self.config.groups {
                let image = &mut out[self.channels_of(group)];
                let kernels = self.kernels(w, group).t();
                if self.pointwise() {
                    let whole = (0, self.output[0]);
                    product(
                        image,
                        self.output[0] * ow,
                        kernels,
                        self.outputs_of(grad, group, whole),
                        write,
                        threads,
                    );
                    continue;
                }
                for band in self.bands() {
                    let columns = band.1 * ow;
                    patches.resize(self.patch() * columns, 0.0);
                    product(
                        &mut patches,
                        columns,
                        kernels,
                        self.outputs_of(grad, group, band),
                        write,
                        threads,
                    );
                    self.roll(&patches, band, image, threads);
                }
            }
        });
    }

    /// Sums over samples in order, every thread in each product.
    fn kernel_grad(&self, x: &[f32], grad: &[f32], out: &mut [f32]) {
        let [input, output] = self.sample();
        let patch = self.patch();
        let kernels = self.outputs / self.config.groups * patch;
        let write = Write::Add { scale: 1.0 };
        let mut patches = Vec::new();
        for (x, grad) in x.chunks_exact(input).zip(grad.chunks_exact(output)) {
            for (group, out) in out.chunks_exact_mut(kernels).enumerate() {
                let image = &x[self.channels_of(group)];
                if self.pointwise() {
                    let whole = (0, self.output[0]);
                    let image = Matrix::new(image, patch, self.output[0] * self.output[1]);
                    product(
                        out,
                        patch,
                        self.outputs_of(grad, group, whole),
                        image.t(),
                        write,
                        Threads::All,
                    );
                    continue;
                }
                if amx::takes([
                    self.outputs / self.config.groups,
                    patch,
                    self.output[0] * self.output[1],
                ]) {
                    let patches = Right::MadeTransposed(&Patches {
                        geometry: self,
                        image,
                    });
                    let grad = self.outputs_of(grad, group, (0, self.output[0]));
                    product_with(out, patch, grad, patches, write, Threads::All);
                    continue;
                }
                for band in self.bands() {
                    let columns = band.1 * self.output[1];
                    patches.resize(patch * columns, 0.0);
                    self.unroll(image, band, &mut patches, Threads::All);
                    let patches = Matrix::new(&patches, patch, columns).t();
                    product(
                        out,
                        patch,
                        self.outputs_of(grad, group, band),
                        patches,
                        write,
                        Threads::All,
                    );
                }
            }
        }
    }
}

/// The patch matrix of a group's image, `[C / groups, KH, KW]` by all positions of the output, made as it is asked for.
struct Patches<'a> {
    geometry: &'a Geometry,
    image: &'a [f32],
}

impl Rows for Patches<'_> {
    fn size(&self) -> [usize; 2] {
        let [oh, ow] = self.geometry.output;
        [self.geometry.patch(), oh * ow]
    }

    fn fill(&self, row: usize, first: usize, out: &mut [f32]) {
        let ([h, w], [kh, kw], ow) = (
            self.geometry.image,
            self.geometry.kernel,
            self.geometry.output[1],
        );
        let (channel, i, j) = (row / (kh * kw), row / kw % kh, row % kw);
        let channel = &self.image[channel * h * w..][..h * w];
        let (mut position, mut out) = (first, out);
        while !out.is_empty() {
            let (y, x) = (position / ow, position % ow);
            let (piece, rest) = out.split_at_mut(out.len().min(ow - x));
            position += piece.len();
            self.geometry.unroll_row(channel, [y, i], [x, j], piece);
            out = rest;
        }
    }
}

impl Function for Geometry {
    const NAME: &'static str = "conv2d";

    fn reads(&self, operands: &[&Tensor], index: usize) -> bool {
        // Each factor for the other one's gradient.
        match index {
            0 => operands[1].track_op(),
            1 => operands[0].track_op(),
            _ => false,
        }
    }

    fn forward(&self, operands: &[Input<'_>]) -> Result<(Vec<f32>, Shape)> {
        let [oh, ow] = self.output;
        let (x, w) = (operands[0].contiguous(), operands[1].contiguous());
        let b = operands.get(2).map(Input::contiguous);
        let mut out = zeros(self.batch * self.sample()[1]);
        if !out.is_empty() {
            Geometry::forward(self, &x, &w, b.as_deref(), &mut out);
        }
        Ok((out, (self.batch, self.outputs, oh, ow).into()))
    }

    fn backward(
        &self,
        operands: &[&Tensor],
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<Vec<Option<Tensor>>> {
        let (held_x, held_w, held_grad) = (
            Held::new(operands[0]),
            Held::new(operands[1]),
            Held::new(grad),
        );
        let (x, w) = (held_x.input()?, held_w.input()?);
        let grad = held_grad.input()?.contiguous();
        let mut grads = vec![None; operands.len()];
        if grad.is_empty() {
            return Ok(grads);
        }
        if operands[0].track_op() {
            let mut out = zeros(operands[0].elem_count());
            if !out.is_empty() {
                self.image_grad(&w.contiguous(), &grad, &mut out);
            }
            grads[0] = Some(tensor(out, operands[0].shape())?);
        }
        if operands[1].track_op() {
            let mut out = zeros(operands[1].elem_count());
            if !out.is_empty() {
                self.kernel_grad(&x.contiguous(), &grad, &mut out);
            }
            grads[1] = Some(tensor(out, operands[1].shape())?);
        }
        if let Some(b) = operands.get(2)
            && b.track_op()
        {
            let positions = self.output[0] * self.output[1];
            let sums: Vec<f64> = grad.par_chunks(positions).map(total).collect();
            let mut out = vec![0.0; self.outputs];
            for sums in sums.chunks_exact(self.outputs) {
                out.iter_mut()
                    .zip(sums)
                    .for_each(|(out, sum)| *out += *sum as f32);
            }
            grads[2] = Some(tensor(out, b.shape())?);
        }
        Ok(grads)
    }
}

multiversion! {
    fn total(x: &[f32]) -> f64 {
        total_with(x, x, |x, _| x)
    }
}

multiversion! {
    /// `to[i stride] += from[i]`
    fn add_strided(to: &mut [f32], from: &[f32], stride: usize) {
        if stride == 1 {
            for (to, from) in to.iter_mut().zip(from) {
                *to += from;
            }
        } else {
            for (to, from) in to.iter_mut().step_by(stride).zip(from) {
                *to += from;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::ops::testing::{check, check_golden_case};

    fn config(stride: usize, padding: usize, dilation: usize, groups: usize) -> Conv2d {
        Conv2d {
            stride,
            padding,
            dilation,
            groups,
        }
    }

    fn case(x: [usize; 4], w: [usize; 4], config: Conv2d) {
        check(&[&x, &w, &[w[0]]], |t| {
            conv2d(&t[0], &t[1], Some(&t[2]), config)
        });
        check(&[&x, &w], |t| conv2d(&t[0], &t[1], None, config));
    }

    #[test]
    fn conv2d_is_right() {
        let same = Conv2d {
            padding: 1,
            ..Conv2d::default()
        };
        case([2, 3, 6, 5], [4, 3, 3, 3], same);
        case([1, 5, 4, 7], [3, 5, 1, 1], Conv2d::default());
        case([5, 2, 7, 6], [4, 2, 2, 3], Conv2d::default());
    }

    #[test]
    fn stride_dilation_and_groups_are_right() {
        case([2, 3, 8, 8], [4, 3, 3, 3], config(2, 1, 1, 1));
        // Sides of different remainder, which candle's own gradient gets wrong.
        case([2, 3, 8, 7], [4, 3, 3, 3], config(2, 1, 1, 1));
        case([1, 2, 9, 10], [3, 2, 3, 2], config(3, 2, 2, 1));
        case([2, 4, 6, 5], [6, 2, 3, 3], config(1, 1, 1, 2));
        case([1, 3, 5, 5], [3, 1, 3, 3], config(1, 2, 2, 3));
        // Padding wider than the kernel: some outputs see only zeros.
        case([1, 1, 2, 2], [1, 1, 1, 1], config(2, 3, 1, 1));
    }

    #[test]
    fn several_bands_are_right() {
        let geometry = |config| {
            let x = Tensor::zeros(
                (1, 8, 130, 130),
                candle_core::DType::F32,
                &candle_core::Device::Cpu,
            )
            .unwrap();
            let w = Tensor::zeros(
                (3, 8, 3, 3),
                candle_core::DType::F32,
                &candle_core::Device::Cpu,
            )
            .unwrap();
            Geometry::new(&x, &w, config).unwrap()
        };
        let config = Conv2d {
            padding: 1,
            ..Conv2d::default()
        };
        assert!(geometry(config).bands().count() > 1);
        case([1, 8, 130, 130], [3, 8, 3, 3], config);
    }

    #[test]
    fn sizes_for_the_tile_unit_are_right() {
        let same = config(1, 1, 1, 1);
        case([2, 32, 8, 12], [64, 32, 3, 3], same);
        // Fewer positions than outputs: the image's gradient comes by way of patches.
        case([1, 32, 8, 8], [96, 32, 3, 3], same);
        case([2, 64, 8, 12], [64, 32, 3, 3], config(1, 2, 2, 2));
        case([1, 32, 16, 24], [64, 32, 3, 3], config(2, 1, 1, 1));
        case([1, 32, 9, 14], [64, 32, 2, 3], config(1, 1, 1, 1));
    }

    #[test]
    fn misfits_are_refused() {
        let zeros = |shape: [usize; 4]| {
            Tensor::zeros(&shape, candle_core::DType::F32, &candle_core::Device::Cpu).unwrap()
        };
        let refuse = |x, w, config| {
            conv2d(&zeros(x), &zeros(w), None, config)
                .unwrap_err()
                .to_string()
        };
        let message = refuse([1, 3, 8, 8], [4, 2, 3, 3], Conv2d::default());
        assert!(
            message.contains("[4, 2, 3, 3]") && message.contains("[1, 3, 8, 8]"),
            "{message}"
        );
        let message = refuse([1, 3, 2, 8], [4, 3, 3, 3], Conv2d::default());
        assert!(message.contains("reaches 3"), "{message}");
        let config = Conv2d {
            stride: 0,
            ..Conv2d::default()
        };
        assert!(refuse([1, 3, 8, 8], [4, 3, 3, 3], config).contains("positive"));
    }

    #[test]
    fn conv2d_equals_pytorch() {
        let configs = [
            config(1, 1, 1, 1),
            config(2, 1, 1, 1),
            config(1, 0, 1, 1),
            config(2, 2, 2, 2),
        ];
        for (index, config) in configs.into_iter().enumerate() {
            check_golden_case("conv2d", index, |x| {
                conv2d(&x[0], &x[1], Some(&x[2]), config)
            });
        }
    }
}
