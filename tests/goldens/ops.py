"""Values and gradients of the operations in host/src/ops, from PyTorch, in float32.

Made with torch 2.13.0 and safetensors:

    python tests/goldens/ops.py

writes tests/goldens/ops/ops.safetensors: for each case NAME/i the operands NAME/i/in.J, the result NAME/i/out, the gradient
NAME/i/weight given to the result and the gradients NAME/i/grad.J of the operands. Inputs are standard normal; sizes are odd, some
batches 1. AdamW is a sequence: adamw/start, adamw/grads [steps, ..], adamw/end, adamw/exp_avg, adamw/exp_avg_sq.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

torch.set_num_threads(1)
torch.manual_seed(0)
tensors = {}


def case(name, function, *shapes):
    """Records one case; cases of a name are numbered in order."""
    index = len({key.split("/")[1] for key in tensors if key.startswith(name + "/")})
    inputs = [torch.randn(shape, requires_grad=True) for shape in shapes]
    out = function(*inputs)
    weight = torch.randn_like(out)
    grads = torch.autograd.grad(out, inputs, weight)
    prefix = f"{name}/{index}"
    for j, (x, grad) in enumerate(zip(inputs, grads)):
        tensors[f"{prefix}/in.{j}"] = x.detach()
        tensors[f"{prefix}/grad.{j}"] = grad
    tensors[f"{prefix}/out"] = out.detach()
    tensors[f"{prefix}/weight"] = weight


def modulate(x, shift, scale):
    y = F.layer_norm(x, x.shape[-1:], eps=1e-6)
    return y * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)


def attention(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, scale=0.3)


def attention_tokens(q, k, v):
    split = lambda x: x.unflatten(-1, (3, -1)).transpose(1, 2)
    return attention(split(q), split(k), split(v)).transpose(1, 2).flatten(2)


case("linear", F.linear, (2, 5, 19), (23, 19), (23,))
case("linear", F.linear, (1, 19), (3, 19), (3,))
case("matmul", torch.matmul, (2, 3, 5, 7), (2, 3, 7, 4))
case("matmul", torch.matmul, (3, 5, 7), (7, 4))
case("matmul", torch.matmul, (5, 7), (2, 7, 4))
case("attention", attention, (2, 3, 13, 7), (2, 3, 13, 7), (2, 3, 13, 7))
case("attention", attention, (1, 2, 5, 7), (1, 2, 17, 7), (1, 2, 17, 9))
case("attention_tokens", attention_tokens, (2, 13, 21), (2, 13, 21), (2, 13, 21))
case("attention_tokens", attention_tokens, (1, 1, 9), (1, 5, 9), (1, 5, 6))
case("layer_norm", lambda x, w, b: F.layer_norm(x, x.shape[-1:], w, b, 1e-6), (2, 5, 19), (19,), (19,))
case("layer_norm", lambda x, w, b: F.layer_norm(x, x.shape[-1:], w, b, 1e-6), (1, 33), (33,), (33,))
case("layer_norm_modulate", modulate, (3, 5, 19), (3, 19), (3, 19))
case("layer_norm_modulate", modulate, (1, 1, 7), (1, 7), (1, 7))
case("rms_norm", lambda x, w: F.rms_norm(x, x.shape[-1:], w, 1e-6), (2, 5, 19), (19,))
case("gate_residual", lambda x, gate, y: x + gate.unsqueeze(1) * y, (3, 5, 19), (3, 19), (3, 5, 19))
case("group_norm", lambda x, w, b: F.group_norm(x, 3, w, b, 1e-5), (2, 6, 5, 7), (6,), (6,))
case("group_norm", lambda x, w, b: F.group_norm(x, 3, w, b, 1e-5), (1, 3, 11), (3,), (3,))
case("group_norm_silu", lambda x, w, b: F.silu(F.group_norm(x, 3, w, b, 1e-5)), (2, 6, 5, 7), (6,), (6,))
case("gelu_tanh", lambda x: F.gelu(x * 3, approximate="tanh"), (7, 31))
case("gelu_erf", lambda x: F.gelu(x * 3), (7, 31))
case("silu", lambda x: F.silu(x * 3), (7, 31))
case("softmax", lambda x: torch.softmax(x, 1), (3, 17, 5))
case("conv2d", lambda x, w, b: F.conv2d(x, w, b, 1, 1, 1, 1), (2, 3, 7, 5), (4, 3, 3, 3), (4,))
case("conv2d", lambda x, w, b: F.conv2d(x, w, b, 2, 1, 1, 1), (1, 3, 8, 7), (5, 3, 3, 3), (5,))
case("conv2d", lambda x, w, b: F.conv2d(x, w, b, 1, 0, 1, 1), (2, 5, 3, 3), (4, 5, 1, 1), (4,))
case("conv2d", lambda x, w, b: F.conv2d(x, w, b, 2, 2, 2, 2), (2, 4, 9, 8), (6, 2, 3, 2), (6,))
case("upsample_nearest2d", lambda x: F.interpolate(x, (7, 10), mode="nearest"), (2, 3, 4, 5))
case("upsample_nearest2d", lambda x: F.interpolate(x, (7, 10), mode="nearest"), (1, 2, 9, 3))
case("add_linear", lambda base, x, w: torch.add(base, F.linear(x, w), alpha=0.7), (2, 5, 23), (2, 5, 3), (23, 3))
case("geglu", lambda x: x.chunk(2, -1)[0] * F.gelu(x.chunk(2, -1)[1]), (3, 5, 22))
case("pixel_shuffle", lambda x: F.pixel_shuffle(x, 2), (2, 12, 3, 5))
case("pixel_unshuffle", lambda x: F.pixel_unshuffle(x, 2), (2, 3, 4, 6))

parameter = torch.nn.Parameter(torch.randn(5, 7))
tensors["adamw/start"] = parameter.detach().clone()
optimizer = torch.optim.AdamW([parameter], lr=0.02, betas=(0.8, 0.95), eps=1e-8, weight_decay=0.1, foreach=False)
grads = torch.randn(6, 5, 7)
norms = []
for grad in grads:
    parameter.grad = grad.clone()
    norms.append(torch.nn.utils.clip_grad_norm_([parameter], 5.0).detach())
    optimizer.step()
state = optimizer.state[parameter]
tensors |= {
    "adamw/grads": grads,
    "adamw/norms": torch.stack(norms),
    "adamw/end": parameter.detach(),
    "adamw/exp_avg": state["exp_avg"],
    "adamw/exp_avg_sq": state["exp_avg_sq"],
}
save_file({key: tensor.clone().contiguous() for key, tensor in tensors.items()}, Path(__file__).parent / "ops" / "ops.safetensors")
