//! Reductions over one, several or all dimensions.

use candle_core::{Result, Tensor};
use plugin_api::{Error, ops};

use super::args::Call;

/// Codes 300 to 399: in `x`; ints `keep, dims...`, no dims meaning all.
pub(super) fn run(call: &Call<'_>) -> std::result::Result<Tensor, Error> {
    let x = call.input(0)?;
    if call.op == ops::CUMSUM {
        let dim = call.dim(0, x)?;
        call.floating(x)?;
        return call.done(x.cumsum(dim));
    }
    let keep = call.int(0)? != 0;
    if matches!(call.op, ops::ARGMAX | ops::ARGMIN) {
        let dim = call.dim(1, x)?;
        let flat = x.detach();
        let kept = match call.op {
            ops::ARGMAX => flat.argmax_keepdim(dim),
            _ => flat.argmin_keepdim(dim),
        };
        return call.done(kept.and_then(|kept| if keep { Ok(kept) } else { kept.squeeze(dim) }));
    }
    let mut dims = call.dims(1, x)?;
    if dims.is_empty() {
        dims = (0..x.rank()).collect();
    }
    let empty = dims.iter().any(|&dim| x.dims()[dim] == 0);
    if empty && call.op != ops::SUM {
        return Err(call.invalid(format_args!("nothing to reduce in shape {:?}", x.dims())));
    }
    let kept = match call.op {
        ops::SUM => x.sum_keepdim(dims.clone()),
        ops::MEAN => {
            call.floating(x)?;
            x.mean_keepdim(dims.clone())
        }
        ops::MAX => extreme(x, &dims, |x, dim| x.max_keepdim(dim)),
        ops::MIN => extreme(x, &dims, |x, dim| x.min_keepdim(dim)),
        _ => {
            return Err(Error::Unsupported {
                who: "host".into(),
                what: call.op.name.to_ascii_lowercase(),
                revision: call.op.revision,
            });
        }
    };
    call.done(kept.and_then(|kept| {
        if keep {
            Ok(kept)
        } else {
            without(&kept, &dims)
        }
    }))
}

/// One dimension after the other: candle reduces by `max` only one at a time.
fn extreme(
    x: &Tensor,
    dims: &[usize],
    reduce: impl Fn(&Tensor, usize) -> Result<Tensor>,
) -> Result<Tensor> {
    dims.iter().try_fold(x.clone(), |x, &dim| reduce(&x, dim))
}

/// The kept dimensions, each of extent 1, removed.
fn without(kept: &Tensor, dims: &[usize]) -> Result<Tensor> {
    let left = kept
        .dims()
        .iter()
        .enumerate()
        .filter(|(dim, _)| !dims.contains(dim));
    let shape: Vec<usize> = left.map(|(_, &extent)| extent).collect();
    kept.reshape(shape)
}
