"""The lines of code that use the winner: they run as printed."""

from __future__ import annotations

from torch import Tensor

from torchlosses.compare.contenders import Trainee
from torchlosses.compare.results import Result
from torchlosses.compare.train import RATE


def essence(result: Result) -> list[str]:
    """The loss and its call; nothing where no objective finished."""
    best = result.chosen
    if best is None or best.best is None or not isinstance(best.contender, Trainee):
        return []
    objective, facts = best.contender.objective, result.task.facts
    hypers = {name: value for name, value in best.best.setting.items() if name != RATE}
    loss = objective.build(hypers, facts)
    call = result.task.call(loss, objective.entry.card)
    return [f"loss = {objective.code(hypers, facts)}", f"value = {call}", "value.backward()"]


def whole(result: Result) -> str:
    """The same after stand-ins for the user's own encoder and batch, in the shapes of this data."""
    lines = essence(result)
    best = result.chosen
    if not lines or best is None or best.best is None or not isinstance(best.contender, Trainee):
        return ""
    objective, facts = best.contender.objective, result.task.facts
    hypers = {name: value for name, value in best.best.setting.items() if name != RATE}
    loss = objective.build(hypers, facts)
    known = [f"{name} = {_literal(value)}" for name, value in objective.data(facts).items()]
    stand_in = result.task.stand_in(loss, objective.entry.card)
    head = ["import torch", "import torchlosses", "", "# stand-ins for your own batch and encoder"]
    return "\n".join([*head, *stand_in, *known, "", *lines])


def _literal(value: object) -> str:
    return f"torch.tensor({value.tolist()})" if isinstance(value, Tensor) else repr(value)
