"""
Normalising flows of the plane, many at once: each tensor has the flows as a dimension, so that a step of all of them
takes hardly longer than one of one. Points are (flows, num, 2).
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BISECTIONS = 60  # halve an interval to less than the spacing of float64 at its ends
SMALLEST_GAP = 1e-4  # of w u_hat from -1, where a planar layer would flatten the plane
TAIL, BINS, SMALLEST = 6.0, 8, 1e-3  # of splines: the identity beyond, intervals within, least width, height and slope


class Planar(nn.Module):
    """
    z -> z + u_hat tanh(w z + b), layer after layer (Rezende and Mohamed, arXiv:1505.05770, equation 10), with u_hat as
    of its appendix A.1, so that each layer is invertible; but no formula gives the inverse.

    Args:
        num_flows: of this kind at once.
        num_layers: of each.
    """

    def __init__(self, num_flows: int, num_layers: int):
        super().__init__()
        self.w = nn.Parameter(torch.randn(num_layers, num_flows, 1, 2))
        self.u = nn.Parameter(torch.randn(num_layers, num_flows, 1, 2) * 0.1)
        self.b = nn.Parameter(torch.zeros(num_layers, num_flows, 1, 1))

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """(flows, num, 2) -> the same and log |det|, (flows, num)."""
        log_det = points.new_zeros(points.shape[:2])
        for w, u, b in self._layers(points.dtype):
            bend = torch.tanh((points * w).sum(-1, keepdim=True) + b)
            log_det = log_det + torch.log1p((1 - bend.square()) * (w * u).sum(-1, keepdim=True)).squeeze(-1)
            points = points + u * bend
        return points, log_det

    @torch.no_grad()
    def inverse(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """
        By a bisection a layer of a = w z, which solves a + (w u_hat) tanh(a + b) = w x, where the left side grows with
        a as w u_hat > -1: without gradients, in float64, `BISECTIONS` evaluations of tanh a layer and point.
        """
        found = points.double()
        for w, u, b in reversed(self._layers(torch.float64)):
            pull, image = (w * u).sum(-1, keepdim=True), (found * w).sum(-1, keepdim=True)
            low, high = image - pull.abs(), image + pull.abs()
            for _ in range(BISECTIONS):
                middle = (low + high) / 2
                below = middle + pull * torch.tanh(middle + b) < image
                low, high = torch.where(below, middle, low), torch.where(below, high, middle)
            found = found - u * torch.tanh((low + high) / 2 + b)
        log_det = self(found)[1]
        return found.to(points.dtype), -log_det.to(points.dtype)

    def _layers(self, dtype: torch.dtype) -> list[tuple[Tensor, Tensor, Tensor]]:
        w, u, b = (each.to(dtype) for each in (self.w, self.u, self.b))
        product = (w * u).sum(-1, keepdim=True)
        # Divided by the square of |w|, so that w u_hat = softplus(w u) - 1 > -1, here by as much as rounding may take.
        u = u + (F.softplus(product) - 1 + SMALLEST_GAP - product) * w / w.square().sum(-1, keepdim=True)
        return list(zip(w, u, b, strict=True))


class Couplings(nn.Module):
    """
    One coordinate changed given the other, in turn: scaled and shifted (RealNVP, Dinh et al., arXiv:1605.08803), or
    through a monotone rational-quadratic spline (Durkan et al., arXiv:1906.04032). A diagonal map comes last.

    Args:
        num_flows: of this kind at once.
        num_layers: of each.
        kind: `affine` or `spline`.
        hidden_size: units of the two hidden layers of a coupling's network.
    """

    def __init__(
        self, num_flows: int, num_layers: int, kind: Literal["affine", "spline"] = "affine", hidden_size: int = 32
    ):
        super().__init__()
        self.kind = kind
        outputs = 2 if kind == "affine" else 3 * BINS - 1
        sizes = [1, hidden_size, hidden_size, outputs]
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for index, (size_in, size_out) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
            bound = size_in**-0.5 * (0.01 if index == len(sizes) - 2 else 1)  # close to the identity at first
            shape = (num_layers, num_flows, size_in, size_out)
            self.weights.append(nn.Parameter(torch.empty(shape).uniform_(-bound, bound)))
            bias = torch.empty(num_layers, num_flows, 1, size_out)
            self.biases.append(nn.Parameter(bias.uniform_(-bound, bound) * (3 if size_in == 1 else 1)))
        self.shift = nn.Parameter(torch.zeros(num_flows, 1, 2))
        self.log_scale = nn.Parameter(torch.zeros(num_flows, 1, 2))

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """(flows, num, 2) -> the same and log |det|, (flows, num)."""
        log_det = 0
        for layer in range(len(self.weights[0])):
            given, changed = _halves(points, layer)
            changed, change = self._change(changed, self._network(layer, given), inverse=False)
            points, log_det = _joined(given, changed, layer), log_det + change.squeeze(-1)
        return points * self.log_scale.exp() + self.shift, log_det + self.log_scale.sum(-1)

    def inverse(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """The way back, with its own log |det|; with gradients, and as fast."""
        points, log_det = (points - self.shift) * (-self.log_scale).exp(), -self.log_scale.sum(-1)
        for layer in reversed(range(len(self.weights[0]))):
            given, changed = _halves(points, layer)
            changed, change = self._change(changed, self._network(layer, given), inverse=True)
            points, log_det = _joined(given, changed, layer), log_det + change.squeeze(-1)
        return points, log_det

    def _network(self, layer: int, hidden: Tensor) -> Tensor:
        last = len(self.weights) - 1
        for index, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            hidden = torch.baddbmm(bias[layer], hidden, weight[layer])
            if index < last:
                hidden = F.silu(hidden)
        return hidden

    def _change(self, values: Tensor, raw: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        """(flows, num, 1) values changed and the logarithm of the slope there."""
        if self.kind == "spline":
            return spline(values, raw, inverse)
        log_scale, shift = 3 * torch.tanh(raw[..., :1] / 3), raw[..., 1:]
        if inverse:
            return (values - shift) * (-log_scale).exp(), -log_scale
        return values * log_scale.exp() + shift, log_scale


def _halves(points: Tensor, layer: int) -> tuple[Tensor, Tensor]:
    first, second = points[..., :1], points[..., 1:]
    return (first, second) if layer % 2 == 0 else (second, first)


def _joined(given: Tensor, changed: Tensor, layer: int) -> Tensor:
    return torch.cat([given, changed] if layer % 2 == 0 else [changed, given], dim=-1)


def spline(values: Tensor, raw: Tensor, inverse: bool = False) -> tuple[Tensor, Tensor]:
    """
    A monotone rational-quadratic spline from [-6, 6] to itself, the identity beyond (arXiv:1906.04032, section 3.1).

    Args:
        values: (..., 1).
        raw: unconstrained widths and heights of the 8 intervals and slopes at the 7 knots between them, (..., 23).
        inverse: whether to go back.

    Returns:
        The values changed and the logarithms of the slopes there, (..., 1) each.
    """
    widths, heights, slopes = raw.split([BINS, BINS, BINS - 1], dim=-1)
    slopes = F.pad(SMALLEST + (1 - SMALLEST) * F.softplus(slopes) / math.log(2), (1, 1), value=1.0)
    x, y = _knots(widths), _knots(heights)
    inside = values.abs() < TAIL
    within = values.clamp(-TAIL, TAIL)
    place = torch.searchsorted((y if inverse else x)[..., 1:-1].contiguous(), within.detach().contiguous())
    (x0, y0, d0), (x1, y1, d1) = ([each.gather(-1, at) for each in (x, y, slopes)] for at in (place, place + 1))
    slope = (y1 - y0) / (x1 - x0)
    curvature = d0 + d1 - 2 * slope
    if inverse:  # equations 6 to 8 of the paper: the root of a quadratic
        rise = within - y0
        a = (y1 - y0) * (slope - d0) + rise * curvature
        b = (y1 - y0) * d0 - rise * curvature
        c = -slope * rise
        xi = 2 * c / (-b - (b.square() - 4 * a * c).clamp(min=0).sqrt())
        result = x0 + xi * (x1 - x0)
    else:
        xi = (within - x0) / (x1 - x0)
    mixed = xi * (1 - xi)
    denominator = slope + curvature * mixed
    if not inverse:
        result = y0 + (y1 - y0) * (slope * xi.square() + d0 * mixed) / denominator
    numerator = slope.square() * (d1 * xi.square() + 2 * slope * mixed + d0 * (1 - xi).square())
    log_slope = numerator.log() - 2 * denominator.log()
    log_slope = torch.where(inside, -log_slope if inverse else log_slope, 0.0)
    return torch.where(inside, result, values), log_slope


def _knots(raw: Tensor) -> Tensor:
    """Ends of the intervals, from -6 to 6: (..., 9)."""
    shares = SMALLEST + (1 - SMALLEST * BINS) * raw.softmax(-1)
    inner = 2 * TAIL * shares.cumsum(-1)[..., :-1] - TAIL
    return F.pad(F.pad(inner, (1, 0), value=-TAIL), (0, 1), value=TAIL)


class PlaneFlow(nn.Module):
    """
    Densities on the plane: x = f(z) with z standard normal.

    Args:
        layers: an invertible map, `forward` and `inverse`.
        towards: what `layers.forward` gives: the `data` f makes, or the `base` f^-1 does. Of a planar flow that is the
            direction of which a formula exists, and the other one is a bisection.
    """

    def __init__(self, layers: nn.Module, towards: Literal["data", "base"] = "data"):
        super().__init__()
        self.layers, self.towards = layers, towards

    def log_prob(self, points: Tensor) -> Tensor:
        """log q(x) in nats: (flows, num, 2) -> (flows, num)."""
        latents, log_det = self.layers.inverse(points) if self.towards == "data" else self.layers(points)
        return standard_normal(latents) + log_det

    def transform(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """x = f(z) and log q(x), of standard normal z: (flows, num, 2) -> the same and (flows, num)."""
        points, log_det = self.layers(latents) if self.towards == "data" else self.layers.inverse(latents)
        return points, standard_normal(latents) - log_det


def standard_normal(points: Tensor) -> Tensor:
    """log N(x; 0, I) in nats, summed over the last dimension."""
    return -(points.square() / 2).sum(-1) - points.shape[-1] * math.log(2 * math.pi) / 2


# By name: layers for a number of flows.
FLOWS = {
    "planar": lambda num_flows: Planar(num_flows, 16),
    "realnvp": lambda num_flows: Couplings(num_flows, 16),
    "spline": lambda num_flows: Couplings(num_flows, 4, "spline"),
}
