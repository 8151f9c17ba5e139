//! A plugin for tests of the host: it takes every slot, changes nothing by default, and misbehaves at one slot when its settings
//! ask for that.
#![forbid(unsafe_code)]

use plugin_api::hooks::*;
use plugin_api::{
    AdapterFile, Batch, DType, Error, Host, Init, LayerInfo, Model, Phase, Plugin, Result,
    Settings, StoredTensor, Tensor, bail, export_plugin,
};

/// What can be set.
#[derive(Settings, Clone, Debug)]
pub struct ProbeSettings {
    /// The slot at which to misbehave, or `build`, or nothing.
    #[setting(default = "")]
    at: String,
    /// How to misbehave there.
    how: How,
    /// The first step at which to misbehave.
    #[setting(default = 0)]
    after: u64,
    /// Factor for layers and weights, value of residuals and loss terms; 1 changes nothing.
    #[setting(default = 1.0, range = -100..=100)]
    scale: f64,
    /// The layers to adapt end in this.
    #[setting(default = "to_q")]
    layers: String,
    /// Make a parameter of one number, `gain`, that multiplies adapted layers.
    #[setting(default = false)]
    gain: bool,
    /// The file of the adapter that holds the parameter `gain`; none if empty.
    #[setting(default = "")]
    adapter: String,
    /// Timesteps to visit in sampling, separated by commas; as the sampler has them if empty.
    #[setting(default = "")]
    timesteps: String,
    /// Guidance scale of sampling; as asked for if negative, and nonsense below -1.
    #[setting(default = -1.0)]
    guidance: f64,
    /// Return pictures of the kinds `depth` and `shade` beside the main one.
    #[setting(default = false)]
    kinds: bool,
    /// Write what the hooks of sampling see into `passes.txt`.
    #[setting(default = false)]
    watch: bool,
}

/// Ways to misbehave.
#[derive(Settings, Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Panic.
    #[setting(default)]
    Panic,
    /// Return an error.
    Error,
    /// Return a tensor of another shape.
    Shape,
    /// Return a value that makes no sense.
    Value,
    /// Ask the host for the current model, which calls this plugin again.
    Reenter,
    /// Keep a tensor for ever.
    Leak,
    /// Pass on that the run is being stopped.
    Cancel,
}

/// The plugin.
#[derive(Debug)]
pub struct Probe {
    settings: ProbeSettings,
    /// Batches seen: its state.
    batches: u64,
    gain: Option<Tensor>,
    kept: Vec<StoredTensor>,
    /// What the hooks of sampling have seen, a line a call.
    seen: String,
}

impl Plugin for Probe {
    type Settings = ProbeSettings;
    const ID: &'static str = "probe";
    const SUMMARY: &'static str = "Takes every slot and changes nothing, for tests.";

    fn build(settings: ProbeSettings, host: &Host) -> Result<Self> {
        let mut probe = Probe {
            settings,
            batches: 0,
            gain: None,
            kept: Vec::new(),
            seen: String::new(),
        };
        probe.misbehave("build", None, host)?;
        tracing::debug!(scale = probe.settings.scale, "built");
        Ok(probe)
    }
}

export_plugin!(
    Probe: Trainable, Prepare, Batch, Timesteps, Noise, NoiseMask, DenoiserInput, Layer, Residuals, Objective, LossWeight,
    LossTerm, SampleBegin, SampleStep, Output, Observe, State
);

impl Probe {
    /// Whether to spoil what `slot` returns: misbehaves right here when that is how.
    fn misbehave(
        &mut self,
        slot: &str,
        tensor: Option<&Tensor>,
        host: &Host,
    ) -> Result<Option<How>> {
        if self.settings.at != slot || host.step() < self.settings.after {
            return Ok(None);
        }
        match self.settings.how {
            How::Panic => panic!("the probe was asked to panic in {slot}"),
            How::Error => bail!("the probe was asked to fail in {slot}"),
            How::Cancel => return Err(Error::Cancelled),
            How::Leak => {
                if let Some(tensor) = tensor {
                    std::mem::forget(tensor.clone());
                    self.kept.push(StoredTensor::new(tensor)?);
                }
            }
            How::Reenter => {
                if let Some(tensor) = tensor {
                    let timesteps = Tensor::zeros([tensor.dim(0)?], DType::F32, host)?;
                    host.denoise(Model::Current, tensor, &timesteps, &Batch::new())?;
                }
            }
            How::Shape | How::Value => {}
        }
        Ok(Some(self.settings.how))
    }

    /// `tensor`, spoiled when that is asked for at `slot`; `nonsense` fills it then.
    fn pass(&mut self, slot: &str, tensor: Tensor, nonsense: f64, host: &Host) -> Result<Tensor> {
        match self.misbehave(slot, Some(&tensor), host)? {
            Some(How::Shape) => Tensor::zeros([3], tensor.dtype(), host),
            Some(How::Value) => tensor.full_like(nonsense, tensor.dims()),
            _ => Ok(tensor),
        }
    }
}

