"""Golden values for the kinds of the lora plugin, from PEFT: one linear layer and one convolution, each adapted in every way.

`peft_layers.safetensors` holds for each case `CASE/NAME`: the layer's `weight` and `bias`, its input `x`, what it gives without (`base`) and with (`y`) the adapter, the
adapter's parameters as `parameter.PART` by PEFT's names, and for the loss `sum(y * weights)` (`weights` in the file) the gradients `grad.x` and `grad.PART`. Cases with
dropout have the `uniform` numbers that it is decided by: what is at least 0.25 is kept. Everything is f32. The settings of each case are in the test that reads the file,
`tests/tests/program/lora_goldens.rs`.

One of PEFT's backward passes is not the derivative of its forward pass: `HadaWeightCP`, for LoHa's effective convolutions, has the gradients of `hada_w1_a` and `hada_w2_a` from the
core and factor of the other half. Here its formula is differentiated by PyTorch instead.

Written with torch 2.13.0, peft 0.21.2, safetensors 0.8.0, by

    python tests/goldens/peft_layers.py
"""

import pathlib

import peft.tuners.loha.layer
import torch
from peft import IA3Config, LoHaConfig, LoKrConfig, LoraConfig, get_peft_model_state_dict, inject_adapter_in_model
from safetensors.torch import save_file

OUT = pathlib.Path(__file__).parent / "peft_layers.safetensors"
DROPOUT = 0.25


def effective(t1, w1a, w1b, t2, w2a, w2b, scale):
    """`HadaWeightCP.forward`."""
    half = lambda t, a, b: torch.einsum("i j k l, j r, i p -> p r k l", t, b, a)
    return half(t1, w1a, w1b) * half(t2, w2a, w2b) * scale


peft.tuners.loha.layer.make_weight_cp = effective


class Model(torch.nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)


class FixedDropout(torch.nn.Module):
    """Dropout by numbers that are known."""

    def __init__(self, uniform):
        super().__init__()
        self.uniform = uniform

    def forward(self, x):
        return x * (self.uniform >= DROPOUT) / (1 - DROPOUT)


def linear():
    return torch.nn.Linear(36, 16), torch.randn(2, 3, 36)


def convolution():
    return torch.nn.Conv2d(4, 16, 3, stride=2, padding=1), torch.randn(2, 4, 5, 6)


def lora(**settings):
    return LoraConfig(r=4, lora_alpha=3, target_modules=["layer"], **settings)


def loha(**settings):
    return LoHaConfig(r=4, alpha=3, target_modules=["layer"], **settings)


def lokr(r, **settings):
    return LoKrConfig(r=r, alpha=3, target_modules=["layer"], **settings)


def ia3(inputs):
    return IA3Config(target_modules=["layer"], feedforward_modules=["layer"] if inputs else [])


CASES = {
    "lora_linear": (linear, lora()),
    "lora_conv": (convolution, lora()),
    "lora_linear_dropout": (linear, lora(lora_dropout=DROPOUT)),
    "rslora_linear": (linear, lora(use_rslora=True)),
    "dora_linear": (linear, lora(use_dora=True)),
    "dora_conv": (convolution, lora(use_dora=True)),
    "dora_linear_dropout": (linear, lora(use_dora=True, lora_dropout=DROPOUT)),
    "dora_conv_dropout": (convolution, lora(use_dora=True, lora_dropout=DROPOUT)),
    "loha_linear": (linear, loha()),
    "loha_conv": (convolution, loha()),
    "loha_conv_effective": (convolution, loha(use_effective_conv2d=True)),
    "lokr_linear": (linear, lokr(2)),
    "lokr_linear_both": (linear, lokr(2, decompose_both=True)),
    "lokr_linear_whole": (linear, lokr(8)),
    "lokr_linear_factor": (linear, lokr(2, decompose_factor=2)),
    "lokr_conv": (convolution, lokr(1)),
    "lokr_conv_effective": (convolution, lokr(1, use_effective_conv2d=True)),
    "lokr_conv_whole": (convolution, lokr(8)),
    "ia3_linear": (linear, ia3(False)),
    "ia3_linear_inputs": (linear, ia3(True)),
    "ia3_conv": (convolution, ia3(False)),
    "ia3_conv_inputs": (convolution, ia3(True)),
}


def case(make, config):
    layer, x = make()
    x.requires_grad_()
    values = {"weight": layer.weight, "bias": layer.bias, "x": x, "base": layer(x)}
    model = inject_adapter_in_model(config, Model(layer))
    if getattr(config, "lora_dropout", 0):
        values["uniform"] = torch.rand(x.shape)
        model.layer.lora_dropout["default"] = FixedDropout(values["uniform"])
        model.train()
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    with torch.no_grad():
        for name, parameter in trained.items():
            # Away from the start, where one factor is zero; scales and magnitudes stay near theirs.
            noise = torch.randn(parameter.shape) * 0.3
            parameter.copy_(parameter * (1 + noise) if "magnitude" in name or "ia3" in name else noise)
    y = model(x)
    values["y"] = y
    values["weights"] = torch.randn(y.shape)
    (y * values["weights"]).sum().backward()
    values["grad.x"] = x.grad
    # PEFT's own words for the parts, for values and, put in their places, for gradients.
    parts = lambda: {name.removeprefix("layer."): tensor.clone() for name, tensor in get_peft_model_state_dict(model).items()}
    values |= {f"parameter.{name}": tensor for name, tensor in parts().items()}
    with torch.no_grad():
        for parameter in trained.values():
            parameter.copy_(parameter.grad)
    values |= {f"grad.{name}": tensor for name, tensor in parts().items()}
    return values


def main():
    tensors = {}
    for name, arguments in CASES.items():
        torch.manual_seed(len(tensors))
        tensors |= {f"{name}/{key}": tensor.detach().contiguous().clone() for key, tensor in case(*arguments).items()}
    save_file(tensors, OUT)


if __name__ == "__main__":
    main()
