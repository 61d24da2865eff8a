"""What the objectives stand beside: methods without an encoder, tuned with as many trials."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray

from torchlosses.compare.contenders import Space, Trained
from torchlosses.compare.tasks import Classification, Pairs, Ranking, Retrieval
from torchlosses.compare.tasks.base import Output, Task
from torchlosses.compare.train import OutOfTime, Watch
from torchlosses.scores import cosine


def yardstick(task: Task) -> LogisticRegression | LambdaRank | Untrained | None:
    """The one that the task has; None, with a note on the task where only a package is missing."""
    if isinstance(task, Classification) and not task.several:
        return LogisticRegression()
    if isinstance(task, Ranking):
        try:
            import lightgbm  # noqa: F401
        except (ModuleNotFoundError, OSError):  # it also needs a system library, libgomp
            task.notes.append("no yardstick: LightGBM's lambdarank needs the extra 'rank': pip install 'torchlosses[rank]'")
            return None
        return LambdaRank()
    if task.data.texts and isinstance(task, (Pairs, Retrieval)):
        return Untrained()
    return None


@dataclass(frozen=True)
class LogisticRegression:
    """scikit-learn's, on the same scaled features, without an encoder."""

    label: str = "yardstick: logistic regression"

    @property
    def space(self) -> Space:
        return {"C": optuna.distributions.FloatDistribution(1e-3, 1e2, log=True)}

    def defaults(self) -> dict[str, Any]:
        return {"C": 1.0}

    def train(
        self,
        task: Task,
        setting: Mapping[str, Any],
        *,
        seed: int,
        epochs: int,
        deadline: float = math.inf,
        watch: Watch | None = None,
    ) -> Trained:
        from sklearn.linear_model import LogisticRegression as Model

        assert isinstance(task, Classification)
        x = _features(task, deadline)
        model = Model(C=setting["C"], max_iter=1000, random_state=seed)
        model.fit(x[task.train.cpu().numpy()], task.y.cpu().numpy())

        def output(part: str) -> Output:
            found = np.zeros((len(task.rows[part]), len(task.data.labels)))
            found[:, model.classes_] = model.predict_proba(x[task.rows[part]])
            return found

        return Trained(output)


@dataclass(frozen=True)
class LambdaRank:
    """LightGBM's gradient boosted trees with its lambdarank objective, on the same scaled features."""

    label: str = "yardstick: LightGBM lambdarank"

    @property
    def space(self) -> Space:
        real, whole = optuna.distributions.FloatDistribution, optuna.distributions.IntDistribution
        return {
            "learning_rate": real(0.01, 0.3, log=True),
            "num_leaves": whole(4, 64, log=True),
            "min_data_in_leaf": whole(5, 100, log=True),
            "num_boost_round": whole(20, 300, log=True),
        }

    def defaults(self) -> dict[str, Any]:
        return {"learning_rate": 0.1, "num_leaves": 31, "min_data_in_leaf": 20, "num_boost_round": 100}

    def train(
        self,
        task: Task,
        setting: Mapping[str, Any],
        *,
        seed: int,
        epochs: int,
        deadline: float = math.inf,
        watch: Watch | None = None,
    ) -> Trained:
        import lightgbm

        assert isinstance(task, Ranking)
        x = _features(task, deadline)
        lists = task.lists["train"].numpy()
        rows = lists[lists >= 0]
        # Each seed sees its own bag of documents and features; otherwise all would grow the same trees.
        fixed = {"objective": "lambdarank", "verbosity": -1, "num_threads": 1, "seed": seed, "deterministic": True}
        fixed |= {"bagging_fraction": 0.9, "bagging_freq": 1, "feature_fraction": 0.9, "force_row_wise": True}
        grades = task.data.y[rows]
        if (grades != grades.round()).any():  # it takes whole numbers: the order of the grades
            grades = np.unique(grades, return_inverse=True)[1]
        found = lightgbm.train(
            {**fixed, **{k: v for k, v in setting.items() if k != "num_boost_round"}},
            lightgbm.Dataset(x[rows], grades.astype(int), group=(lists >= 0).sum(axis=1)),
            num_boost_round=setting["num_boost_round"],
        )

        def output(part: str) -> Output:
            places = task.lists[part].numpy()
            scores = np.zeros(places.shape)
            scores[places >= 0] = found.predict(x[places[places >= 0]])
            return scores

        return Trained(output)


@dataclass(frozen=True)
class Untrained:
    """The sentence encoder as it is, by cosine: what training has to beat."""

    label: str = "yardstick: encoder as it is"

    @property
    def space(self) -> Space:
        return {}

    def defaults(self) -> dict[str, Any]:
        return {}

    def train(
        self,
        task: Task,
        setting: Mapping[str, Any],
        *,
        seed: int,
        epochs: int,
        deadline: float = math.inf,
        watch: Watch | None = None,
    ) -> Trained:
        def output(part: str) -> Output:
            if isinstance(task, Pairs):
                left, right = task.sides(part)
                return cosine(task.x[left], task.right[right]).tensor().cpu().numpy()
            rows = getattr(task.split, part)
            return cosine(task.x[rows], task.x[rows]).tensor().cpu().numpy()

        return Trained(output)


def _features(task: Task, deadline: float) -> NDArray[Any]:
    """The scaled features as rows, if there is time to learn from them."""
    if time.perf_counter() > deadline:
        raise OutOfTime
    return task.x.reshape(len(task.x), -1).cpu().numpy()
