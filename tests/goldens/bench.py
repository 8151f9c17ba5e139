"""Losses of full fine-tuning in PyTorch: the golden values that `host bench` must repeat.

torch 2.13.0, diffusers 0.42.1, safetensors, numpy. From the root of the repository:

    python tests/goldens/bench.py

writes tests/goldens/bench/: a really tiny DiT as a diffusers folder (transformer/, scheduler/), the inputs of every step (inputs.safetensors) and the loss
of every step (losses.json). Weights are random with a spread that makes every layer matter: a fresh DiT predicts next to nothing.
"""

import json
from pathlib import Path

import torch
from diffusers import DDPMScheduler, DiTTransformer2DModel
from safetensors.torch import save_file

HERE = Path(__file__).parent / "bench"
STEPS, BATCH, SIZE, CLASSES = 4, 2, 8, 5

torch.manual_seed(0)
torch.set_num_threads(1)
net = DiTTransformer2DModel(
    num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=2, sample_size=SIZE, patch_size=2, num_embeds_ada_norm=CLASSES
)
with torch.no_grad():
    for name, parameter in net.named_parameters():
        parameter.copy_(torch.randn(parameter.shape) * (0.1 if parameter.ndim == 1 else 0.2))
net.eval()  # no label dropout
scheduler = DDPMScheduler(beta_schedule="linear")
net.save_pretrained(HERE / "transformer")
scheduler.save_pretrained(HERE / "scheduler")

optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
inputs, losses = {}, []
for step in range(STEPS):
    latents, noise = torch.randn(BATCH, 4, SIZE, SIZE), torch.randn(BATCH, 4, SIZE, SIZE)
    timesteps, labels = torch.randint(0, 1000, (BATCH,)), torch.randint(0, CLASSES, (BATCH,))
    given = {"latents": latents, "noise": noise, "timesteps": timesteps, "class_labels": labels}
    inputs |= {f"step{step}.{name}": tensor for name, tensor in given.items()}

    noisy = scheduler.add_noise(latents, noise, timesteps)
    prediction = net(noisy, timestep=timesteps, class_labels=labels).sample[:, :4]
    loss = torch.nn.functional.mse_loss(prediction, noise)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
save_file(inputs, HERE / "inputs.safetensors")
(HERE / "losses.json").write_text(json.dumps({"lr": 1e-3, "losses": losses}) + "\n")
