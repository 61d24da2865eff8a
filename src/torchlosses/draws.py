"""Losses that draw at random once per call: a generator of their own, saved and loaded with the loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from torchlosses.hyperparameters import integer
from torchlosses.loss import Loss
from torchlosses.lowering import again


class Draws(Loss):
    """Mixin, named before the loss: ``class Noisy(Draws, RowLoss)``. Call :meth:`drawn` once per call, in ``prepare``.

    The generator is seeded by ``seed``, else by torch's default seed when the loss is made; drawing never touches torch's
    own generators. Its state is part of ``state_dict``, of copies and of pickles, so that a resumed run draws what the
    uninterrupted one would have drawn. Training advances it; in evaluation mode every call draws the same numbers.

    Arguments:
        seed: of the generator, an integer >= 0, or None for ``torch.initial_seed()``.

    >>> import torch, torchlosses as tl
    >>> from torchlosses.draws import Draws
    >>> class Noisy(Draws, tl.CrossEntropy):
    ...     pass
    >>> loss, resumed = Noisy(seed=1), Noisy()
    >>> resumed.load_state_dict(loss.state_dict())
    <All keys matched successfully>
    >>> loss.drawn(lambda g: torch.rand(2, generator=g)) == resumed.drawn(lambda g: torch.rand(2, generator=g))
    tensor([True, True])
    """

    seed: int | None = integer(None, "seed of the generator; None: torch's default seed", low=0, optional=True)

    def __init__(self, *args: Any, **hyperparameters: Any) -> None:
        super().__init__(*args, **hyperparameters)
        # on the CPU, so that a seed means the same numbers on every device
        self._generator = torch.Generator()
        self._generator.manual_seed(torch.initial_seed() if self.seed is None else self.seed)
        self._before = self._generator.get_state()

    def drawn(self, make: Callable[[torch.Generator], Tensor], device: torch.device | str = "cpu") -> Tensor:
        """What ``make`` draws from the generator on the CPU, moved to the device of the batch."""
        if again():  # by a checkpoint: what was drawn at first
            return make(_generator(self._before)).to(device)
        self._before = self._generator.get_state()
        generator = self._generator if self.training else _generator(self._before)
        return make(generator).to(device)

    def get_extra_state(self) -> Tensor:
        """The generator's state, for ``state_dict``."""
        return self._generator.get_state()

    def set_extra_state(self, state: Tensor) -> None:
        """Continues from a state of ``state_dict``."""
        self._generator.set_state(state.cpu())

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_generator": self._generator.get_state()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({**state, "_generator": _generator(state["_generator"])})  # type: ignore[no-untyped-call]


def _generator(state: Tensor) -> torch.Generator:
    generator = torch.Generator()
    generator.set_state(state)
    return generator


__all__ = ["Draws"]
