"""The catalogue: every exported objective with a card is found, by any spelling."""

from __future__ import annotations

import operator

import pytest

import torchlosses
import torchlosses.metrics
from torchlosses import catalog


def test_every_exported_loss_with_a_card_is_listed() -> None:
    names = {entry.name for entry in catalog.entries()}
    assert {"CrossEntropy", "LogPartitionPenalty"} <= names
    assert all(getattr(torchlosses, name).card is not None for name in names)


@pytest.mark.parametrize("name", ["CrossEntropy", "crossentropy", "cross-entropy", "Cross Entropy"])
def test_case_and_punctuation_do_not_matter(name: str) -> None:
    found = catalog.find(name)
    assert found.entry.name == "CrossEntropy"
    assert found.alias is None


def test_an_alias_resolves_and_says_so() -> None:
    found = catalog.find("palm Z-LOSS")
    assert (found.entry.name, found.alias) == ("LogPartitionPenalty", "PaLM z-loss")


def test_a_misspelling_gets_a_suggestion() -> None:
    with pytest.raises(catalog.UnknownLoss, match="did you mean CrossEntropy"):
        catalog.find("CrosEntropy")


def test_every_name_finds_itself() -> None:
    for entry in catalog.entries():
        assert catalog.find(entry.name).entry is not None
        assert catalog.find(entry.name.upper()).entry.name == entry.name


def test_search_by_task_family_and_words() -> None:
    found = catalog.search(task="classification", family="classification", text="cross entropy")
    assert found[0].name == "CrossEntropy"
    assert all("classification" in entry.card.tasks for entry in found)
    assert catalog.search(text="no such words anywhere") == ()


@pytest.mark.parametrize("name", [*catalog.BESIDE, "capped_simplex"])
def test_what_is_no_loss_is_told_where_it_is(name: str) -> None:
    with pytest.raises(catalog.UnknownLoss) as refused:
        catalog.find(name)
    place = str(refused.value).rsplit("torchlosses.", 1)[1]
    assert callable(operator.attrgetter(place)(torchlosses))
