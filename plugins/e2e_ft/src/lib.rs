//! E2E FT (Martin Garcia et al.; WACV 2025; arXiv 2409.11355): a diffusion model as an estimator of depth or normals, in one step.
//!
//! The network sees the picture's latents beside noisy latents, and what it predicts at the last timestep is decoded at once: the loss is the task's own, on the
//! decoded picture, and its gradient comes back through the frozen decoder. The multi-step estimator that the paper compares with (Marigold, arXiv 2312.02145)
//! is the other [`Objective`].
//!
//! What the hooks give each other travels in the batch: [`CONTEXT`], [`TRUTH`] and [`VALID`].

#![deny(unsafe_code)]

pub mod loss;
pub mod noise;
mod settings;
pub mod truth;
mod widen;

use plugin_api::hooks::{
    BatchHook, DenoiserInputHook, DenoiserInputIn, Encoding, NoiseHook, NoiseIn, ObjectiveHook,
    ObjectiveIn, OutputHook, OutputIn, Picture, PrepareHook, SampleBegin, SampleBeginHook,
    SampleStepHook, SampleStepIn, SavedState, StateHook, TimestepsHook, TimestepsIn,
};
use plugin_api::{
    Batch, DType, Error, Host, Plugin, Result, StoredTensor, Tensor, bail, export_plugin,
};

use noise::Draws;
pub use settings::{E2eFtSettings, Input, Noise, Objective, Task};
use truth::Truth;

/// The batch's name for the latents of the picture to estimate from: `[B, C, h, w]` f32, the mean of what the encoder gives.
pub const CONTEXT: &str = "e2e_ft.context";

/// In training: what is to be estimated, as [`Truth::values`] has it.
pub const TRUTH: &str = "e2e_ft.truth";

/// In training: where it is known, as [`Truth::valid`] has it.
pub const VALID: &str = "e2e_ft.valid";

/// The plugin.
pub struct E2eFt {
    settings: E2eFtSettings,
    noise: Noise,
    /// What a model that is told captions is told of every picture, by name: the encodings of no words, `[1, ..]`.
    empty_prompt: Vec<(String, StoredTensor)>,
    /// Whether the estimate rises with depth, as a running mean of the signs of the scales that the loss found: it takes either way round.
    direction: f64,
}

/// What a step leaves of the running mean of [`E2eFt`]'s direction.
const DIRECTION_KEPT: f64 = 0.9;

impl Plugin for E2eFt {
    type Settings = E2eFtSettings;
    const ID: &'static str = "e2e_ft";
    const SUMMARY: &'static str =
        "Depth or normals in one step, with the loss on the decoded picture";
    // Adapters must see the widened layer as it is.
    const BEFORE: &'static [&'static str] = &["lora"];

    fn build(settings: E2eFtSettings, host: &Host) -> Result<Self> {
        let column = settings.task.column();
        if let Some(columns) = host
            .run()?
            .columns
            .filter(|all| !all.iter().any(|name| name == column))
        {
            return Err(lacking(column, &columns));
        }
        let noise = match (settings.objective, settings.input, settings.noise) {
            (Objective::Diffusion, Input::Rgb, _) => bail!(
                "objective = \"diffusion\" takes noise away step by step, and input = \"rgb\" shows the network none; use input = \"widened\""
            ),
            (Objective::Diffusion, _, Some(Noise::Zeros)) => bail!(
                "objective = \"diffusion\" takes noise away step by step, and noise = \"zeros\" is none; use \"gaussian\" or \"pyramid\""
            ),
            (_, Input::Rgb, Some(noise)) if noise != Noise::Zeros => bail!(
                "input = \"rgb\" shows the network no noise; leave `noise` out, or use input = \"widened\""
            ),
            (Objective::Diffusion, _, noise) => noise.unwrap_or(Noise::Gaussian),
            (Objective::E2e, _, noise) => noise.unwrap_or(Noise::Zeros),
        };
        Ok(Self {
            settings,
            noise,
            empty_prompt: Vec::new(),
            direction: 0.0,
        })
    }
}

