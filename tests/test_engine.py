"""The engine: every mode gives what the dense code gives, value and gradient, whatever the scores are made of."""

from __future__ import annotations

import threading
import warnings
from typing import Any

import pytest
import torch
import torch.utils.checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import torchlosses as tl

DENSE: dict[str, int] = {"dense": 1 << 40}
BLOCKED: dict[str, int] = {"dense": 0, "block": 64}


@tl.row_loss(accepts=["positive"])
def Gap(scores: Tensor, targets: tl.Block) -> tuple[Tensor, Tensor]:
    """Softplus of (log-sum-exp of wrong columns minus log-sum-exp of right ones), pooled by the number of pairs."""
    wrong = targets.logsumexp(scores, targets.negative)
    right = targets.logsumexp(scores, targets.positive)
    both = (targets.count(targets.positive) > 0) & (targets.count(targets.negative) > 0)
    gap = torch.where(both, wrong, 0.0) - torch.where(both, right, 0.0)
    return torch.nn.functional.softplus(gap), targets.count(targets.positive) * both


class Learned(tl.RowLoss):
    """A rule with a parameter, a field and two terms."""

    accepts = ("probability",)

    def setup(self) -> None:
        self.scale = torch.nn.Parameter(torch.tensor(1.5))

    def rule(self, scores: Tensor, targets: tl.Block, *, boost: Tensor) -> Any:
        first = targets.logsumexp(scores * self.scale) - (targets.probability * scores).sum(-1)
        return {"first": first * boost, "second": (scores.square().mean(-1), boost.detach() > 0)}


