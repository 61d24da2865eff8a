"""Corners of the engine that a review found open, each with what should happen there."""

from __future__ import annotations

import pytest
import torch
from torch.func import grad, jvp, vmap
from torch.utils.checkpoint import checkpoint

import torchlosses as tl


def test_one_far_key_leaves_other_distances_alone():
    scores = tl.euclidean(torch.zeros(1, 2), torch.tensor([[3.0, 4.0], [1e5, 0.0]])).tensor()
    torch.testing.assert_close(scores, torch.tensor([[-5.0, -1e5]]))
    torch.manual_seed(0)
    x, k = torch.randn(8, 64), torch.randn(8, 64)
    k[0] *= 3000
    torch.testing.assert_close(tl.euclidean(x, k).tensor(), -torch.cdist(x, k), rtol=1e-4, atol=1e-3)
    near = tl.poincare(torch.zeros(1, 2), torch.tensor([[1e-4, 0.0], [0.9, 0.0]])).tensor()
    torch.testing.assert_close(near[0, 0], torch.tensor(-2e-4), rtol=1e-2, atol=0)


@pytest.mark.parametrize("dense", [0, 1 << 20])
def test_a_teacher_never_learns(dense):
    @tl.row_loss(accepts=["scores"])
    def Error(scores, targets):
        return targets.mean((scores - targets.scores) ** 2)

    q = torch.randn(6, 3, dtype=torch.double, requires_grad=True)
    with tl.memory_budget(dense=dense, block=50):
        (found,) = torch.autograd.grad(Error()(tl.dot(q, q), tl.teacher(tl.dot(q, q) * 2)), q)
    (wanted,) = torch.autograd.grad(((q @ q.T - (q @ q.T * 2).detach()) ** 2).mean(), q)
    torch.testing.assert_close(found, wanted)


def test_a_class_exists_while_one_of_its_centres_does():
    loss = tl.SubCenters(tl.CrossEntropy(), centers=2)
    value = loss(torch.tensor([[1.0, -torch.inf, 0.5, 0.2]]), torch.tensor([1]))
    torch.testing.assert_close(value, torch.tensor([[1.0, 0.5]]).log_softmax(1)[0, 1].neg())
    assert loss(torch.tensor([[1.0, 0.3, -torch.inf, -torch.inf]]), torch.tensor([1])) == 0


def test_what_chooses_columns_goes_inside_what_regroups_them():
    inner = tl.SubCenters(tl.CrossEntropy(), centers=3)
    for around in (tl.ClassSampling, tl.HardNegatives):
        with pytest.raises(TypeError, match="put it inside"):
            around(inner)
    tl.SubCenters(tl.HardNegatives(tl.CrossEntropy(), k=2), centers=3)
    with pytest.raises(TypeError, match="goes around other wrappers"):
        tl.HardNegatives(tl.UNPG())


def test_symmetric_prepares_each_direction_once():
    torch.manual_seed(0)
    a, b = torch.randn(4, 3), torch.randn(4, 3)
    both, single = tl.CurricularFace(), tl.CurricularFace()
    value = tl.Symmetric(both, combine="sum")(tl.cosine(a, b), tl.paired())
    expected = single(tl.cosine(a, b), tl.paired()) + single(tl.cosine(a, b).T, tl.paired())
    torch.testing.assert_close(value, expected)
    for found, wanted in zip(both.buffers(), single.buffers(), strict=True):
        torch.testing.assert_close(found, wanted)


def test_tiled_distances_refuse_a_second_derivative():
    a, w = torch.randn(300, 40, requires_grad=True), torch.randn(200, 40)
    with pytest.raises(RuntimeError, match="double differentiation"):
        torch.autograd.grad(tl.distance(a, w, "minkowski").tensor().mean(), a, create_graph=True)


STATEFUL = [
    lambda: tl.ElasticFace(seed=0),
    lambda: tl.ClassSampling(tl.ArcFace(), rate=0.7, seed=0),
    lambda: tl.AdaCos(),
    lambda: tl.CurricularFace(),
    lambda: tl.Seesaw(classes=5),
]


