"""How symmetric the classes of an embedding lie."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def orthogonal_frame_distance(features: Tensor, labels: Tensor) -> Tensor:
    r"""Distance of the class means from an orthogonal frame, ``| G/|G| - I/|I| |``, G their Gram matrix, Frobenius norms.

    It is 0 where the means of all classes are orthogonal and of one length, as supervised contrastive learning of
    non-negative features has them at its minimum, whatever the class sizes.

    Arguments:
        features: (N, D).
        labels: (N,) integers; classes without examples do not count.

    Source: Symmetric Neural-Collapse Representations with Supervised Contrastive Loss, 2023, arXiv:2306.07960.

    >>> import torch
    >>> from torchlosses.metrics import orthogonal_frame_distance
    >>> y = torch.tensor([0, 1])
    >>> orthogonal_frame_distance(torch.eye(2), y), orthogonal_frame_distance(torch.ones(2, 2), y)
    (tensor(0.), tensor(0.7654))
    """
    kinds, place = labels.unique(return_inverse=True)
    sums = features.new_zeros(len(kinds), features.shape[1]).index_add(0, place, features)
    means = sums / torch.bincount(place).to(features.dtype)[:, None]
    gram, frame = means @ means.T, torch.eye(len(kinds), dtype=features.dtype, device=features.device)
    norm = torch.linalg.matrix_norm
    distance: Tensor = norm(gram / norm(gram).clamp(min=torch.finfo(gram.dtype).tiny) - frame / norm(frame))
    return distance


__all__ = ["orthogonal_frame_distance"]