impl Probe {
    /// Takes down a pass of sampling: the slot, the half of guidance, and per sample the class and the mark that `sample_begin` left.
    fn see(&mut self, slot: &str, unconditional: bool, batch: &Batch, host: &Host) -> Result<()> {
        if self.settings.watch && host.phase() == Phase::SAMPLE {
            let labels = batch.get("class_labels")?.to_vec::<u32>()?;
            let marks = batch.get("probe.mark")?.to_vec::<f32>()?;
            let half = if unconditional { "without" } else { "with" };
            self.seen += &format!("{slot} {half} {labels:?} {marks:?}\n");
        }
        Ok(())
    }

    /// Declares the adapter's file: the parameter and a constant, and a text beside them.
    fn declare(&mut self, host: &Host) -> Result<()> {
        let Some(gain) = self.gain.clone() else {
            return Ok(());
        };
        if self.settings.adapter.is_empty() {
            return Ok(());
        }
        let gain = match self.misbehave("adapter", None, host)? {
            Some(_) => (gain * 2.0)?,
            None => gain,
        };
        let alpha = Tensor::from_slice(&[4.0f32], [1], host)?;
        host.adapter(
            AdapterFile::new(&self.settings.adapter)
                .tensor("model.gain", &gain)
                .tensor("model.alpha", &alpha)
                .metadata("probe", "{}")
                .text("probe_config.json", "{\"alpha\": 4}\n"),
        )
    }
}

impl TrainableHook for Probe {
    fn trainable(&mut self, host: &Host) -> Result<Vec<String>> {
        self.misbehave("trainable", None, host)?;
        Ok(Vec::new())
    }
}

impl PrepareHook for Probe {
    fn prepare(&mut self, host: &Host) -> Result<()> {
        self.misbehave("prepare", None, host)?;
        tracing::info!(gain = self.settings.gain, "preparing");
        if self.settings.gain {
            self.gain = Some(host.parameter("gain", [1], Init::Ones)?);
        }
        self.declare(host)
    }
}

impl BatchHook for Probe {
    fn batch(&mut self, mut batch: Batch, host: &Host) -> Result<Batch> {
        self.batches += 1;
        let images = self.pass("batch", batch.images()?.clone(), f64::NAN, host)?;
        batch.set("images", images);
        Ok(batch)
    }
}

impl TimestepsHook for Probe {
    fn timesteps(&mut self, at: &TimestepsIn, host: &Host) -> Result<Tensor> {
        let below = u32::try_from(at.num_train_timesteps).map_err(Error::msg)?;
        let drawn = host.random().integers(0, below, [at.latents.dim(0)?])?;
        self.pass("timesteps", drawn, f64::from(below), host)
    }
}

impl NoiseHook for Probe {
    fn noise(&mut self, at: &NoiseIn, host: &Host) -> Result<Tensor> {
        let noise = host.random().normal(at.latents.dims())?;
        self.pass("noise", noise, f64::NAN, host)
    }
}

impl NoiseMaskHook for Probe {
    fn noise_mask(&mut self, at: &NoiseMaskIn, host: &Host) -> Result<Tensor> {
        let [b, _, h, w] = at.latents.dims_n()?;
        let mask = Tensor::ones([b, 1, h, w], DType::F32, host)?;
        self.pass("noise_mask", mask, 2.0, host)
    }
}

impl DenoiserInputHook for Probe {
    fn denoiser_input(&mut self, at: &DenoiserInputIn, host: &Host) -> Result<Tensor> {
        self.see("denoiser_input", at.unconditional, &at.batch, host)?;
        self.pass("denoiser_input", at.noisy_latents.clone(), f64::NAN, host)
    }
}

impl LayerHook for Probe {
    fn adapts(&self, layer: &LayerInfo) -> bool {
        layer.path.ends_with(&self.settings.layers)
    }

    fn layer(
        &mut self,
        _layer: &LayerInfo,
        _input: &Tensor,
        output: Tensor,
        host: &Host,
    ) -> Result<Tensor> {
        if self.settings.watch && host.phase() == Phase::SAMPLE {
            self.seen += &format!("layer {}\n", output.dim(0)?);
        }
        let output = match &self.gain {
            Some(gain) => output.broadcast_mul(gain)?,
            None => output,
        };
        let scaled = match self.settings.scale {
            1.0 => output,
            scale => (output * scale)?,
        };
        self.pass("layer", scaled, f64::NAN, host)
    }
}

