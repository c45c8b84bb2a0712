"""Experimental: keys of coarse tokens made from the keys of the tokens that they cover."""

import torch
from torch import Tensor, nn

from maha_model.config import ModelConfig
from maha_model.layers import apply_rotary


class KeySummary(nn.Module):
    """Keys of all scales from those of the finest one; kinds are compared in docs/results.md."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config, self.kind = config, config.key_summary
        H, dk, L = config.num_heads, config.scale_qk_dim, config.num_scales
        self.gains = nn.Parameter(torch.ones(L - 1, H, 1, dk // 2))  # one a rotary pair: rotations commute with it
        self.width = nn.Parameter(torch.ones(L - 1, H, 1, dk // 2)) if self.kind == "box" else None
        probes = {"probe": 1, "probe_nobias": 1, "probe_leaf": 1, "two_probes": 2, "probe_values": 1}.get(self.kind, 0)
        self.probe = nn.Parameter(torch.zeros(probes, H, 1, dk)) if probes else None
        self.norm = nn.Parameter(torch.zeros(H, 1)) if self.kind == "norm" else None

    def initialize_parameters(self) -> None:
        nn.init.ones_(self.gains)
        if self.width is not None:
            nn.init.ones_(self.width)
        if self.norm is not None:
            nn.init.zeros_(self.norm)
        if self.probe is not None:
            nn.init.normal_(self.probe, std=0.5 if self.kind == "two_probes" else 0.1)

    def gain(self, level: int) -> Tensor:
        g = self.gains[level - 1]
        return torch.cat((g, g), -1)

    def forward(self, q: Tensor, k: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(B, H, N, dk) each, not rotated -> queries and keys of every scale, as the kernel takes them."""
        c, r, base = self.config, self.config.ratio, self.config.rope_base
        sizes, n = [], k.shape[2] // r
        while n and len(sizes) < c.num_scales - 1:
            sizes.append(n)
            n //= r
        qr, kr = apply_rotary(q, base), apply_rotary(k, base)
        blocks = lambda x, n: x[:, :, : n * r].unflatten(2, (n, r))  # noqa: E731
        dk = k.shape[-1]
        if self.kind == "mean":
            keys, x = [kr], kr
            for level, n in enumerate(sizes, 1):
                x = blocks(x, n).mean(3)
                keys.append(x * self.gain(level))
            return qr, keys
        if self.kind == "max":
            keys, x = [kr], k
            for level, n in enumerate(sizes, 1):
                x = blocks(x, n).amax(3)
                f = r**level
                keys.append(apply_rotary(x * self.gain(level), base, (f - 1) / 2, float(f)))
            return qr, keys
        if self.kind == "bounds":
            keys, hi, lo = [torch.cat((kr, kr), -1)], kr, kr
            for level, n in enumerate(sizes, 1):
                hi, lo = blocks(hi, n).amax(3), blocks(lo, n).amin(3)
                g = self.gain(level).abs()
                keys.append(torch.cat((hi * g, lo * g), -1))
            q2 = torch.cat((qr.relu(), -(-qr).relu()), -1) * 2**0.5
            return q2, keys
        if self.kind == "box":  # centre and half-width of the box that holds the keys, each with its gain
            keys, hi, lo = [torch.cat((kr, torch.zeros_like(kr)), -1)], kr, kr
            for level, n in enumerate(sizes, 1):
                hi, lo = blocks(hi, n).amax(3), blocks(lo, n).amin(3)
                w = torch.cat((self.width[level - 1],) * 2, -1)
                keys.append(torch.cat(((hi + lo) / 2 * self.gain(level), (hi - lo) / 2 * w), -1))
            return torch.cat((qr, qr.abs()), -1) * 2**0.5, keys
        if self.kind == "halves":
            keys, x = [kr], kr
            for level, n in enumerate(sizes, 1):
                b = blocks(x, n)
                two = b.unflatten(3, (2, r // 2)).mean(4)
                keys.append(two * self.gain(level)[:, None])
                x = b.mean(3)
            return qr, keys
        if self.kind in ("probe", "probe_nobias", "norm"):
            if self.norm is not None:
                s = self.norm * (k.pow(2).mean(-1) + 1e-6).sqrt() * 4
            else:
                s = (self.probe[0] * k).sum(-1)
            e, x = s, kr
            bias = self.kind != "probe_nobias"
            keys = [torch.nn.functional.pad(kr, (0, 2)) if bias else kr]
            for level, n in enumerate(sizes, 1):
                sb = blocks(s, n)
                s = sb.logsumexp(3)
                p = (sb - s[..., None]).exp()
                x, e = (p[..., None] * blocks(x, n)).sum(3), (p * blocks(e, n)).sum(3)
                y = x * self.gain(level)
                if bias:
                    b = (s - e)[..., None]
                    y = torch.cat((y, b, torch.zeros_like(b)), -1)
                keys.append(y)
            if bias:
                one = torch.full_like(qr[..., :1], dk**0.5)
                qr = torch.cat((qr, one, torch.zeros_like(one)), -1) * ((dk + 2) / dk) ** 0.5
            return qr, keys
        if self.kind == "two_probes":
            per = []
            for probe in self.probe:
                s = (probe * k).sum(-1)
                x, out = kr, []
                for level, n in enumerate(sizes, 1):
                    sb = blocks(s, n)
                    s = sb.logsumexp(3)
                    p = (sb - s[..., None]).exp()
                    x = (p[..., None] * blocks(x, n)).sum(3)
                    out.append(x * self.gain(level))
                per.append(out)
            return qr, [kr, *(torch.stack(pair, 3) for pair in zip(*per))]
        raise ValueError(self.kind)
