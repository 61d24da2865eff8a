"""compare's metrics against scikit-learn and ir-measures; its intervals and tests against simulation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from sklearn.metrics import average_precision_score, label_ranking_average_precision_score, log_loss, ndcg_score
from sklearn.neighbors import NearestNeighbors

from torchlosses.compare.metrics import calibration_error, ranked, ranking, temperature, tempered
from torchlosses.compare.statistics import against, holm, interval, paired, student

ALL = ("ndcg_at_10", "map", "mrr", "recall_at_1", "recall_at_10", "map_at_r")


def queries(count: int = 40, length: int = 25, ties: bool = False) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    generator = np.random.default_rng(3)
    scores = generator.normal(size=(count, length))
    grades = generator.choice([0, 0, 0, 1, 2, 3], size=(count, length))
    grades[:, 0] = 1  # something is relevant
    return np.round(scores, 1) if ties else scores, grades


def worst_first(scores: NDArray[np.float64], grades: NDArray[np.int64]) -> NDArray[np.float64]:
    """The same scores with ties broken against the right ones."""
    return scores - 1e-6 * grades - 1e-9 * np.arange(scores.shape[1])


@pytest.mark.parametrize("ties", [False, True])
def test_ranking_metrics_are_scikit_learns(ties: bool) -> None:
    scores, grades = queries(ties=ties)
    found = ranking(ranked(scores, grades), ALL)
    untied = worst_first(scores, grades)
    for row in range(len(scores)):
        own = untied[row : row + 1]
        assert found["ndcg_at_10"][row] == pytest.approx(ndcg_score(2.0 ** grades[row : row + 1] - 1, own, k=10), abs=1e-12)
        assert found["map"][row] == pytest.approx(average_precision_score(grades[row] > 0, own[0]), abs=1e-12)


def test_one_right_alternative_is_scikit_learns_with_ties() -> None:
    scores = np.random.default_rng(0).integers(0, 12, size=(30, 30)).astype(np.float32)
    found = ranking(ranked(scores, np.eye(30)), ("mrr", "map"))
    assert found["mrr"].mean() == pytest.approx(label_ranking_average_precision_score(np.eye(30), scores), abs=1e-12)
    assert (found["mrr"] == found["map"]).all()


def test_ranking_metrics_are_ir_measures() -> None:
    ir = pytest.importorskip("ir_measures", reason="ir-measures is not installed")
    scores, grades = queries(ties=True)
    untied = worst_first(scores, grades)
    qrels = [ir.Qrel(str(q), str(d), int(grades[q, d])) for q in range(40) for d in range(25)]
    run = [ir.ScoredDoc(str(q), str(d), float(untied[q, d])) for q in range(40) for d in range(25)]
    # Its nDCG counts a grade as it is: the gains are given instead of the grades.
    gains = [ir.Qrel(q.query_id, q.doc_id, 2**q.relevance - 1) for q in qrels]
    found = ranking(ranked(scores, grades), ALL)
    for measure, judged, name in (
        (ir.nDCG @ 10, gains, "ndcg_at_10"),
        (ir.AP, qrels, "map"),
        (ir.RR, qrels, "mrr"),
        (ir.Success @ 1, qrels, "recall_at_1"),
        (ir.Success @ 10, qrels, "recall_at_10"),
    ):
        values = {m.query_id: m.value for m in ir.iter_calc([measure], judged, run)}
        assert [values[str(q)] for q in range(40)] == pytest.approx(found[name].tolist(), abs=1e-9), name


def test_lists_that_end_earlier_are_ranked_without_their_padding() -> None:
    scores, grades = queries()
    valid = np.arange(25) < np.random.default_rng(0).integers(5, 26, size=(40, 1))
    found = ranking(ranked(scores, grades, valid), ALL)
    for row in range(40):
        kept = valid[row]
        alone = ranking(ranked(scores[row : row + 1, kept], grades[row : row + 1, kept]), ALL)
        for name in ALL:
            assert found[name][row] == pytest.approx(alone[name][0]), name


def test_retrieval_is_nearest_neighbours_and_the_definition() -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(40, 3))
    labels = generator.integers(0, 4, size=40)
    scores = -np.linalg.norm(x[:, None] - x[None], axis=2)
    found = ranking(ranked(scores, labels[:, None] == labels, ~np.eye(40, dtype=bool))[:, :-1], ("map_at_r", "recall_at_1"))
    nearest = NearestNeighbors(n_neighbors=1).fit(x).kneighbors(return_distance=False)[:, 0]
    assert (found["recall_at_1"] == (labels == labels[nearest])).all()
    for row in range(40):
        others = [k for k in np.argsort(-scores[row]) if k != row]
        total = sum(labels[k] == labels[row] for k in others)
        hits, value = 0, 0.0
        for place, k in enumerate(others[:total], 1):
            if labels[k] == labels[row]:
                hits += 1
                value += hits / place
        assert found["map_at_r"][row] == pytest.approx(value / total)


def test_the_temperature_undoes_overconfidence() -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(4000, 5)) * 2
    true = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    truth = np.array([generator.choice(5, p=p) for p in true])
    sharp = true**3 / (true**3).sum(1, keepdims=True)
    t = temperature(sharp, truth)
    assert t == pytest.approx(3, rel=0.1)
    assert np.allclose(tempered(sharp, 3.0), true, atol=2e-4)
    assert log_loss(truth, tempered(sharp, t)) <= log_loss(truth, sharp)
    assert calibration_error(tempered(sharp, t), truth) < 0.03 < calibration_error(sharp, truth)


def test_calibration_error_is_its_definition() -> None:
    generator = np.random.default_rng(1)
    p = generator.dirichlet(np.ones(4), size=500)
    truth = generator.integers(0, 4, size=500)
    top, right = p.max(1), p.argmax(1) == truth
    edges = np.linspace(0, 1, 16)
    value = 0.0
    for low, high in itertools.pairwise(edges):
        inside = (top >= low) & (top < high)
        if inside.any():
            value += inside.mean() * abs(top[inside].mean() - right[inside].mean())
    assert calibration_error(p, truth) == pytest.approx(value)


def test_the_permutation_test_is_exact_where_it_can_be() -> None:
    generator = np.random.default_rng(0)
    a, b = generator.normal(size=(1, 8)), generator.normal(size=(1, 8))
    signs = np.array(np.meshgrid(*[[-1, 1]] * 8)).reshape(8, -1)
    sums = np.abs(signs.T @ (a - b)[0])
    assert paired(a, b, 0) == pytest.approx((sums >= sums[-1] - 1e-9).mean())
    assert paired(a, a, 0) == 1.0


def test_holm_is_the_step_down_procedure() -> None:
    assert holm([]) == []
    assert holm([0.04]) == [0.04]
    assert holm([0.001, 0.5, 0.02, 0.011]) == pytest.approx([0.004, 0.5, 0.04, 0.033])


def test_one_seed_is_students_test_over_examples() -> None:
    difference = np.random.default_rng(0).normal(0.1, 1, size=(1, 60))
    assert student(difference) == pytest.approx(stats.ttest_1samp(difference[0], 0).pvalue, rel=1e-6)


def test_equal_objectives_are_not_different_and_clear_ones_are() -> None:
    generator = np.random.default_rng(0)
    base = (generator.random((5, 300)) < 0.8).astype(float)
    clear = (generator.random((5, 300)) < 0.6).astype(float)
    same, other = against(base, [base, clear], seed=0)
    assert not same.shown and same.p == 1
    assert other.shown and other.interval.high < 0


class World:
    """Objectives that are all alike: examples differ in difficulty, seeds in luck, and every answer has its own chance."""

    def __init__(self, seed: int, seeds: int, examples: int, luck: float) -> None:
        self.generator = np.random.default_rng(seed)
        self.shape, self.luck = (seeds, examples), luck
        self.difficulty = self.generator.normal(2, 1.5, size=examples)

    def objective(self) -> NDArray[np.float64]:
        luck = self.generator.normal(0, self.luck, size=(self.shape[0], 1))
        own = self.generator.normal(0, 0.7, size=self.shape)
        chance = 1 / (1 + np.exp(-(self.difficulty + luck + own)))
        return (self.generator.random(self.shape) < chance).astype(float)

    def truth(self) -> float:
        draws = np.random.default_rng(0).normal(size=(3, 1_000_000))
        logits = 2 + 1.5 * draws[0] + self.luck * draws[1] + 0.7 * draws[2]
        return float((1 / (1 + np.exp(-logits))).mean())


def simulated(repeats: int, seeds: int, examples: int, luck: float, draws: int) -> tuple[float, float]:
    """How often the interval holds the truth; how often any of three equal objectives is called different."""
    truth = World(0, seeds, examples, luck).truth()
    held = false = 0
    for repeat in range(repeats):
        world = World(repeat, seeds, examples, luck)
        reference = world.objective()
        around = interval(reference, repeat, draws)
        held += around.low <= truth <= around.high
        false += any(d.shown for d in against(reference, [world.objective() for _ in range(3)], repeat, draws=50))
    return held / repeats, false / repeats


def test_coverage_and_false_differences_in_a_small_simulation() -> None:
    coverage, false = simulated(60, 3, 60, 0.3, draws=300)
    assert coverage >= 0.88
    assert false <= 0.12


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seeds", "examples", "luck"), [(5, 360, 0.0), (5, 360, 0.2), (5, 360, 0.8), (3, 50, 0.2), (2, 300, 0.4), (1, 200, 0.0)]
)
def test_coverage_and_false_differences(seeds: int, examples: int, luck: float) -> None:
    coverage, false = simulated(250, seeds, examples, luck, draws=1000)
    print(f"\n{seeds} seeds, {examples} examples, luck {luck}: coverage {coverage:.3f}, false differences {false:.3f}")
    error = (0.05 * 0.95 / 250) ** 0.5
    assert coverage >= 0.95 - 3 * error
    assert false <= 0.05 + 3 * error