/// The data lack what is to be learnt.
fn lacking(column: &str, present: &[String]) -> Error {
    let present = match present.is_empty() {
        true => "no pictures beside the images".to_owned(),
        false => format!("only {}", present.join(", ")),
    };
    Error::msg(format!(
        "task = \"{column}\" learns from the data's `{column}`, but the data has {present}; name it in metadata.jsonl as `{column}`, or say which of its \
         pictures it is with data.columns, as in data.columns={{{column} = \"...\"}}"
    ))
}

impl E2eFt {
    fn truth(&self, batch: &Batch, host: &Host) -> Result<Truth> {
        let E2eFtSettings {
            task, depth_range, ..
        } = self.settings;
        Truth::read(task, batch.get(task.column())?, depth_range, host)
    }

    /// Notes which way round the estimates of a batch are.
    fn turn(&mut self, depth: &Tensor, truth: &Tensor, valid: &Tensor) -> Result<()> {
        let scales: Vec<f64> = loss::alignment(depth, truth, valid)?.0.to_vec()?;
        let sign = |scale: &f64| if *scale == 0.0 { 0.0 } else { scale.signum() };
        let mean = scales.iter().map(sign).sum::<f64>() / scales.len().max(1) as f64;
        self.direction = DIRECTION_KEPT * self.direction + (1.0 - DIRECTION_KEPT) * mean;
        Ok(())
    }

    /// Tells the model of no class and of no words, whatever the data say: the estimate depends on the picture alone.
    fn unconditional(&self, batch: &mut Batch, count: usize, host: &Host) -> Result<()> {
        if let Some(null) = host.backbone()?.null_class {
            batch.set(
                "class_labels",
                Tensor::from_slice(&vec![null; count], [count], host)?,
            );
        }
        batch.texts.remove("captions");
        for (name, encoding) in &self.empty_prompt {
            let mut shape = encoding.dims();
            shape[0] = count;
            batch.set(name.clone(), encoding.broadcast_as(shape)?);
        }
        Ok(())
    }

    /// What stands in the place of noisy latents at the last timestep.
    fn start(&self, shape: [usize; 4], draws: &mut dyn Draws, host: &Host) -> Result<Tensor> {
        match self.noise {
            Noise::Zeros => Tensor::zeros(shape, DType::F32, host),
            Noise::Gaussian => draws.normal(&shape),
            Noise::Pyramid => noise::pyramid(shape, draws),
        }
    }

    /// As [`E2eFt::start`] for the pictures of a request from number `first` on, each by its own number.
    fn start_of_each(
        &self,
        shape: [usize; 4],
        seed: u64,
        first: u64,
        host: &Host,
    ) -> Result<Tensor> {
        let [count, channels, height, width] = shape;
        let one = |index: usize| {
            let mut draws = noise::Picture::new(host, seed, first + index as u64);
            self.start([1, channels, height, width], &mut draws, host)
        };
        Tensor::cat(&(0..count).map(one).collect::<Result<Vec<_>>>()?, 0)
    }
}

impl PrepareHook for E2eFt {
    /// Widens the first layer, and encodes no words once for a model that is told captions.
    fn prepare(&mut self, host: &Host) -> Result<()> {
        if self.settings.input == Input::Widened {
            widen::widen(host)?;
        }
        if host.backbone()?.text {
            let encoded = host.encode_texts(vec![String::new()])?.tensors;
            let stored = |(name, tensor): (String, Tensor)| Ok((name, StoredTensor::new(&tensor)?));
            self.empty_prompt = encoded.into_iter().map(stored).collect::<Result<_>>()?;
        }
        Ok(())
    }
}