impl ResidualsHook for Probe {
    fn residuals(&mut self, at: &ResidualsIn, host: &Host) -> Result<Vec<Option<Tensor>>> {
        self.see("residuals", at.unconditional, &at.batch, host)?;
        let sites = host.backbone()?.residual_sites;
        let spoiled = self.misbehave("residuals", Some(&at.input), host)?;
        if self.settings.scale == 1.0 && spoiled.is_none() {
            return Ok(vec![None; sites]);
        }
        let sites = if spoiled == Some(How::Value) {
            sites + 1
        } else {
            sites
        };
        (0..sites)
            .map(|_| {
                Ok(Some(
                    at.input.full_like(self.settings.scale, at.input.dims())?,
                ))
            })
            .collect()
    }
}

impl ObjectiveHook for Probe {
    fn objective(&mut self, at: &ObjectiveIn, host: &Host) -> Result<Tensor> {
        let error = (&at.prediction - &at.target)?.sqr()?;
        let loss = error.mean((1, 2, 3))?; // [B]
        self.pass("objective", loss, f64::NAN, host)
    }
}

impl LossWeightHook for Probe {
    fn loss_weight(&mut self, at: &LossWeightIn, host: &Host) -> Result<Tensor> {
        let weight = at.loss.full_like(self.settings.scale, at.loss.dims())?;
        self.pass("loss_weight", weight, -1.0, host)
    }
}

impl LossTermHook for Probe {
    fn loss_term(&mut self, at: &LossTermIn, host: &Host) -> Result<Tensor> {
        let term = ((at.prediction.mean_all()? * 0.0)? + (self.settings.scale - 1.0))?;
        self.pass("loss_term", term, f64::INFINITY, host)
    }
}

impl SampleBeginHook for Probe {
    fn sample_begin(&mut self, mut begin: SampleBegin, host: &Host) -> Result<SampleBegin> {
        let count = begin.latents.dim(0)?;
        if self.settings.watch {
            let marks: Vec<f32> = (0..count)
                .map(|i| (begin.first as usize + i) as f32)
                .collect();
            let marks = Tensor::from_slice(&marks, [count], host)?;
            begin.batch.set("probe.mark", marks);
            self.seen += &format!("begin {count} at {:?}\n", begin.timesteps);
        }
        if !self.settings.timesteps.is_empty() {
            let numbers = self.settings.timesteps.split(',').map(str::parse);
            begin.timesteps = numbers.collect::<Result<_, _>>().map_err(Error::msg)?;
        }
        if self.settings.guidance != -1.0 {
            begin.guidance = self.settings.guidance;
        }
        begin.latents = self.pass("sample_begin", begin.latents, f64::NAN, host)?;
        Ok(begin)
    }
}

impl SampleStepHook for Probe {
    fn sample_step(&mut self, at: &SampleStepIn, host: &Host) -> Result<Tensor> {
        if self.settings.watch {
            let (from, to) = (at.timestep, at.next_timestep);
            self.seen += &format!("step {} of {}: {from} to {to:?}\n", at.index, at.steps);
        }
        self.pass("sample_step", at.latents.clone(), f64::NAN, host)
    }
}

impl OutputHook for Probe {
    fn output(&mut self, at: &OutputIn, host: &Host) -> Result<Vec<Picture>> {
        let images = self.pass("output", at.images.clone(), f64::NAN, host)?;
        let mut pictures = vec![Picture {
            kind: String::new(),
            images: images.clone(),
            encoding: Encoding::RGB,
        }];
        if self.settings.kinds {
            let depth = ((images.mean_keepdim(1)? * 0.5)? + 0.5)?; // [N, 1, H, W]
            for (kind, encoding) in [("depth", Encoding::GRAY16), ("shade", Encoding::COLORMAP)] {
                pictures.push(Picture {
                    kind: kind.to_owned(),
                    images: depth.clone(),
                    encoding,
                });
            }
        }
        if self.settings.watch {
            self.see("output", false, &at.batch, host)?;
            self.seen += &format!("names {:?}\n", at.names);
            host.artifact("passes.txt", self.seen.as_bytes())?;
        }
        Ok(pictures)
    }
}

impl ObserveHook for Probe {
    fn observe(&mut self, at: &ObserveIn, host: &Host) -> Result<()> {
        self.misbehave("observe", Some(&at.sample_loss), host)?;
        host.metric("loss_seen", at.loss)
    }
}

impl StateHook for Probe {
    fn save(&mut self) -> Result<Vec<u8>> {
        if self.settings.at == "state" && self.settings.how == How::Error {
            bail!("the probe was asked to fail in state");
        }
        Ok(self.batches.to_le_bytes().to_vec())
    }

    fn load(&mut self, state: SavedState, _host: &Host) -> Result<()> {
        let bytes = <[u8; 8]>::try_from(state.bytes.as_slice()).map_err(|_| {
            Error::msg(format!(
                "the probe's state has 8 bytes, not {}",
                state.bytes.len()
            ))
        })?;
        self.batches = u64::from_le_bytes(bytes);
        Ok(())
    }
}
