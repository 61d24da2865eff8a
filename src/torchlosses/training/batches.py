"""Which examples meet in a batch: clusters of similar ones, one of every class, and subclasses of equal size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize
from torch.utils.data import Sampler

ROUNDS = 20  # of a 2-means split, which mostly settles in a few


@torch.no_grad()
def balanced_clusters(features: Tensor, clusters: int, generator: torch.Generator | None = None) -> Tensor:
    """Cluster (N,) of each example, in clusters of equal size (up to one example), by splitting in two again and again.

    Arguments:
        features: (N, D); compared by cosine.
        clusters: in [1, N].
        generator: for the first guess of each split; on the features' device.

    Each split is a 2-means whose halves have the sizes that their numbers of clusters call for, O(N D log clusters).

    >>> import torch
    >>> from torchlosses.training import balanced_clusters
    >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.1], [0.1, 1.0]])
    >>> found = balanced_clusters(x, 2, torch.Generator().manual_seed(0))
    >>> bool(found[0] == found[2] != found[1]), bool(found[1] == found[3])
    (True, True)
    """
    if not 1 <= clusters <= max(1, len(features)):
        raise ValueError(f"clusters: expected an integer in [1, {len(features)}], got {clusters}")
    x = normalize(features, dim=-1)
    found = torch.zeros(len(x), dtype=torch.long, device=x.device)
    waiting = [(torch.arange(len(x), device=x.device), 0, clusters)]
    while waiting:
        members, first, number = waiting.pop()
        found[members] = first
        if number < 2:
            continue
        left = number // 2
        cut = (len(members) * left) // number
        order = members[_split(x[members], cut, generator)]
        waiting += [(order[:cut], first, left), (order[cut:], first + left, number - left)]
    return found


def _split(x: Tensor, size: int, generator: torch.Generator | None) -> Tensor:
    """An order of the examples whose first ``size`` are one cluster and the others the second."""
    pair = torch.randperm(len(x), generator=generator, device=x.device)[:2]
    direction = x[pair[0]] - x[pair[-1]]
    order = (x @ direction).argsort(descending=True, stable=True)
    for _ in range(ROUNDS):
        means = [normalize(x[part].mean(0), dim=0) for part in (order[:size], order[size:])]
        again = (x @ (means[0] - means[1])).argsort(descending=True, stable=True)
        if torch.equal(again[:size].sort().values, order[:size].sort().values):
            break
        order = again
    return order


def balanced_subclasses(
    features: Tensor, labels: Tensor, smallest: int = 10, generator: torch.Generator | None = None
) -> Tensor:
    """Subclass (N,) of each example: every class is cut into clusters of about the size of the smallest class.

    Arguments:
        features: (N, D).
        labels: (N,) integers; subclasses are numbered across classes.
        smallest: clusters are not made smaller than this, >= 1: ``n_c // max(min n, smallest)`` of them, at least one.

    Source: Subclass-balancing Contrastive Learning for Long-tailed Recognition, 2023, arXiv:2306.15925.

    >>> import torch
    >>> from torchlosses.training import balanced_subclasses
    >>> balanced_subclasses(torch.randn(6, 2), torch.tensor([0, 0, 0, 0, 1, 1]), smallest=2).bincount()
    tensor([2, 2, 2])
    """
    found, used = torch.zeros_like(labels), 0
    kinds, counts = labels.unique(return_counts=True)
    for kind, count in zip(kinds.tolist(), counts.tolist(), strict=True):
        number = max(1, count // max(int(counts.min()), smallest))
        where = labels == kind
        found[where] = used + balanced_clusters(features[where], number, generator).to(found.dtype)
        used += number
    return found


class ClusterBatchSampler(Sampler[list[int]]):
    """Batches of similar examples (NGAME): clusters in random order, end to end, so that in-batch negatives are hard.

    Arguments:
        examples: number of training examples.
        batch_size: > 0.
        cluster_size: examples in a cluster at the start, >= 1; 1 is ordinary shuffling.
        doublings: epochs at which the cluster size doubles (the paper's 10, 20, 25, 50, 75, 100, 125, 150, 200).
        seed: of the order and of the splits.

    Call ``set_epoch(epoch)`` before each epoch, and ``refresh(features)`` with new embeddings (N, D) every few (5).

    Source: NGAME: Negative Mining-aware Mini-batching for Extreme Classification, 2022, arXiv:2207.04452.

    >>> from torchlosses.training import ClusterBatchSampler
    >>> batches = ClusterBatchSampler(10, batch_size=4)
    >>> len(batches), sorted(i for batch in batches for i in batch) == list(range(10))
    (3, True)
    """

    def __init__(
        self, examples: int, batch_size: int, cluster_size: int = 1, doublings: Sequence[int] = (), seed: int = 0
    ) -> None:
        for name, value in (("examples", examples), ("batch_size", batch_size), ("cluster_size", cluster_size)):
            if value < 1:
                raise ValueError(f"{name}: expected an integer >= 1, got {value}")
        self.examples, self.batch_size, self.doublings, self.seed = examples, batch_size, tuple(doublings), seed
        self._start, self._epoch = cluster_size, 0
        self._clusters = torch.arange(examples)

    @property
    def cluster_size(self) -> int:
        """Examples in a cluster at this epoch."""
        return min(self.examples, self._start << sum(self._epoch >= epoch for epoch in self.doublings))

    def set_epoch(self, epoch: int) -> None:
        """The epoch about to run: decides the order and, at the next refresh, the cluster size."""
        self._epoch = epoch

    def refresh(self, features: Tensor) -> None:
        """Clusters anew, from the present embeddings (N, D)."""
        if len(features) != self.examples:
            raise ValueError(f"features: expected {self.examples} rows, got {len(features)}")
        number = -(-self.examples // self.cluster_size)
        generator = torch.Generator(features.device).manual_seed(self.seed + self._epoch)
        self._clusters = balanced_clusters(features.detach(), number, generator).cpu()

    def __len__(self) -> int:
        return -(-self.examples // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(self.seed + self._epoch)
        shuffled = torch.randperm(self.examples, generator=generator)
        place = torch.randperm(int(self._clusters.max()) + 1, generator=generator)[self._clusters]
        order = shuffled[place[shuffled].argsort(stable=True)]
        return iter([part.tolist() for part in order.split(self.batch_size)])


class BatchBinding(Sampler[list[int]]):
    """Appends one fixed example of every class to each batch, so that all classes meet in all batches.

    Arguments:
        batches: lists of indices, such as a batch sampler.
        labels: (N,) integers.
        seed: of the choice of the binding examples.

    Source: Symmetric Neural-Collapse Representations with Supervised Contrastive Loss, 2023, arXiv:2306.07960.

    >>> import torch
    >>> from torchlosses.training import BatchBinding
    >>> list(BatchBinding([[0, 1], [2]], torch.tensor([0, 0, 1])))
    [[0, 1, 2], [2, 0]]
    """

    def __init__(self, batches: Iterable[list[int]], labels: Tensor, seed: int = 0) -> None:
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
        shuffled = labels.cpu()[order]
        self.batches = batches
        self.binding = [int(order[(shuffled == kind).nonzero()[0, 0]]) for kind in labels.unique().tolist()]

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.batches:
            present = set(batch)
            yield [*batch, *(i for i in self.binding if i not in present)]


__all__ = ["BatchBinding", "ClusterBatchSampler", "balanced_clusters", "balanced_subclasses"]