impl BatchHook for E2eFt {
    /// Encodes the pictures to estimate from, and brings the latents that the step is trained on: of the truth for `diffusion`; none, that is zeros, for `e2e`,
    /// where there is nothing to put noise on.
    fn batch(&mut self, mut batch: Batch, host: &Host) -> Result<Batch> {
        let context = host
            .encode(batch.images()?)?
            .to_dtype(DType::F32)?
            .detach()?; // [B, C, h, w]
        let truth = self.truth(&batch, host)?;
        let latents = match self.settings.objective {
            Objective::E2e => context.zeros_like()?,
            Objective::Diffusion => host.encode(&truth.picture)?.to_dtype(DType::F32)?,
        };
        let count = context.dim(0)?;
        self.unconditional(&mut batch, count, host)?;
        batch.set("latents", latents);
        batch.set(CONTEXT, context);
        batch.set(TRUTH, truth.values);
        batch.set(VALID, truth.valid);
        Ok(batch)
    }
}

impl TimestepsHook for E2eFt {
    /// The last timestep for `e2e`, any for `diffusion`.
    fn timesteps(&mut self, at: &TimestepsIn, host: &Host) -> Result<Tensor> {
        let (batch, total) = (at.latents.dim(0)?, at.num_train_timesteps as u32);
        match self.settings.objective {
            Objective::E2e => Tensor::from_slice(&vec![total - 1; batch], [batch], host),
            Objective::Diffusion => host.random().integers(0, total, [batch]),
        }
    }
}

impl NoiseHook for E2eFt {
    /// For `e2e` noise that is seen as it is: what the process makes of it at the last timestep is undone.
    fn noise(&mut self, at: &NoiseIn, host: &Host) -> Result<Tensor> {
        let shape = at.latents.dims_n::<4>()?;
        let noise = self.start(shape, &mut noise::Training(host), host)?;
        if self.settings.objective == Objective::Diffusion || self.noise == Noise::Zeros {
            return Ok(noise);
        }
        let none = Tensor::zeros([shape[0], 1, 1, 1], DType::F32, host)?;
        let level = host.add_noise(&none, &none.ones_like()?, &at.timesteps)?; // [B, 1, 1, 1]
        noise.broadcast_div(&level)
    }
}

impl DenoiserInputHook for E2eFt {
    fn denoiser_input(&mut self, at: &DenoiserInputIn, _host: &Host) -> Result<Tensor> {
        let context = at.batch.get(CONTEXT)?.to_dtype(at.noisy_latents.dtype())?;
        match self.settings.input {
            Input::Widened => Tensor::cat(&[&context, &at.noisy_latents], 1), // [B, 2 C, h, w]
            Input::Rgb => Ok(context),
        }
    }
}

impl ObjectiveHook for E2eFt {
    /// For `e2e` the task's loss on the decoded picture; for `diffusion` the squared error of the prediction where the truth is known.
    fn objective(&mut self, at: &ObjectiveIn, host: &Host) -> Result<Tensor> {
        let (truth, valid) = (at.batch.get(TRUTH)?, at.batch.get(VALID)?);
        if self.settings.objective == Objective::Diffusion {
            let [_, _, height, width] = at.prediction.dims_n::<4>()?;
            let valid = truth::shrunk(valid, height, width)?;
            return loss::squared(&at.prediction, &at.target, &valid);
        }
        let latents = host.to_x0(&at.prediction, &at.noisy_latents, &at.timesteps)?; // [B, C, h, w]
        let picture = host.decode(&latents)?; // [B, 3, H, W]
        match self.settings.task {
            Task::Depth => {
                let depth = loss::depth(&picture)?; // [B, 1, H, W]
                self.turn(&depth.detach()?, truth, valid)?;
                loss::scale_and_shift_invariant(&depth, truth, valid)
            }
            Task::Normals => loss::angular(&loss::normals(&picture)?, truth, valid),
        }
    }
}

