"""What every objective says of itself: source, formula, purpose, cost. Drives documentation, search and ``compare``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Card:
    """The facts about one objective.

    Arguments:
        title, year, identifier: the paper (arXiv number, DOI or venue).
        family: classification, margin, metric, contrastive, ranking, preference, distillation, regression, overlap, ...
        formula: LaTeX of one row's value.
        purpose: one sentence, what it is for.
        tasks: the tasks of ``compare`` that it serves: classification, retrieval, pairs, ranking.
        scores: the scores it is usually fed: linear, cosine, dot, list, reward, none.
        aliases: its names elsewhere; found by search, not importable.
        cost: time and memory for a (B, L) matrix of scores.
        over: what the mean divides by, in words.
        detached: factors that carry no gradient by definition.
        equals: named objectives it equals, with the setting.
        note: conventions, continuations, anything unsure.
    """

    title: str
    year: int
    identifier: str
    family: str
    formula: str
    purpose: str
    tasks: tuple[str, ...] = ()
    scores: str = "linear"
    aliases: tuple[str, ...] = ()
    cost: str = "O(BL)"
    over: str = "rows"
    detached: str = "nothing"
    equals: tuple[str, ...] = ()
    note: str = ""
