"""Proper losses whose link is learned."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from torchlosses.card import Card
from torchlosses.hyperparameters import data, integer
from torchlosses.losses.classification.softmax import CrossEntropy
from torchlosses.scores import Scores, as_scores
from torchlosses.targets import Targets


class LegendreLink(nn.Module):
    """A learned canonical link: gradients of convex networks, from (..., C - 1) scores to (..., C) log-odds.

    The last class is the reference. Whatever the parameters, cross-entropy on the output is a proper loss.

    Arguments:
        classes: C >= 2.
        blocks: gradient maps in a row, >= 1.
        hidden: units of each convex network, >= 2 and even.
        depth: its layers, >= 1.

    The networks normalize their activations by the first batch seen in training. Float64 is advised: training needs second
    derivatives. "LegendreTron: Uprising Proper Multiclass Loss Learning", 2023, arXiv:2301.11695.

    >>> import torch, torchlosses as tl
    >>> tl.LegendreLink(classes=3)(torch.zeros(4, 2)).shape
    torch.Size([4, 3])
    """

    def __init__(self, classes: int, blocks: int = 2, hidden: int = 2, depth: int = 4) -> None:
        super().__init__()
        for name, value, low in (("classes", classes, 2), ("blocks", blocks, 1), ("hidden", hidden, 2), ("depth", depth, 1)):
            if value < low:
                raise ValueError(f"{name}: expected an integer >= {low}, got {value!r}")
        if hidden % 2:
            raise ValueError(f"hidden: expected an even integer, got {hidden!r}")
        self.classes = classes
        self.maps = nn.ModuleList([_GradientMap(classes - 1, hidden, depth) for _ in range(blocks)])

    def forward(self, scores: Tensor) -> Tensor:
        """Log-odds (..., C), the last one 0."""
        if scores.shape[-1] != self.classes - 1:
            raise ValueError(f"scores: expected {self.classes - 1} columns (classes - 1), got shape {tuple(scores.shape)}")
        z = scores.flatten(0, -2)
        for gradient in self.maps:
            z = gradient(z)
        return functional.pad(z, (0, 1)).reshape(*scores.shape[:-1], self.classes)


class _GradientMap(nn.Module):
    """The gradient of ``softplus(w1) network(x) + softplus(w0) |x|^2 / 2``."""

    def __init__(self, width: int, hidden: int, depth: int) -> None:
        super().__init__()
        self.network = _Convex(width, hidden, depth)
        self.w0 = nn.Parameter(torch.full((1,), math.log(math.e - 1)))  # softplus is 1
        self.w1 = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        graph = torch.is_grad_enabled()
        with torch.enable_grad():
            x = x if graph and x.requires_grad else x.detach().requires_grad_()
            value = self.network(x, initialize=self.training and graph)
            (slope,) = torch.autograd.grad(value.sum(), x, create_graph=graph)
        found: Tensor = functional.softplus(self.w1) * slope + functional.softplus(self.w0) * x
        return found if graph else found.detach()


class _Convex(nn.Module):
    """A scalar network, convex in its input: non-negative weights between layers, free ones from the input."""

    def __init__(self, width: int, hidden: int, depth: int) -> None:
        super().__init__()
        half = hidden // 2
        self.first = nn.Linear(width, hidden)
        self.between = nn.ModuleList([nn.Linear(hidden, half) for _ in range(depth - 1)])
        self.beside = nn.ModuleList([nn.Linear(width, half) for _ in range(depth - 1)])
        self.fresh = nn.ModuleList([nn.Linear(width, half) for _ in range(depth - 1)])
        self.last = nn.Linear(hidden, 1, bias=False)
        self.last_beside = nn.Linear(width, 1, bias=False)
        self.norms = nn.ModuleList([_Normalize(half) for _ in range(depth - 1)] + [_Normalize(1, free=False)])

    def forward(self, x: Tensor, initialize: bool) -> Tensor:
        z = functional.softplus(self.first(x))
        for between, beside, fresh, norm in zip(self.between, self.beside, self.fresh, self.norms, strict=False):
            t = norm(_positive(between, z) + beside(x), initialize)
            z = torch.cat([functional.softplus(t), functional.softplus(fresh(x))], -1)
        found: Tensor = self.norms[-1](_positive(self.last, z) + self.last_beside(x), initialize)
        return found


def _positive(layer: nn.Module, z: Tensor) -> Tensor:
    """A layer with softplus of its weights, its output divided by the number of inputs."""
    assert isinstance(layer, nn.Linear)
    bias = 0.0 if layer.bias is None else layer.bias
    return (functional.linear(z, functional.softplus(layer.weight)) + bias) / z.shape[-1]


class _Normalize(nn.Module):
    """``(x + b) (exp(logs) + 0.001)``, which standardizes the first batch and is learned from there."""

    ready: Tensor

    def __init__(self, width: int, free: bool = True) -> None:
        super().__init__()
        self.b = nn.Parameter(torch.zeros(width), requires_grad=free)
        self.logs = nn.Parameter(torch.zeros(width))
        self.register_buffer("ready", torch.tensor(False))

    def forward(self, x: Tensor, initialize: bool) -> Tensor:
        if initialize and not self.ready and x.shape[0] > 1:
            with torch.no_grad():
                self.b.copy_(-x.mean(0))
                self.logs.copy_(-(x.std(0) + 1e-6).log())
                self.ready.fill_(True)
        return (x + self.b) * (self.logs.exp() + 0.001)


class LegendreTron(CrossEntropy):
    r"""LegendreTron: cross-entropy whose canonical link is learned beside the model, so that the loss stays proper.

    The scores have C - 1 columns, the last class being the reference. Train the loss's parameters with the model's; call
    ``.double()`` on both, as the link is itself a gradient.

    Arguments:
        classes: C >= 2.
        blocks, hidden, depth: of the link, see :class:`torchlosses.LegendreLink`.
        label_smoothing, smoothing: as :class:`CrossEntropy`.

    >>> import torch, torchlosses as tl
    >>> loss = tl.LegendreTron(classes=3)
    >>> loss.predict(torch.zeros(4, 2)).sum(-1).allclose(torch.ones(4))
    True
    """

    card: ClassVar[Card] = Card(
        title="LegendreTron: Uprising Proper Multiclass Loss Learning",
        year=2023,
        identifier="arXiv:2301.11695",
        family="classification",
        formula=r"-\log\operatorname{softmax}([v^{-1}(s),0])_y,\quad v^{-1}=\nabla\Phi,\ \Phi\text{ convex}",
        purpose="Learn the proper loss from the data, for many classes or noisy labels.",
        aliases=("LegendreLinkLoss", "LegendreLink loss"),
        cost="O(B C hidden depth), twice differentiated; the scores are held whole",
        equals=("CrossEntropy on LegendreLink(classes)(scores)",),
        note="The authors train it in float64 by Adam at 0.01 with half a squared-norm penalty of 0.01 on all parameters.",
    )

    classes: int = data("number of classes, an integer >= 2")
    blocks: int = integer(2, "gradient maps in a row", low=1, search=(1, 4))
    hidden: int = integer(2, "units of each convex network, even", low=2)
    depth: int = integer(4, "layers of each convex network", low=1)

    def setup(self) -> None:
        self.link = LegendreLink(int(self.classes), self.blocks, self.hidden, self.depth)

    def _scores(self, scores: Scores | Tensor, targets: Targets | Tensor) -> Scores:
        return as_scores(self.linked(scores))

    def linked(self, scores: Scores | Tensor) -> Tensor:
        """Log-odds (..., C) of scores (..., C - 1)."""
        recipe = as_scores(scores)
        kind = next(self.link.parameters()).dtype
        with torch.autocast(recipe.device.type, enabled=False):
            x = recipe.tensor()
            found: Tensor = self.link(x.to(torch.promote_types(x.dtype, kind)))
        return found

    def predict(self, scores: Scores | Tensor) -> Tensor:
        """Class probabilities (..., C)."""
        return super().predict(self.linked(scores))