@pytest.mark.parametrize("dense", [0, 1 << 20])
@pytest.mark.parametrize("make", STATEFUL)
def test_a_checkpoint_sees_what_the_first_evaluation_saw(make, dense):
    torch.manual_seed(0)
    x, w, y = torch.randn(8, 4, requires_grad=True), torch.randn(5, 4), torch.randint(5, (8,))
    found = []
    for through in (False, True):
        loss = make()
        with tl.memory_budget(dense=dense, block=100):
            if through:
                value = checkpoint(lambda q: loss(tl.cosine(q, w), y), x, use_reentrant=False)  # noqa: B023
            else:
                value = loss(tl.cosine(x, w), y)
            found.append([value, *torch.autograd.grad(value, x), *loss.state_dict().values()])
    for first, second in zip(*found, strict=True):
        torch.testing.assert_close(first, second)


def test_forward_mode_follows_blocks_by_the_dense_way():
    x, w, y = torch.randn(9, 4), torch.randn(6, 4), torch.randint(6, (9,))
    tangents = []
    for dense in (0, 1 << 20):
        with tl.memory_budget(dense=dense, block=50):
            tangents.append(jvp(lambda a: tl.CrossEntropy()(tl.linear(a, w), y), (x,), (x.clone(),))[1])
    assert tangents[1] != 0
    torch.testing.assert_close(*tangents)


def test_a_rule_is_told_how_to_shape_what_it_prepares():
    class PerColumn(tl.CrossEntropy):
        def prepare(self, fields, batch):
            return {"bias": torch.arange(4.0)}

    with pytest.raises(ValueError, match=r"one per column as \(1, L\)"):
        PerColumn()(torch.zeros(3, 4), torch.tensor([0, 1, 2]))


def test_what_a_guide_does_not_know_stays():
    loss = tl.GuidedFilter(tl.InfoNCE(temperature=1.0))
    scores, index = torch.zeros(1, 3), tl.classes(torch.tensor([0]))
    hidden = torch.tensor([[0.5, -torch.inf, 0.1]])
    torch.testing.assert_close(loss(scores, index.guided(hidden)), torch.tensor(3.0).log())
    unknown = torch.tensor([[-torch.inf, 0.9, 0.1]])
    torch.testing.assert_close(loss(scores, index.guided(unknown)), torch.tensor(3.0).log())


@pytest.mark.parametrize("targets", [tl.soft, tl.multi_label, lambda t: tl.same_label(torch.zeros(2), torch.zeros(0))])
def test_no_columns_are_worth_nothing(targets):
    assert tl.CrossEntropy()(torch.zeros(2, 0), targets(torch.zeros(2, 0))) == 0


@pytest.mark.parametrize("loss", [tl.CrossEntropy(), tl.Focal(), tl.InfoNCE(), tl.ArcFace(), tl.Sparsemax()])
def test_gradients_of_single_examples(loss):
    x, y = torch.randn(5, 3, 4).tanh(), torch.randint(0, 4, (5, 3))

    def value(a, b):
        return loss(a, tl.classes(b))

    each = vmap(grad(value))(x, y)
    torch.testing.assert_close(each, torch.stack([grad(value)(a, b) for a, b in zip(x, y, strict=True)]))


@pytest.mark.parametrize(
    "value",
    [
        lambda x, w, b: tl.CrossEntropy()(tl.linear(x, w, b), torch.tensor([0, 1, 2])),
        lambda x, w, b: tl.InfoNCE(temperature=0.1)(tl.cosine(x, w), torch.tensor([0, 1, 2])),
        lambda x, w, b: tl.BinaryCrossEntropy()(tl.linear(x, w), torch.eye(3, 4)),
    ],
)
def test_compiled_in_one_graph(value):
    operands = torch.randn(3, 5), torch.randn(4, 5), torch.randn(4)
    compiled = torch.compile(value, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(*operands), value(*operands))


def test_class_sampling_takes_the_share_it_names():
    loss = tl.ClassSampling(tl.CrossEntropy(), rate=0.29, seed=0)
    torch.testing.assert_close(loss(torch.zeros(1, 100), torch.tensor([3])), torch.tensor(29.0).log())
    weights = tl.classes(torch.randint(4, (2, 4))).given(weight=torch.ones(2, 4))
    assert torch.isfinite(loss(torch.randn(2, 4, 4), weights))
    assert tl.ClassSampling(tl.CrossEntropy(), rate=0.5)(torch.zeros(2, 0), torch.full((2,), -100)) == 0


def test_rows_of_paired_are_named_from_the_front():
    with pytest.raises(ValueError, match="row numbers >= 0"):
        tl.paired().at(torch.tensor([-100]))


def test_symmetric_rows_need_square_scores():
    with pytest.raises(ValueError, match="square"):
        tl.Symmetric(tl.InfoNCE(reduction="none"))(torch.zeros(1, 4), tl.paired())
