"""An attribute computed when first asked for; without the lock of functools.cached_property, which cannot be traced."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class lazy(Generic[T]):
    """Decorator: the method runs once per object, its result then stands in place of it."""

    def __init__(self, method: Callable[[Any], T]) -> None:
        self.method = method
        self.name = method.__name__
        self.__doc__ = method.__doc__

    def __get__(self, instance: Any, owner: type | None = None) -> T:
        value = self.method(instance)
        setattr(instance, self.name, value)
        return value
