//! The service table of the test host: answers the test gave, else simple ones of its own.

use std::{ffi::c_void, sync::OnceLock};

use abi_stable::{prefix_type::PrefixTypeTrait, std_types::RStr};

use super::{State, keep_log, lock};
use crate::{
    DType, Error, Host, Phase, Result, Tensor,
    abi::{
        Failure, HostHandle, HostServices, HostServicesRef, LogLevel, LogRecord, Packet, RawDevice,
        Status, report,
    },
    message::Message,
    services::{
        self, Init, Nothing, ProcessIn, ProcessInfo, RunInfo, Service, ServiceDef, TensorOut,
    },
};

pub(super) fn table() -> HostServicesRef {
    static TABLE: OnceLock<HostServicesRef> = OnceLock::new();
    *TABLE.get_or_init(|| {
        HostServices {
            call,
            supports,
            log_enabled,
            log,
        }
        .leak_into_prefix()
    })
}

unsafe extern "C" fn call(
    context: *const c_void,
    service: u32,
    request: *mut Packet,
    reply: *mut Packet,
    failure: *mut Failure,
) -> Status {
    // SAFETY: the context is the state `TestHost::new` made, the pointers are valid, and the request is given away.
    let (state, request, reply, failure) = unsafe {
        (
            &*context.cast::<State>(),
            request.read(),
            &mut *reply,
            &mut *failure,
        )
    };
    match report(failure, || answer(state, service, request)) {
        Ok(packet) => {
            *reply = packet;
            Status::OK
        }
        Err(status) => status,
    }
}

unsafe extern "C" fn supports(service: u32) -> bool {
    Service::by_code(service).is_some()
}

unsafe extern "C" fn log_enabled(level: LogLevel, _plugin: RStr<'_>, _target: RStr<'_>) -> bool {
    level <= LogLevel::DEBUG
}

unsafe extern "C" fn log(record: *const LogRecord<'_>) {
    // SAFETY: the caller's record is valid for the call.
    keep_log(unsafe { &*record });
}

fn answer(state: &State, service: u32, request: Packet) -> Result<Packet> {
    // Cloned, so that the answer may itself call services.
    let from_test = lock(&state.answers).get(&service).cloned();
    if let Some(answer) = from_test {
        return answer(request);
    }
    macro_rules! services {
        ($($service:ident: $f:expr),* $(,)?) => {
            match service {
                $(code if code == services::$service::SERVICE.code => {
                    let request = <services::$service as ServiceDef>::In::decode(request)?;
                    let answer: Result<<services::$service as ServiceDef>::Out> = $f(state, request);
                    Ok(answer?.encode())
                })*
                other => Err(Error::Unsupported {
                    who: "test host".into(),
                    what: Service::by_code(other).map_or_else(|| other.to_string(), |service| service.name.to_owned()),
                    revision: 1,
                }),
            }
        };
    }
    services! {
        Parameter: parameter,
        RandomNumbers: random,
        Process: |_, _| Ok(ProcessInfo { num_train_timesteps: 1000, prediction: "epsilon".into() }),
        AddNoise: |state, at| mix(state, at, |a, signal, b, noise| a * signal + b * noise),
        Target: |_, at: ProcessIn| Ok(TensorOut { tensor: given(at.b)? }),
        ToX0: |state, at| mix(state, at, |prediction, signal, noisy, noise| (noisy - noise * prediction) / signal),
        ToEpsilon: |_, at: ProcessIn| Ok(TensorOut { tensor: given(at.a)? }),
        Snr: snr,
        Run: |_, _| Ok(run_info()),
        Metric: |state: &State, at: services::MetricIn| {
            lock(&state.metrics).push((at.name, at.value));
            Ok(Nothing {})
        },
        Progress: |_, _| Ok(Nothing {}),
        Stop: |_, _| Ok(Nothing {}),
        Artifact: |_, _| Ok(Nothing {}),
        Adapter: |_, _| Ok(Nothing {}),
    }
}

fn given(tensor: Option<Tensor>) -> Result<Tensor> {
    tensor.ok_or_else(|| Error::msg("a tensor is missing"))
}

/// A host without context, for making tensors.
fn maker(state: &State) -> Host {
    let handle = HostHandle {
        services: table(),
        tensors: super::tensors::table(),
        context: (&raw const *state).cast::<c_void>(),
        device: RawDevice((&raw const state.live).cast::<c_void>()),
        step: 0,
        phase: Phase::BUILD,
        reserved: [0; 4],
    };
    // SAFETY: the state outlives the call this serves.
    unsafe { Host::from_handle(handle) }
}