impl SampleBeginHook for E2eFt {
    /// Begins with the pictures to estimate from; for `e2e` there is one step, from the last timestep.
    fn sample_begin(&mut self, mut begin: SampleBegin, host: &Host) -> Result<SampleBegin> {
        let Some(images) = begin.batch.tensors.get("images") else {
            bail!("there are no pictures to estimate from; draw with inputs (--input)");
        };
        let context = host.encode(images)?.to_dtype(begin.latents.dtype())?; // [N, C, h, w]
        let shape = context.dims_n::<4>()?;
        if self.settings.objective == Objective::E2e {
            begin.timesteps = vec![host.process()?.num_train_timesteps as f64 - 1.0];
            begin.latents = self.start_of_each(shape, begin.seed, begin.first, host)?;
        } else if self.noise == Noise::Pyramid || begin.latents.dims() != shape {
            begin.latents = self.start_of_each(shape, begin.seed, begin.first, host)?;
        }
        begin.latents = begin.latents.to_dtype(context.dtype())?;
        // There is nothing to be guided towards.
        begin.guidance = 1.0;
        self.unconditional(&mut begin.batch, shape[0], host)?;
        begin.batch.set(CONTEXT, context);
        Ok(begin)
    }
}

impl SampleStepHook for E2eFt {
    /// For `e2e` what the loss saw: the clean latents as the prediction implies them, whatever a sampler would cut off. Where latents are pictures, which are cut
    /// at the end, they become the estimate itself, of which nothing is cut.
    fn sample_step(&mut self, at: &SampleStepIn, host: &Host) -> Result<Tensor> {
        if self.settings.objective == Objective::Diffusion {
            return Ok(at.latents.clone());
        }
        let backbone = host.backbone()?;
        if backbone.image_size != backbone.sample_size {
            return Ok(at.x0.clone());
        }
        match self.settings.task {
            Task::Depth => loss::depth(&at.x0)?.broadcast_as(at.x0.dims()),
            Task::Normals => loss::normals(&at.x0),
        }
    }
}

impl OutputHook for E2eFt {
    /// Depth as a colour map, and as `depth` in 16 bits, 0 near and 1 far; or `normals`. Where the truth is at hand, it comes as `truth`.
    fn output(&mut self, at: &OutputIn, host: &Host) -> Result<Vec<Picture>> {
        let decoded = at.decoded.as_ref().unwrap_or(&at.images);
        let truth = match at.batch.tensors.contains_key(self.settings.task.column()) {
            true => Some(self.truth(&at.batch, host)?.picture),
            false => None,
        };
        let picture = |kind: &str, images: Tensor, encoding: Encoding| Picture {
            kind: kind.to_owned(),
            images,
            encoding,
        };
        Ok(match self.settings.task {
            Task::Depth => {
                let share = |depth: Tensor| depth.affine(0.5, 0.5);
                let way = if self.direction < 0.0 { -1.0 } else { 1.0 };
                let depth = share(loss::depth(decoded)?.affine(way, 0.0)?)?; // [N, 1, H, W]
                let truth = truth
                    .map(|truth| share(truth.narrow(1, 0, 1)?))
                    .transpose()?;
                let truth = truth.map(|truth| picture("truth", truth, Encoding::COLORMAP));
                let mut pictures = vec![
                    picture("", depth.clone(), Encoding::COLORMAP),
                    picture("depth", depth, Encoding::GRAY16),
                ];
                pictures.extend(truth);
                pictures
            }
            Task::Normals => {
                let normals = loss::normals(decoded)?; // [N, 3, H, W]
                let mut pictures = vec![picture("normals", normals, Encoding::RGB)];
                pictures.extend(truth.map(|truth| picture("truth", truth, Encoding::RGB)));
                pictures
            }
        })
    }
}

impl StateHook for E2eFt {
    const REVISION: u32 = 1;

    fn save(&mut self) -> Result<Vec<u8>> {
        Ok(self.direction.to_le_bytes().to_vec())
    }

    fn load(&mut self, state: SavedState, _host: &Host) -> Result<()> {
        let bytes = state.bytes.try_into();
        let bytes =
            bytes.map_err(|_| Error::msg("e2e_ft's saved state is not eight bytes long"))?;
        self.direction = f64::from_le_bytes(bytes);
        Ok(())
    }
}

export_plugin!(
    E2eFt: Prepare, Batch, Timesteps, Noise, DenoiserInput, Objective, SampleBegin, SampleStep, Output, State
);
