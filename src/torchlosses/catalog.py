"""Every objective that torchlosses exports, found by name, alias, task, family or words of its card."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

import torchlosses
from torchlosses.card import Card
from torchlosses.loss import Loss

# Names of the literature for what is no loss, and where it is.
BESIDE = {
    "BlackBoxLogLoss": "metrics.black_box_log_loss",
    "BlackBoxSquareLoss": "metrics.black_box_square_loss",
    "CalibrationError": "metrics.calibration_error",
    "ECE": "metrics.calibration_error",
    "EnergyScore": "metrics.energy",
    "MahalanobisScore": "metrics.MahalanobisScore",
    "MaxLogitScore": "metrics.max_logit",
    "MaxSoftmaxScore": "metrics.max_softmax",
    "MSP": "metrics.max_softmax",
    "FrechetMeanPredictor": "FrechetMean",
    "Loki": "FrechetMean",
    "GaussianNaiveBayesHead": "GaussianNaiveBayes",
    "CosineHead": "cosine",
    "DistanceHead": "distance",
    "budget map": "capped_simplex",
    "entmax15": "entmax",
    "entmax_bisect": "entmax",
    "normmax_bisect": "normmax",
    "residual_normalized": "ResidualNormalized",
}
TASKS = ("classification", "retrieval", "pairs", "ranking")


@dataclass(frozen=True)
class Entry:
    """One objective: its public name, its class, its card."""

    name: str
    loss: type[Loss]
    card: Card


@dataclass(frozen=True)
class Found:
    """An entry and, where it was not asked for by its own name, the alias that led to it."""

    entry: Entry
    alias: str | None = None


class UnknownLoss(LookupError):
    """No objective goes by this name, or several do; ``suggestions`` names the nearest."""

    def __init__(
        self, name: str, suggestions: tuple[str, ...], *, ambiguous: bool = False, beside: str | None = None
    ) -> None:
        self.suggestions = suggestions
        if beside is not None:
            text = f"{name!r} is no loss; see torchlosses.{beside}"
        elif ambiguous:
            text = f"{name!r} is an alias of several losses: {', '.join(suggestions)}"
        else:
            near = f"; did you mean {', '.join(suggestions)}?" if suggestions else ""
            text = f"unknown loss {name!r}{near}"
        super().__init__(text)


def entries() -> tuple[Entry, ...]:
    """All exported losses that carry a card, by name.

    >>> [e.name for e in entries() if e.name == "CrossEntropy"]
    ['CrossEntropy']
    """
    found = {}
    for name, value in vars(torchlosses).items():
        if isinstance(value, type) and issubclass(value, Loss) and value.card and not name.startswith("_"):
            found[name] = Entry(name, value, value.card)
    return tuple(found[name] for name in sorted(found, key=str.casefold))


def families(known: Iterable[Entry] | None = None) -> tuple[str, ...]:
    """The families that have at least one objective."""
    return tuple(sorted({entry.card.family for entry in known or entries()}))


def find(name: str) -> Found:
    """The objective of this name or alias; case, spaces and punctuation do not matter.

    >>> found = find("crossentropyloss")
    >>> found.entry.name, found.alias
    ('CrossEntropy', 'CrossEntropyLoss')
    """
    wanted = _plain(name)
    known = entries()
    by_alias: dict[str, tuple[str, Entry]] = {}
    for entry in known:
        if wanted == _plain(entry.name):
            return Found(entry)
        for alias in entry.card.aliases:
            if wanted == _plain(alias):
                by_alias[entry.name] = (alias, entry)
    if len(by_alias) > 1:
        raise UnknownLoss(name, tuple(by_alias), ambiguous=True)
    if by_alias:
        ((alias, entry),) = by_alias.values()
        return Found(entry, alias)
    for spelling, place in BESIDE.items():
        if wanted in (_plain(spelling), _plain(place.rsplit(".", 1)[-1])):
            raise UnknownLoss(name, (), beside=place)
    raise UnknownLoss(name, _near(wanted, known))


def search(*, task: str | None = None, family: str | None = None, text: str | None = None) -> tuple[Entry, ...]:
    """Entries of a task and family whose name, aliases, paper or purpose hold every word of ``text``; names first.

    >>> [e.name for e in search(text="cross entropy")][0]
    'CrossEntropy'
    """
    kept = []
    for entry in entries():
        if task is not None and not serves(entry, task):
            continue
        if family is not None and entry.card.family != family:
            continue
        rank = 0 if text is None else _rank(entry, text)
        if rank is not None:
            kept.append((rank, entry))
    return tuple(entry for _, entry in sorted(kept, key=lambda pair: pair[0]))


def serves(entry: Entry, task: str) -> bool:
    """Whether the card names the task; what is usually fed lists ranks, too."""
    return task in entry.card.tasks or (task == "ranking" and entry.card.scores == "list")


def _rank(entry: Entry, text: str) -> int | None:
    """0 where the name begins so, 1 where it holds it, 2 an alias, 3 the card's words, None where nothing does."""
    card = entry.card
    whole = _plain(text)
    if whole in _plain(entry.name):
        return 0 if _plain(entry.name).startswith(whole) else 1
    if any(whole in _plain(alias) for alias in card.aliases):
        return 2
    prose = " ".join((entry.name, *card.aliases, card.title, card.identifier, card.family, card.purpose))
    return 3 if all(word in prose.casefold() for word in text.casefold().split()) else None


def _near(wanted: str, known: tuple[Entry, ...]) -> tuple[str, ...]:
    spellings = {_plain(spelling): entry.name for entry in known for spelling in (*entry.card.aliases, entry.name)}
    close = difflib.get_close_matches(wanted, spellings, n=5, cutoff=0.6)
    inside = [s for s in spellings if len(wanted) >= 3 and wanted in s]
    return tuple(dict.fromkeys(spellings[s] for s in (*close, *inside)))[:3]


def _plain(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())
