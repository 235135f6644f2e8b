"""Timed jobs of the rival: a training step, encoding, decoding, image to anomaly map.

Random weights and random inputs; time does not depend on them. Everything else is done as the
official code does it: posterior samples, noise in random blocks of latent cells, both losses,
AdamW; at test time one encode, N calls of the network, two decodes, the clipped difference and a
Gaussian filter.
"""

import contextlib
import math

import networks
import torch


def build(request):
    """A job by `request["job"]`: train | encode | decode | sample."""
    return {"train": Train, "encode": Encode, "decode": Decode, "sample": Sample}[request["job"]](
        request
    )


class _Job:
    """Networks on their device and how they are called."""

    def __init__(self, request):
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        # As the official code sets it; without effect on a CPU.
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        torch.manual_seed(0)
        self._way = request["way"]
        self._half = request["dtype"] == "bfloat16" and self._way != "official"
        self._batch, self._side = request["batch"], request["image_size"]
        self.facts = {}

    def wait(self):
        """Until the device has done what it was given."""
        if self._device == "cuda":
            torch.cuda.synchronize()

    def _cast(self):
        if self._half:
            return torch.autocast(self._device, torch.bfloat16)
        return contextlib.nullcontext()

    def _network(self, kind, size, train):
        network = getattr(networks, kind)(size, self._way).to(self._device).train(train)
        name = "autoencoder" if kind == "autoencoder" else "denoiser"
        self.facts[f"{name}_parameters"] = networks.parameters(network)
        return network

    def _compiled(self, call):
        return torch.compile(call) if self._way == "compiled" else call

    def _image(self):
        return torch.rand(self._batch, 1, self._side, self._side, device=self._device) * 2 - 1

    def _autoencoder(self, request):
        network = self._network("autoencoder", request["autoencoder"], False)
        self._encode = self._compiled(lambda x: network.encode(x).latent_dist)
        self._decode = self._compiled(lambda z: network.decode(z).sample)

    def _latents(self, request):
        size = request["latent"]
        return torch.randn(self._batch, size[2], size[0], size[1], device=self._device)


class Encode(_Job):
    """Image to posterior mean."""

    def __init__(self, request):
        super().__init__(request)
        self._autoencoder(request)
        self._x = self._image()

    @torch.no_grad()
    def run(self):
        """One batch."""
        with self._cast():
            self._encode(self._x).mode()


class Decode(_Job):
    """Latent to image."""

    def __init__(self, request):
        super().__init__(request)
        self._autoencoder(request)
        self._z = self._latents(request)

    @torch.no_grad()
    def run(self):
        """One batch."""
        with self._cast():
            self._decode(self._z)


def alphas_cumprod(count):
    """Products of the cosine schedule of `count` steps (Nichol & Dhariwal 2021)."""

    def level(u):
        return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2

    betas = [min(1 - level((i + 1) / count) / level(i / count), 0.999) for i in range(count)]
    return torch.cumprod(1 - torch.tensor(betas, dtype=torch.float64), 0).float()


def block_mask(batch, rows, columns, sides, device):
    """1 where a cell stays, 0 where it is noised: random blocks, a share U(0, 0.4) of them."""
    px, py = (sides[int(torch.randint(len(sides), ()))] for _ in range(2))
    coarse = torch.rand(batch, 1, rows // px, columns // py, device=device)
    share = 0.4 * torch.rand(batch, 1, 1, 1, device=device)
    kept = (coarse >= share).float()
    return kept.repeat_interleave(px, 2).repeat_interleave(py, 3)


class Train(_Job):
    """One optimiser step; with `live`, the autoencoder encodes the batch first."""

    def __init__(self, request):
        super().__init__(request)
        self._model = self._network(request["network"], request["denoiser"], True)
        self._call = self._compiled(self._model)
        self._live = request["live"]
        if self._live:
            self._autoencoder(request)
            self._x = self._image()
        else:
            self._mean = self._latents(request)
        self._levels = alphas_cumprod(10).to(self._device)
        self._sides = [s for s in (1, 2, 4, 8) if request["latent"][0] % s == 0]
        self._optimizer = torch.optim.AdamW(self._model.parameters(), lr=4e-5, weight_decay=1e-4)

    def _clean(self):
        if not self._live:
            return self._mean + 0.1 * torch.randn_like(self._mean)
        with torch.no_grad(), self._cast():
            return self._encode(self._x).sample().float() * 0.18215

    def run(self):
        """Loss, gradients, update."""
        x0 = self._clean()
        keep = block_mask(len(x0), *x0.shape[2:], self._sides, self._device)
        t = torch.randint(10, (len(x0),), device=self._device)
        level = self._levels[t][:, None, None, None]
        noised = level.sqrt() * x0 + (1 - level).sqrt() * torch.randn_like(x0)
        with self._cast():
            out = self._call(keep * x0 + (1 - keep) * noised, t)
        x0_hat, visible = out[:, :-1].float(), out[:, -1:].float().sigmoid()
        loss = (x0 - x0_hat).square().mean() + 1e-3 * (keep - visible).square().mean()
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._optimizer.step()
        loss.item()


class Sample(_Job):
    """Image to anomaly map: one encode, `steps` calls of the network, two decodes."""

    def __init__(self, request):
        super().__init__(request)
        self._autoencoder(request)
        self._model = self._network(request["network"], request["denoiser"], False)
        self._call = self._compiled(self._model)
        self._x = self._image()
        stride = -(-10 // request["steps"])
        self._steps = list(range(0, 10, stride))[: request["steps"]]
        self._eta, self._sigma = request["eta"], request["sigma"]
        self._levels = alphas_cumprod(10).to(self._device)

    @torch.no_grad()
    def run(self):
        """One batch to its map."""
        with self._cast():
            z = self._encode(self._x).mode().float() * 0.18215
            corrected = self._correct(z)
            # Two calls, as the official code makes them.
            reference = self._decode(z / 0.18215).float()
            decoded = self._decode(corrected / 0.18215).float()
        difference = (decoded - reference).abs().clamp(0, 0.25) * 4
        smooth(difference, self._sigma).amax().item()

    def _correct(self, x):
        for number in reversed(range(len(self._steps))):
            t = self._steps[number]
            a = self._levels[t]
            b = self._levels[self._steps[number - 1]] if number else torch.ones_like(a)
            out = self._call(x, torch.full((len(x),), t, device=self._device)).float()
            x0, flagged = out[:, :-1], out[:, -1:].sigmoid() < 0.5
            eps = (x / a.sqrt() - x0) / (1 / a - 1).sqrt()
            sigma = self._eta * ((1 - b) / (1 - a)).sqrt() * (1 - a / b).sqrt()
            y = b.sqrt() * x0 + (1 - b - sigma**2).clamp(min=0).sqrt() * eps
            x = torch.where(flagged, y + sigma * torch.randn_like(x), x)
        return x


def smooth(maps, sigma):
    """A separable Gaussian of 4 sigma a side, edges mirrored."""
    radius = int(4 * sigma + 0.5)
    at = torch.arange(-radius, radius + 1, device=maps.device, dtype=maps.dtype)
    kernel = torch.exp(-0.5 * (at / sigma) ** 2)
    kernel = kernel / kernel.sum()
    maps = torch.nn.functional.pad(maps, [radius] * 4, mode="reflect")
    maps = torch.nn.functional.conv2d(maps, kernel.view(1, 1, -1, 1))
    return torch.nn.functional.conv2d(maps, kernel.view(1, 1, 1, -1))