fn parameter(state: &State, request: services::ParameterIn) -> Result<TensorOut> {
    if let Some(tensor) = lock(&state.parameters).get(&request.name) {
        if tensor.dims() != request.shape {
            return Err(Error::Shape {
                what: request.name,
                expected: tensor.dims(),
                got: request.shape,
            });
        }
        return Ok(TensorOut {
            tensor: tensor.clone(),
        });
    }
    let host = maker(state);
    let count = request.shape.iter().product::<usize>();
    let fan_in = request.shape.iter().skip(1).product::<usize>().max(1) as f64;
    let init = request
        .init
        .decode_init()
        .ok_or_else(|| Error::msg("unknown initialisation"))?;
    let values = match init {
        Init::Zeros => vec![0.0; count],
        Init::Ones => vec![1.0; count],
        Init::Constant(value) => vec![value; count],
        Init::Normal { mean, std } => draw(state, count, |rng| mean + std * normal(rng)),
        Init::Uniform { low, high } => draw(state, count, |rng| low + (high - low) * uniform(rng)),
        Init::KaimingUniform { a } => {
            let bound = (6.0 / ((1.0 + a * a) * fan_in)).sqrt();
            draw(state, count, |rng| bound * (2.0 * uniform(rng) - 1.0))
        }
        Init::Value(tensor) => tensor.to_vec::<f64>()?,
    };
    let tensor = Tensor::from_slice(&values, &request.shape, &host)?.to_dtype(DType::F32)?;
    lock(&state.parameters).insert(request.name, tensor.clone());
    Ok(TensorOut { tensor })
}

fn random(state: &State, request: services::RandomIn) -> Result<TensorOut> {
    let count = request.shape.iter().product::<usize>();
    let (a, b) = (request.a, request.b);
    let (values, dtype) = match request.kind.as_str() {
        "normal" => (draw(state, count, |rng| a + b * normal(rng)), DType::F32),
        "uniform" => (
            draw(state, count, |rng| a + (b - a) * uniform(rng)),
            DType::F32,
        ),
        "integers" => (
            draw(state, count, |rng| (a + (b - a) * uniform(rng)).floor()),
            DType::U32,
        ),
        "permutation" => {
            let keys = draw(state, count, uniform);
            let mut order: Vec<usize> = (0..count).collect();
            order.sort_by(|x, y| keys[*x].total_cmp(&keys[*y]));
            (
                order.into_iter().map(|index| index as f64).collect(),
                DType::U32,
            )
        }
        other => {
            return Err(Error::Message(format!(
                "no random numbers of kind `{other}`"
            )));
        }
    };
    Ok(TensorOut {
        tensor: Tensor::from_slice(&values, &request.shape, &maker(state))?.to_dtype(dtype)?,
    })
}

fn draw(state: &State, count: usize, mut one: impl FnMut(&mut u64) -> f64) -> Vec<f64> {
    let mut rng = lock(&state.random);
    (0..count).map(|_| one(&mut rng)).collect()
}

/// SplitMix64: small, and good enough for tests. In `0..1`, at single precision so that rounding never gives 1.
fn uniform(rng: &mut u64) -> f64 {
    *rng = rng.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *rng;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 40) as f64 / (1u64 << 24) as f64
}

fn normal(rng: &mut u64) -> f64 {
    let radius = (-2.0 * (1.0 - uniform(rng)).ln()).sqrt();
    radius * (std::f64::consts::TAU * uniform(rng)).cos()
}

/// Cosine schedule: the variance of the signal at `t` of 1000.
fn alpha_bar(t: f64) -> f64 {
    ((t + 1.0) / 1001.0 * std::f64::consts::FRAC_PI_2)
        .cos()
        .powi(2)
}

fn per_timestep(state: &State, timesteps: &Tensor, f: impl Fn(f64) -> f64) -> Result<Tensor> {
    let values: Vec<f32> = timesteps
        .to_vec::<f64>()?
        .into_iter()
        .map(|t| f(t) as f32)
        .collect();
    Tensor::from_slice(&values, timesteps.dims(), &maker(state))
}

fn snr(state: &State, at: ProcessIn) -> Result<TensorOut> {
    Ok(TensorOut {
        tensor: per_timestep(state, &at.timesteps, |t| {
            alpha_bar(t) / (1.0 - alpha_bar(t))
        })?,
    })
}

/// Combines two tensors with the signal's and the noise's scale at each sample's timestep.
fn mix(state: &State, at: ProcessIn, combine: fn(f64, f64, f64, f64) -> f64) -> Result<TensorOut> {
    let (a, b) = (given(at.a)?, given(at.b)?);
    let (values_a, values_b, timesteps) = (
        a.to_vec::<f64>()?,
        b.to_vec::<f64>()?,
        at.timesteps.to_vec::<f64>()?,
    );
    if a.dims() != b.dims() || a.dims().first() != Some(&timesteps.len()) {
        return Err(Error::Shape {
            what: "latents, noise and timesteps".into(),
            expected: a.dims(),
            got: b.dims(),
        });
    }
    let row = values_a.len() / timesteps.len().max(1);
    let mixed: Vec<f32> = values_a
        .iter()
        .zip(&values_b)
        .enumerate()
        .map(|(index, (a, b))| {
            let signal = alpha_bar(timesteps[index / row]);
            combine(*a, signal.sqrt(), *b, (1.0 - signal).sqrt()) as f32
        })
        .collect();
    Ok(TensorOut {
        tensor: Tensor::from_slice(&mixed, a.dims(), &maker(state))?,
    })
}

fn run_info() -> RunInfo {
    RunInfo {
        seed: 0,
        steps: 100,
        batch_size: 4,
        accumulation: 1,
        dtype: DType::F32.0,
        dataset_len: 0,
        classes: Vec::new(),
        plugins: Vec::new(),
        image_size: None,
        columns: None,
        bucketing: None,
    }
}
