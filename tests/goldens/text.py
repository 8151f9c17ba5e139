"""Golden values for text encoders, from transformers' CLIPTokenizer, CLIPTextModel and CLIPTextModelWithProjection.

A vocabulary of all bytes and a few merges, and three small models whose weights both sides compute from the parameters' names (`weights`):

- `plain`: as in Stable Diffusion 1: the quick GELU, padding by the end token, and the end token that old files state wrongly.
- `open`: as in Stable Diffusion 2: the exact GELU, padding by `!`.
- `projected`: as the second of Stable Diffusion XL: as `open`, with a projection.

`text/case.json` holds the vocabulary (in the order of its numbers), the merges, the prompts, their tokens under either padding, each model's configuration, and of
each output every seventh number.

Written with torch 2.13.0, transformers 5.23.0, tokenizers 0.23.3, by

    python tests/goldens/text.py
"""

import json
import math
import pathlib
import tempfile

import numpy
import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

OUT = pathlib.Path(__file__).parent / "text"
LENGTH = 20
BEGIN, END = "<|startoftext|>", "<|endoftext|>"
PROMPTS = [
    "",
    "a red cone on a grey floor",
    "It's 42%\n  of 猫! GRÖẞE",
    "stop <|endoftext|> here!",
    "a red cone and a red cone and a red cone and a red cone and a red cone on the floor",
]


def vocabulary():
    """Every byte as CLIP writes it, alone and at the end of a word, then what the merges make, then the ends."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {byte: chr(byte) for byte in shown}
    for byte in range(256):
        if byte not in letters:
            letters[byte] = chr(256 + len(letters) - len(shown))
    order = [letters[byte] for byte in shown] + [letters[byte] for byte in range(256) if byte not in shown]
    pairs = ["r e", "re d</w>", "c o", "n e</w>", "co ne</w>", "o n</w>", "t h", "th e</w>", "f l", "o o", "fl oo", "floo r</w>"]
    merges = [tuple(pair.split(" ")) for pair in pairs]
    tokens = order + [letter + "</w>" for letter in order] + ["".join(pair) for pair in merges] + [BEGIN, END]
    return tokens, merges


def tokenizer(tokens, merges, pad):
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
        (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *(" ".join(pair) for pair in merges)]))
        (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": LENGTH, "pad_token": END}))
        (folder / "special_tokens_map.json").write_text(json.dumps({"pad_token": pad}))
        return CLIPTokenizer.from_pretrained(folder)


def mixed(numbers):
    """The finaliser of SplitMix64."""
    numbers = (numbers ^ (numbers >> numpy.uint64(30))) * numpy.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> numpy.uint64(27))) * numpy.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> numpy.uint64(31))


def weights(name, shape):
    """Numbers that depend on a parameter's name, its shape and their place alone."""
    seed = 0xCBF29CE484222325
    for byte in name.encode():
        seed = (seed ^ byte) * 0x100000001B3 % 2**64
    with numpy.errstate(over="ignore"):
        numbers = mixed(numpy.uint64(seed) + numpy.arange(math.prod(shape), dtype=numpy.uint64) * numpy.uint64(0x9E3779B97F4A7C15))
    uniform = (numbers >> numpy.uint64(40)).astype(numpy.float64) / 2**24 * 2 - 1
    if len(shape) > 1:
        values = uniform * math.sqrt(3 / math.prod(shape[1:]))
    else:
        values = uniform * 0.2 + (1 if name.endswith("norm.weight") or name.endswith("norm1.weight") or name.endswith("norm2.weight") else 0)
    return torch.from_numpy(values.astype(numpy.float32).reshape(shape))


def filled(model, prefix):
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            name = name if name.startswith("text_") else prefix + name
            parameter.copy_(weights(name, tuple(parameter.shape)))
    return model.eval()


def sampled(tensor):
    return [round(value, 6) for value in tensor.flatten()[::7].tolist()]


def main():
    tokens, merges = vocabulary()
    pads = {"end": END, "mark": "!"}
    ids = {
        name: tokenizer(tokens, merges, pad)(PROMPTS, padding="max_length", max_length=LENGTH, truncation=True)["input_ids"]
        for name, pad in pads.items()
    }
    common = {"vocab_size": len(tokens), "max_position_embeddings": LENGTH, "bos_token_id": len(tokens) - 2}
    end = len(tokens) - 1
    models = {
        "plain": (CLIPTextModel, "end", dict(hidden_size=24, intermediate_size=48, num_hidden_layers=3, num_attention_heads=3, hidden_act="quick_gelu", projection_dim=24, eos_token_id=2, pad_token_id=1)),
        "open": (CLIPTextModel, "mark", dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, hidden_act="gelu", projection_dim=16, eos_token_id=end, pad_token_id=0)),
        "projected": (CLIPTextModelWithProjection, "mark", dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, hidden_act="gelu", projection_dim=20, eos_token_id=end, pad_token_id=0)),
    }
    cases = {}
    for name, (kind, pad, settings) in models.items():
        model = filled(kind(CLIPTextConfig(**common, **settings)), "text_model.")
        with torch.no_grad():
            output = model(torch.tensor(ids[pad]), output_hidden_states=True)
        cases[name] = {
            "padding": pad,
            "config": {"architectures": [kind.__name__], "model_type": "clip_text_model", **common, **settings},
            "last": sampled(output.last_hidden_state),
            "penultimate": sampled(output.hidden_states[-2]),
            "pooled": sampled(output.text_embeds if "text_embeds" in output else output.pooler_output),
        }
    OUT.mkdir(exist_ok=True)
    case = {
        "tokens": tokens,
        "merges": [" ".join(pair) for pair in merges],
        "length": LENGTH,
        "prompts": PROMPTS,
        "ids": ids,
        "models": cases,
    }
    (OUT / "case.json").write_text(json.dumps(case, ensure_ascii=False, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