def operands(kind: str, rows: int, columns: int, dtype: torch.dtype = torch.float64) -> tuple[list[Tensor], Any]:
    generator = torch.Generator().manual_seed(rows * 100 + columns)

    def make(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()

    q, k, bias, per_row = make(rows, 5), make(columns, 5), make(columns), make(rows, 1)
    if kind == "plain":
        s = make(rows, columns)
        return [s], lambda: s * 1.0
    if kind == "linear":
        return [q, k, bias], lambda: tl.linear(q, k, bias)
    if kind == "cosine":
        return [q, k, per_row], lambda: tl.cosine(q, k) * per_row * 3
    if kind == "self":
        return [q], lambda: tl.cosine(q)
    if kind == "euclidean":
        return [q, k, bias], lambda: tl.euclidean(q, k) * 2 + bias[None]
    if kind == "poincare":
        return [q, k], lambda: tl.poincare(q * 0.1, k * 0.1)
    if kind == "per_row":
        c = make(rows, columns, 5)
        return [q, c], lambda: tl.per_row(q, c) * 2
    if kind == "concat":
        p = make(rows, columns)
        return [q, k, p], lambda: tl.concat(tl.cosine(q, k), p, tl.dot(q)) * 0.7
    raise ValueError(kind)


KINDS = ["plain", "linear", "cosine", "self", "euclidean", "poincare", "per_row", "concat"]


def gradients(loss: tl.RowLoss, scores: Any, targets: Any, inputs: list[Tensor], limits: dict[str, int]) -> list[Tensor]:
    wanted = inputs + list(loss.parameters())
    with tl.memory_budget(**limits):
        value = loss(scores(), targets)
    weights = torch.linspace(1, 2, value.numel(), dtype=value.dtype)
    found = torch.autograd.grad((value.reshape(-1) * weights).sum() * 1.3, wanted, allow_unused=True)
    return [
        value.detach(),
        *(torch.zeros_like(t) if g is None else g for t, g in zip(wanted, found, strict=True)),
    ]


def same(a: list[Tensor], b: list[Tensor], tolerance: float = 1e-9) -> None:
    for x, y in zip(a, b, strict=True):
        assert torch.isfinite(x).all()
        torch.testing.assert_close(x, y, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none", tl.CVaR(0.4)])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropy_modes_agree(kind: str, reduction: Any, smoothing: float) -> None:
    inputs, scores = operands(kind, 7, 6)
    columns = scores().shape[-1]
    index = torch.arange(7) * 5 % columns
    index[3] = -100
    if kind in ("self", "concat"):
        index[:] = (torch.arange(7) + 1) % 6 if kind == "self" else index
        index[3] = -100
    loss = tl.CrossEntropy(label_smoothing=smoothing, reduction=reduction)
    targets = tl.classes(index).given(weight=torch.linspace(0.5, 2, 7, dtype=torch.float64))
    same(
        gradients(loss, scores, targets, inputs, BLOCKED),
        gradients(loss, scores, targets, inputs, DENSE),
    )


@pytest.mark.parametrize("over", ["rows", "valid", "active", "terms"])
@pytest.mark.parametrize("kind", KINDS)
def test_block_rule_modes_agree(kind: str, over: str) -> None:
    inputs, scores = operands(kind, 7, 6)
    columns = scores().shape[-1]
    keys = torch.arange(columns) % 3
    labels = keys[:7] if kind == "self" else torch.tensor([0, 1, 2, 0, 9, 1, 2])
    for reduction in ("mean", "none"):
        loss = Gap(over=over, reduction=reduction)
        targets = tl.same_label(labels, keys)
        same(
            gradients(loss, scores, targets, inputs, BLOCKED),
            gradients(loss, scores, targets, inputs, DENSE),
        )


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_parameters_fields_and_terms_get_gradients(reduction: str) -> None:
    inputs, scores = operands("linear", 7, 6)
    boost = torch.linspace(0, 2, 7, dtype=torch.float64).requires_grad_()
    q = torch.rand(7, 6, dtype=torch.float64).requires_grad_()
    loss = Learned(reduction=reduction).double()
    targets = tl.soft(q).given(boost=boost)
    same(
        gradients(loss, scores, targets, [*inputs, boost, q], BLOCKED),
        gradients(loss, scores, targets, [*inputs, boost, q], DENSE),
    )
    with tl.memory_budget(**BLOCKED):
        logged = loss.terms(scores(), targets)
    assert set(logged) == {"first", "second"}


def test_row_weights_get_gradients() -> None:
    inputs, scores = operands("cosine", 7, 6)
    weight = torch.linspace(0.1, 2, 7, dtype=torch.float64).requires_grad_()
    targets = tl.classes(torch.arange(7) % 6).given(weight=weight)
    for reduction in ("mean", "sum"):
        loss = tl.CrossEntropy(reduction=reduction)
        same(
            gradients(loss, scores, targets, [*inputs, weight], BLOCKED),
            gradients(loss, scores, targets, [*inputs, weight], DENSE),
        )


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 9),
    columns=st.integers(1, 9),
    block=st.sampled_from([1, 64, 200, 1000]),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    masked=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_blocked_equals_dense(rows: int, columns: int, block: int, dtype: torch.dtype, masked: bool, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    s = torch.randn(rows, columns, generator=generator).to(dtype).requires_grad_()
    mask = torch.rand(rows, columns, generator=generator) > 0.4 if masked else None
    hot = torch.rand(rows, columns, generator=generator) > 0.5
    tolerance = 1e-9 if dtype == torch.float64 else 1e-5
    for loss in (Gap(over="rows"), Gap(over="terms"), Gap(over="rows", reduction="none")):
        found = [
            gradients(loss, lambda: s, tl.multi_label(hot, mask), [s], limits)
            for limits in ({"dense": 0, "block": block}, DENSE)
        ]
        assert not masked or (found[0][1][~mask] == 0).all()
        same(found[0], found[1], tolerance)


def test_minus_infinity_is_a_masked_cell() -> None:
    s = torch.tensor([[1.0, -torch.inf, 2.0], [-torch.inf, -torch.inf, -torch.inf]], dtype=torch.float64).requires_grad_()
    for limits in (DENSE, BLOCKED):
        with tl.memory_budget(**limits):
            value = tl.CrossEntropy(reduction="sum")(s, torch.tensor([0, 1]))
        expected = torch.nn.functional.cross_entropy(torch.tensor([[1.0, 2.0]], dtype=torch.float64), torch.tensor([0]))
        torch.testing.assert_close(value, expected)
        (g,) = torch.autograd.grad(value, s)
        assert torch.isfinite(g).all()
        assert (g[1] == 0).all() and g[0, 1] == 0


@pytest.mark.parametrize("limits", [DENSE, BLOCKED])
def test_nothing_counts(limits: dict[str, int]) -> None:
    w = torch.randn(4, 3, requires_grad=True)
    for features, index in (
        (torch.randn(0, 3), torch.zeros(0, dtype=torch.long)),
        (torch.randn(5, 3), torch.full((5,), -100)),
    ):
        with tl.memory_budget(**limits):
            value = tl.CrossEntropy()(tl.linear(features, w), index)
        assert value == 0
        value.backward()
    assert w.grad is not None and (w.grad == 0).all()


@pytest.mark.parametrize("limits", [DENSE, BLOCKED])
def test_no_columns(limits: dict[str, int]) -> None:
    x = torch.randn(3, 2, requires_grad=True)
    with tl.memory_budget(**limits):
        value = Gap()(tl.dot(x, torch.randn(0, 2)), tl.multi_label(torch.zeros(3, 0)))
    assert value == 0
    value.backward()


def test_same_tensor_expanded_and_strided_operands() -> None:
    base = torch.randn(6, 10, dtype=torch.float64).requires_grad_()
    loss = tl.CrossEntropy()
    for make in (
        lambda: tl.cosine(base, base),
        lambda: tl.cosine(base[:, ::2], base[:, 1::2]),
        lambda: tl.dot(base.T[:6, :5], base[:, :5]),
        lambda: tl.dot(base[:1].expand(6, 10), base),
    ):
        index = torch.arange(6) % make().shape[-1]
        same(
            gradients(loss, make, tl.classes(index), [base], BLOCKED),
            gradients(loss, make, tl.classes(index), [base], DENSE),
        )


def test_frozen_operands_and_no_grad() -> None:
    q, k = torch.randn(6, 3), torch.randn(5, 3, requires_grad=True)
    index = torch.arange(6) % 5
    with tl.memory_budget(**BLOCKED):
        value = tl.CrossEntropy()(tl.linear(q, k), index)
        value.backward()
        with torch.no_grad():
            again = tl.CrossEntropy()(tl.linear(q, k), index)
    torch.testing.assert_close(value.detach(), again)
    assert not again.requires_grad and k.grad is not None
    torch.testing.assert_close(value.detach(), torch.nn.functional.cross_entropy(q @ k.detach().T, index))


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_retained_graph_and_double_backward(reduction: str) -> None:
    q, k = torch.randn(6, 3).double().requires_grad_(), torch.randn(5, 3).double().requires_grad_()
    index = torch.arange(6) % 5

    def value() -> Tensor:
        return tl.CrossEntropy(reduction=reduction)(tl.linear(q, k), index).sum()

    def twice() -> list[Tensor]:
        (g,) = torch.autograd.grad(value(), q, create_graph=True)
        return list(torch.autograd.grad(g.square().sum(), [q, k]))

    with tl.memory_budget(**BLOCKED):
        blocked = twice()
        v = value()
        first = torch.autograd.grad(v, q, retain_graph=True)
        second = torch.autograd.grad(v, q)
        same(list(first), list(second))
        with pytest.raises(RuntimeError):
            torch.autograd.grad(v, q)
    same(blocked, twice())


def test_double_backward_refused_beyond_the_budget() -> None:
    q, k = torch.randn(4000, 2, requires_grad=True), torch.randn(8000, 2)
    with tl.memory_budget(dense=0):
        (g,) = torch.autograd.grad(tl.CrossEntropy()(tl.dot(q, k), torch.arange(4000)), q, retain_graph=True)
        assert torch.isfinite(g).all()
        value = tl.CrossEntropy()(tl.dot(q, k), torch.arange(4000))
        with pytest.raises(RuntimeError, match="double differentiation"):
            torch.autograd.grad(value, q, create_graph=True)


def test_half_gradients_survive_a_loss_scale() -> None:
    """Gradients of single cells are far below float16's smallest number before the scale is multiplied in."""
    torch.manual_seed(0)
    q, k = torch.randn(512, 16), torch.randn(2048, 16)
    index = torch.arange(512)
    exact = [q.clone().requires_grad_(), k.clone().requires_grad_()]
    (torch.nn.functional.cross_entropy(exact[0] @ exact[1].T, index) * 65536).backward()
    for limits in (DENSE, {"dense": 0, "block": 1 << 16}):
        half = [q.half().requires_grad_(), k.half().requires_grad_()]
        with tl.memory_budget(**limits):
            (tl.CrossEntropy()(tl.dot(*half), index) * 65536).backward()
        for ours, theirs in zip(half, exact, strict=True):
            assert ours.grad is not None and ours.grad.dtype == torch.float16
            assert theirs.grad is not None
            lost = (ours.grad == 0) & (theirs.grad.abs() > 1e-6)
            assert not lost.any()
            torch.testing.assert_close(ours.grad.float(), theirs.grad, rtol=0.02, atol=0.02 * float(theirs.grad.abs().max()))


def test_autocast_as_dense() -> None:
    q, k = torch.randn(20, 16, requires_grad=True), torch.randn(30, 16, requires_grad=True)
    index = torch.arange(20)
    found = []
    for limits in (DENSE, BLOCKED):
        with tl.memory_budget(**limits), torch.autocast("cpu", dtype=torch.bfloat16):
            value = tl.CrossEntropy()(tl.linear(q, k), index)
        assert value.dtype == torch.float32
        found.append([value.detach(), *torch.autograd.grad(value, [q, k])])
    same(found[0], found[1], 1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        dense = torch.nn.functional.cross_entropy(torch.nn.functional.linear(q, k), index)
    torch.testing.assert_close(found[0][0], dense.detach().float(), rtol=2e-2, atol=2e-2)


def test_threads_do_not_share_state() -> None:
    results: dict[int, Tensor] = {}
    data = [(torch.randn(40, 4), torch.randn(30, 4)) for _ in range(4)]
    index = torch.arange(40) % 30

    def work(i: int) -> None:
        with tl.memory_budget(dense=0, block=64 * (i + 1)):
            for _ in range(5):
                q = data[i][0].clone().requires_grad_()
                tl.CrossEntropy()(tl.dot(q, data[i][1]), index).backward()
        assert q.grad is not None
        results[i] = q.grad

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, (q, k) in enumerate(data):
        q = q.clone().requires_grad_()
        torch.nn.functional.cross_entropy(q @ k.T, index).backward()
        torch.testing.assert_close(results[i], q.grad)


def test_checkpoint() -> None:
    q, k = torch.randn(6, 3, requires_grad=True), torch.randn(5, 3, requires_grad=True)
    index = torch.arange(6) % 5

    def value(q: Tensor, k: Tensor) -> Tensor:
        return tl.CrossEntropy()(tl.linear(q, k), index)

    plain = torch.autograd.grad(value(q, k), [q, k])
    for limits in (DENSE, BLOCKED):
        with tl.memory_budget(**limits):
            kept = torch.utils.checkpoint.checkpoint(value, q, k, use_reentrant=False)
            same(list(torch.autograd.grad(kept, [q, k])), list(plain), 1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_gradcheck(kind: str) -> None:
    inputs, scores = operands(kind, 4, 3)
    columns = scores().shape[-1]
    index = (torch.arange(4) + 1) % columns
    for limits in (DENSE, BLOCKED):
        with tl.memory_budget(**limits):
            assert torch.autograd.gradcheck(lambda *_: tl.CrossEntropy()(scores(), index), tuple(inputs))


def test_a_recipe_equals_its_tensor() -> None:
    for kind in KINDS:
        _, scores = operands(kind, 5, 4)
        recipe = scores()
        if not isinstance(recipe, tl.Scores):
            continue
        index = (torch.arange(5) + 1) % recipe.shape[-1]
        torch.testing.assert_close(
            tl.CrossEntropy()(recipe, tl.classes(index)),
            tl.CrossEntropy()(recipe.tensor(), tl.classes(index)),
        )


def test_recipe_arithmetic_and_selection() -> None:
    q, k = torch.randn(4, 6), torch.randn(3, 6)
    s = (tl.cosine(q, k) * torch.rand(4, 1) + torch.rand(1, 3)) / 2 - 1
    full = s.tensor()
    torch.testing.assert_close(s.T.tensor(), full.T)
    torch.testing.assert_close(s.at(torch.tensor([2, 0])).tensor(), full[[2, 0]])
    torch.testing.assert_close(s.columns(torch.tensor([1])).tensor(), full[:, [1]])
    cut = torch.nn.functional.normalize(q[:, :2], dim=-1) @ torch.nn.functional.normalize(k[:, :2], dim=-1).T
    torch.testing.assert_close(tl.cosine(q, k).truncate(2).tensor(), cut)
    own = tl.cosine(q).at(torch.tensor([2])).tensor()
    assert own[0, 2] == -torch.inf and torch.isfinite(own).sum() == 3


def test_leading_dimensions_are_rows() -> None:
    s, index = torch.randn(2, 3, 5), torch.randint(0, 5, (2, 3))
    value = tl.CrossEntropy(reduction="none")(s, index)
    expected = torch.nn.functional.cross_entropy(s.transpose(1, 2), index, reduction="none")
    torch.testing.assert_close(value, expected)


BAD: list[tuple[Any, type[Exception], str]] = [
    (
        lambda: tl.CrossEntropy(label_smoothing=2),
        ValueError,
        r"label_smoothing: expected a number in \[0, 1\], got 2",
    ),
    (lambda: tl.CrossEntropy(gamma=2), TypeError, "unexpected hyperparameter 'gamma'"),
    (lambda: tl.CrossEntropy(reduction="avg"), ValueError, "reduction: expected 'mean'"),
    (
        lambda: tl.CrossEntropy()(torch.zeros(2, 3), torch.tensor([0, 3])),
        ValueError,
        r"\[0, 3\), got 3 at row 1",
    ),
    (lambda: tl.CrossEntropy()(torch.zeros(2, 3), torch.tensor([0])), ValueError, "expected 2 rows"),
    (
        lambda: tl.CrossEntropy()(torch.zeros(2, 3), tl.desirable(torch.ones(2))),
        TypeError,
        "expected one of classes",
    ),
    (lambda: tl.CrossEntropy()(torch.zeros(2, 3), [0, 1]), TypeError, "targets: expected one of"),
    (lambda: tl.CrossEntropy()([[0.0]], torch.tensor([0])), TypeError, "scores: expected a tensor"),
    (
        lambda: tl.CrossEntropy()(torch.zeros(2, 3, dtype=torch.long), torch.tensor([0, 1])),
        TypeError,
        "floating-point",
    ),
    (lambda: tl.cosine(torch.zeros(2, 3), torch.zeros(4, 5)), ValueError, r"keys: expected shape \(L, 3\)"),
    (
        lambda: tl.linear(torch.zeros(2, 3), torch.zeros(4, 3), torch.zeros(3)),
        ValueError,
        r"bias: expected shape \(4,\)",
    ),
    (
        lambda: tl.dot(torch.zeros(2, 3)) * torch.ones(5),
        ValueError,
        "factor: expected a number or a tensor of shape",
    ),
    (
        lambda: tl.multi_label(torch.ones(2, 3), torch.ones(2, 3)),
        TypeError,
        "mask: expected a boolean tensor",
    ),
    (lambda: Learned()(torch.zeros(2, 3), torch.ones(2, 3)), TypeError, "boost: Learned needs it"),
    (
        lambda: tl.CrossEntropy()(torch.zeros(2, 3), tl.classes(torch.tensor([0, 1])).given(weight=torch.ones(5))),
        ValueError,
        "weight: expected one entry per row",
    ),
    (lambda: tl.CrossEntropy()(torch.zeros(3, 2), tl.paired()), ValueError, "paired"),
    (lambda: tl.CVaR(0.0), ValueError, "alpha"),
    (lambda: tl.row_loss(accepts=["colour"]), ValueError, "accepts"),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD)
def test_bad_input_is_refused(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_compiles_whole_and_maps() -> None:
    torch.manual_seed(0)
    q, k = torch.randn(6, 3, requires_grad=True), torch.randn(5, 3, requires_grad=True)
    index = torch.arange(6) % 5
    loss = tl.CrossEntropy()

    def value(q: Tensor, k: Tensor) -> Tensor:
        return loss(tl.linear(q, k), index)

    compiled = torch.compile(value, fullgraph=True, backend="aot_eager")
    same(list(torch.autograd.grad(compiled(q, k), [q, k])), list(torch.autograd.grad(value(q, k), [q, k])), 1e-6)
    stack = torch.randn(4, 6, 5)
    mapped = torch.vmap(lambda s: tl.CrossEntropy()(s, index))(stack)
    torch.testing.assert_close(mapped, torch.stack([tl.CrossEntropy()(s, index) for s in stack]))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("scale", [1.0, 20.0, 3000.0])
def test_symmetric_in_one_walk(scale: float, reduction: str) -> None:
    torch.manual_seed(0)
    q, k = torch.randn(20, 5, dtype=torch.float64), torch.randn(20, 5, dtype=torch.float64)
    k[3] = -k[3].abs() * 9
    found = []
    for limits in (BLOCKED, {"dense": 0, "block": 800}, DENSE):
        a, b = q.clone().requires_grad_(), k.clone().requires_grad_()
        t = torch.tensor(scale, dtype=torch.float64, requires_grad=True)
        with tl.memory_budget(**limits):
            value = tl.Symmetric(tl.CrossEntropy(reduction=reduction))(tl.cosine(a, b) * t, tl.paired())
        found.append([value.detach(), *torch.autograd.grad(value * 1.7, [a, b, t])])
    same(found[0], found[2])
    same(found[1], found[2])


def sigmoid_pairs() -> list[Any]:
    a = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    b = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    paired = tl.paired()
    return [
        (tl.CrossEntropy(), lambda: tl.euclidean(a, b), paired, [a, b]),
        (tl.CrossEntropy(), lambda: tl.poincare(a * 0.1, b * 0.1), paired, [a, b]),
        (tl.CrossEntropy(), lambda: tl.dot(a), tl.classes((torch.arange(6) + 1) % 6), [a]),
        (tl.SigLIP().double(), lambda: tl.cosine(a, b), paired, [a, b]),
        (tl.CrossEntropy(reduction="none"), lambda: tl.euclidean(a, b), paired, [a, b]),
    ]


@pytest.mark.parametrize("case", range(5))
def test_differentiable_gradients_of_entangled_inputs(case: int) -> None:
    """One input of the engine may be made from another (norms, a learned scale): each path counts once."""
    torch.manual_seed(case)
    loss, scores, targets, inputs = sigmoid_pairs()[case]
    wanted = inputs + list(loss.parameters())
    found = []
    for limits in (BLOCKED, DENSE):
        with tl.memory_budget(**limits):
            first = torch.autograd.grad(loss(scores(), targets).sum(), wanted, create_graph=True)
            second = torch.autograd.grad(sum(g.square().sum() for g in first), wanted)
        found.append([g.detach() for g in (*first, *second)])
    same(found[0], found[1])


def test_right_columns_that_do_not_exist_make_empty_rows() -> None:
    torch.manual_seed(0)
    s = torch.randn(3, 4, dtype=torch.float64)
    s[0, 1], s[2] = -torch.inf, -torch.inf
    x = torch.randn(6, 4, dtype=torch.float64).requires_grad_()
    s.requires_grad_()
    for over in ("rows", "valid"):
        for loss in (tl.CrossEntropy(over=over), tl.InfoNCE(temperature=1.0, over=over), tl.PolyLoss(over=over)):
            plain = [gradients(loss, lambda: s, tl.classes(torch.tensor([1, 0, 2])), [s], m) for m in (BLOCKED, DENSE)]
            same(*plain)
            own = tl.classes(torch.tensor([0, 2, 3, 3, 5, 5]))
            same(*[gradients(loss, lambda: tl.dot(x), own, [x], m) for m in (BLOCKED, DENSE)])
    expected = torch.nn.functional.cross_entropy(s.detach()[1:2], torch.tensor([0]))
    torch.testing.assert_close(tl.CrossEntropy(over="valid")(s.detach(), torch.tensor([1, 0, 2])), expected)


def test_masked_cells_carry_no_target_mass() -> None:
    s = torch.randn(3, 5, dtype=torch.float64)
    s[0, 0] = -torch.inf
    s.requires_grad_()
    targets = tl.multi_label(torch.ones(3, 5))
    same(*[gradients(tl.CrossEntropy(), lambda: s, targets, [s], m) for m in (BLOCKED, DENSE)])


def test_targets_follow_their_rows() -> None:
    torch.manual_seed(0)
    q, d, pick = torch.randn(6, 4), torch.randn(6, 4), torch.tensor([4, 1, 3])
    loss = tl.InfoNCE(temperature=1.0, reduction="none")
    torch.testing.assert_close(loss(tl.dot(q, d), tl.paired())[pick], loss(tl.dot(q, d).at(pick), tl.paired().at(pick)))
    s, extra = torch.randn(6, 6), torch.randn(6, 6)
    one = tl.InfoNCE(temperature=1.0)
    both = tl.SymmetricInfoNCE(temperature=1.0)(s, tl.paired().given(log_weight=extra))
    by_hand = one(s, tl.paired().given(log_weight=extra)) + one(s.T, tl.paired().given(log_weight=extra.T))
    torch.testing.assert_close(both, by_hand / 2)


def test_narrow_integers_and_odd_fields() -> None:
    s = torch.randn(5, 5)
    wide = tl.CrossEntropy()(s, torch.arange(5))
    for dtype in (torch.uint8, torch.int8, torch.int16, torch.int32):
        torch.testing.assert_close(tl.CrossEntropy()(s, torch.arange(5).to(dtype)), wide)
    assert tl.CrossEntropy()(torch.zeros(2, 0), torch.tensor([-100, -100])) == 0
    with pytest.raises(ValueError, match="weight: expected one entry per row"):
        tl.CrossEntropy()(s, tl.paired().given(weight=torch.ones(5, 3)))
    torch.testing.assert_close((1 - tl.dot(s)).T.tensor().isfinite().sum(), torch.tensor(20))


@pytest.mark.parametrize("kind", ["same_label", "multi_label", "none", "all"])
@pytest.mark.parametrize("name", ["MultiSimilarity", "SupCon", "InfoNCE", "CrossEntropy"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_two_pools(name: str, kind: str, reduction: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(9, 4, dtype=torch.float64).requires_grad_()
    k = torch.randn(7, 4, dtype=torch.float64).requires_grad_()
    t = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
    loss = getattr(tl, name)(reduction=reduction)
    share = {"none": torch.zeros(9, 7), "all": torch.ones(9, 7), "multi_label": torch.rand(9, 7) > 0.6}
    labels = torch.tensor([0, 0, 0, 1, 1, 2, 3, 3, 3])
    self_targets = tl.same_label(labels)
    targets = tl.same_label(labels, labels[:7]) if kind == "same_label" else tl.multi_label(share[kind])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        same(*[gradients(loss, lambda: tl.cosine(x, k) * t, targets, [x, k, t], m) for m in (BLOCKED, DENSE)])
        same(*[gradients(loss, lambda: tl.cosine(x) * t, self_targets, [x, t], m) for m in (BLOCKED, DENSE)])
    s = torch.randn(9, 7, dtype=torch.float64)
    s[2, 3], s[4] = -torch.inf, -torch.inf
    s.requires_grad_()
    same(*[gradients(loss, lambda: s, targets, [s], m) for m in (BLOCKED, DENSE)])


HIDING = [
    (tl.CrossEntropy(), lambda y, q: tl.classes(y)),
    (tl.CrossEntropy(), lambda y, q: tl.soft(q)),
    (tl.CrossEntropy(label_smoothing=0.2), lambda y, q: tl.classes(y)),
    (tl.Sparsemax(), lambda y, q: tl.classes(y)),
    (tl.BinaryCrossEntropy(), lambda y, q: tl.multi_label(q > 0.2)),
    (tl.ForwardKL(), lambda y, q: tl.teacher(q)),
]


@pytest.mark.parametrize("dense", [0, 1 << 20])
@pytest.mark.parametrize(("loss", "targets"), HIDING)
def test_a_bias_of_minus_inf_takes_columns_away(loss, targets, dense):
    h, w, b = (torch.randn(n, dtype=torch.double, requires_grad=True) for n in ((12, 4), (7, 4), (7,)))
    y, q = torch.randint(0, 5, (12,)), torch.rand(12, 5, dtype=torch.double)
    q = q / q.sum(1, keepdim=True)
    hidden = torch.zeros(7, dtype=torch.double)
    hidden[5:] = -torch.inf
    wide = torch.cat([q, torch.zeros(12, 2, dtype=torch.double)], 1)
    with tl.memory_budget(dense=dense, block=300):
        value = loss(tl.linear(h, w, b + hidden), targets(y, wide))
        found = torch.autograd.grad(value, [h, w, b])
        expected = loss(tl.linear(h, w[:5], b[:5]), targets(y, q))
        wanted = torch.autograd.grad(expected, [h, w, b])
    torch.testing.assert_close(value, expected)
    for f, g in zip(found, wanted, strict=True):
        torch.testing.assert_close(f, g)


def _pooled_scores(kind, x, k):
    if kind == "rows picked":
        return tl.cosine(x).at(torch.tensor([3, 0, 5, 5]))
    if kind == "columns picked":
        return tl.cosine(x).columns(torch.tensor([1, 4, 0, 7, 2]))
    if kind == "columns twice":
        return tl.cosine(x).columns(torch.tensor([1, 1, 0, 7, 0, 3]))
    if kind == "two operands":
        return tl.cosine(x, k)
    plain = torch.cosine_similarity(x[:, None], k[None], dim=-1)
    return plain.masked_fill(torch.eye(8, dtype=torch.bool), -torch.inf) if kind == "holes" else plain


@pytest.mark.parametrize("kind", ["rows picked", "columns picked", "columns twice", "two operands", "plain", "holes"])
@pytest.mark.parametrize("labels", [torch.int32, torch.int64, torch.float32, torch.bool])
@pytest.mark.parametrize("loss", [tl.SupCon(temperature=0.2), tl.MultiSimilarity()])
def test_pools_of_right_columns_are_found_whatever_the_labels(kind, labels, loss):
    x, k = (torch.randn(8, 3, dtype=torch.double, requires_grad=True) for _ in range(2))
    y = torch.tensor([2, 0, 1, 0, 2, 2, 5, 0]).clamp(max=1 if labels == torch.bool else 9).to(labels)
    rows, columns = y, y.long() if labels == torch.int32 else y
    if kind == "rows picked":
        rows = y[torch.tensor([3, 0, 5, 5])]
    if kind.startswith("columns"):
        columns = columns[torch.tensor([1, 4, 0, 7, 2] if kind == "columns picked" else [1, 1, 0, 7, 0, 3])]

    def run(dense):
        with tl.memory_budget(dense=dense, block=100):
            value = loss(_pooled_scores(kind, x, k), tl.same_label(rows, columns))
            return value, *torch.autograd.grad(value, [x, k], allow_unused=True)

    for found, wanted in zip(run(0), run(1 << 20), strict=True):
        if wanted is not None:
            torch.testing.assert_close(found, wanted)


def test_a_process_group_is_refused_with_a_word():
    with pytest.raises(ValueError, match="group: expected None"):
        tl.CrossEntropy()(torch.zeros(2, 3), torch.tensor([0, 1]), group=object())


@pytest.mark.parametrize("shape", [(), (6, 1), (1, 5)])
def test_factors_and_shifts_are_compiled_in_one_graph(shape):
    x, k, y = torch.randn(6, 4), torch.randn(5, 4), torch.randint(5, (6,))
    factor = torch.rand(shape)

    def value(x, factor):
        return tl.CrossEntropy()(tl.cosine(x, k).times(factor).plus(factor), y)

    compiled = torch.compile(value, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x, factor), value(x, factor))
