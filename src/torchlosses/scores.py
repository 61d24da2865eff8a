"""Scores: one row per example, one column per alternative; a plain tensor, or a recipe that is never computed whole.

A recipe is a row of *pieces* that stand side by side. Each piece holds raw operands and says how a cell comes from them;
:mod:`torchlosses.engine` evaluates it block by block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from torchlosses.distances import METRICS, Metric
from torchlosses.lowering import lower, working_dtype

Factor = int | float | Tensor


@dataclass(frozen=True)
class Piece:
    """Columns that come from one pair of operands; ``steps`` are the factors and shifts applied afterwards, in order."""

    form: str  # tensor | dot | cosine | euclidean | poincare | elementwise
    left: Tensor  # (B, D), or the scores (B, L) themselves
    right: Tensor | None = None  # (L, D); (B, K, D) when private to each row
    private: bool = False
    steps: tuple[tuple[str, Factor], ...] = ()
    own_rows: Tensor | None = None  # a cell with own_rows[i] == own_columns[j] compares an example with itself
    own_columns: Tensor | None = None
    metric: Metric | None = None  # of elementwise distances, and of Euclidean ones kept away from 0

    @property
    def rows(self) -> int:
        return int(self.left.shape[0])

    @property
    def columns(self) -> int:
        if self.right is None:
            return int(self.left.shape[1])
        return int(self.right.shape[1] if self.private else self.right.shape[0])

    def step(self, op: str, factor: Factor, start: int, total: int) -> Piece:
        """This piece followed by one more factor; a factor per column is cut to the piece's own columns."""
        if isinstance(factor, Tensor) and factor.dim() == 2 and factor.shape[1] == total and total != 1:
            factor = factor[:, start : start + self.columns]
        steps = (*self.steps, (op, factor))  # not dataclasses.replace, which older torch.compile cannot follow
        return Piece(self.form, self.left, self.right, self.private, steps, self.own_rows, self.own_columns, self.metric)


class Scores:
    """A recipe for a (rows, columns) matrix of scores; larger means closer.

    Made by :func:`linear`, :func:`dot`, :func:`cosine`, :func:`euclidean`, :func:`poincare`, :func:`per_row`,
    :func:`concat` or :func:`implicit_reward`. ``* / + -`` with a number or a tensor of shape (), (B, 1) or (1, L)
    rescale and shift it; gradients reach those tensors.

    >>> import torch, torchlosses as tl
    >>> s = tl.cosine(torch.eye(3), torch.eye(3)[:2]) * 20
    >>> s.shape
    torch.Size([3, 2])
    >>> s.tensor()[0]
    tensor([20.,  0.])
    """

    def __init__(self, pieces: Sequence[Piece], leading: torch.Size | None = None) -> None:
        if not pieces:
            raise ValueError("scores: expected at least one piece, got none")
        rows = {piece.rows for piece in pieces}
        if len(rows) != 1:
            raise ValueError(f"scores: expected pieces with the same number of rows, got {sorted(rows)}")
        devices = {operand.device for piece in pieces for operand in (piece.left, piece.right) if operand is not None}
        if len(devices) != 1:
            raise ValueError(f"scores: expected all operands on one device, got {sorted(map(str, devices))}")
        self.pieces = tuple(pieces)
        self.leading = torch.Size((self.pieces[0].rows,)) if leading is None else leading

    @property
    def rows(self) -> int:
        return self.pieces[0].rows

    @property
    def columns_count(self) -> int:
        return sum(piece.columns for piece in self.pieces)

    @property
    def shape(self) -> torch.Size:
        """Leading dimensions of the rows, then the number of columns."""
        return torch.Size((*self.leading, self.columns_count))

    @property
    def device(self) -> torch.device:
        return self.pieces[0].left.device

    @property
    def dtype(self) -> torch.dtype:
        """The promoted type of the operands."""
        found = self.pieces[0].left.dtype
        for piece in self.pieces:
            found = torch.promote_types(found, piece.left.dtype)
            if piece.right is not None:
                found = torch.promote_types(found, piece.right.dtype)
        return found

    @property
    def query_norm(self) -> Tensor:
        """Euclidean norms of the row operands (B,), for losses that read feature quality from them."""
        left = self.pieces[0].left
        if self.pieces[0].right is None:
            raise TypeError("query_norm: plain scores hold no features; attach it with targets.given(query_norm=tensor)")
        norm: Tensor = torch.linalg.vector_norm(left.to(working_dtype(left.dtype)), dim=-1)
        return norm

    @property
    def key_norm(self) -> Tensor:
        """Euclidean norms of the columns' operands (L,)."""
        rights = [piece.right for piece in self.pieces if not piece.private]
        if len(rights) != 1 or rights[0] is None:
            raise TypeError("key_norm: expected one comparison of features with (L, D) keys")
        norm: Tensor = torch.linalg.vector_norm(rights[0].to(working_dtype(rights[0].dtype)), dim=-1)
        return norm

    def _step(self, op: str, factor: Factor) -> Scores:
        if isinstance(factor, Tensor):
            b, n = self.rows, self.columns_count
            if factor.dim() == 1 and factor.numel() == 1:
                factor = factor.reshape(())
            if factor.dim() not in (0, 2) or (factor.dim() == 2 and tuple(factor.shape) not in {(b, 1), (1, n), (1, 1)}):
                raise ValueError(
                    f"factor: expected a number or a tensor of shape (), ({b}, 1) or (1, {n}), got {tuple(factor.shape)}"
                )
        elif isinstance(factor, bool) or not isinstance(factor, (int, float)):
            raise TypeError(f"factor: expected a number or a tensor, got {type(factor).__name__}")
        pieces, start, total = [], 0, self.columns_count
        for piece in self.pieces:
            pieces.append(piece.step(op, factor, start, total))
            start += piece.columns
        return Scores(pieces, self.leading)

    def times(self, factor: Factor | None) -> Scores:
        """``scores * factor``, spelled so that torch.compile follows it for a tensor too; None changes nothing."""
        return self if factor is None else self._step("mul", factor)

    def plus(self, shift: Factor) -> Scores:
        """``scores + shift``, spelled so that torch.compile follows it for a tensor too."""
        return self._step("add", shift)

    def __mul__(self, factor: Factor) -> Scores:
        return self._step("mul", factor)

    __rmul__ = __mul__

    def __truediv__(self, factor: Factor) -> Scores:
        return self._step("mul", 1.0 / factor)

    def __add__(self, shift: Factor) -> Scores:
        return self._step("add", shift)

    __radd__ = __add__

    def __sub__(self, shift: Factor) -> Scores:
        return self._step("add", -shift)

    def __rsub__(self, shift: Factor) -> Scores:
        return (-self)._step("add", shift)

    def __neg__(self) -> Scores:
        return self._step("mul", -1.0)

    @property
    def T(self) -> Scores:
        """Columns as rows. For one piece whose columns are shared by all rows."""
        if len(self.pieces) != 1 or self.pieces[0].private:
            raise TypeError("T: expected scores of one piece with shared columns, got a concatenation or private candidates")
        piece = self.pieces[0]
        steps = tuple((op, f.mT if isinstance(f, Tensor) and f.dim() == 2 else f) for op, f in piece.steps)
        piece = replace(piece, steps=steps, own_rows=piece.own_columns, own_columns=piece.own_rows)
        if piece.right is None:
            return Scores([replace(piece, left=piece.left.T)])
        return Scores([replace(piece, left=piece.right, right=piece.left)])

    def at(self, index: Tensor) -> Scores:
        """The rows named by an index (M,) or a boolean mask (B,)."""
        index = _index(index, self.rows, "at")

        def pick(piece: Piece) -> Piece:
            steps = tuple(
                (
                    op,
                    f[index]
                    if isinstance(f, Tensor) and f.dim() == 2 and f.shape[0] == piece.rows and piece.rows != 1
                    else f,
                )
                for op, f in piece.steps
            )
            return replace(
                piece,
                left=piece.left[index],
                right=piece.right[index] if piece.private and piece.right is not None else piece.right,
                steps=steps,
                own_rows=None if piece.own_rows is None else piece.own_rows[index],
            )

        return Scores([pick(piece) for piece in self.pieces])

    def columns(self, index: Tensor, sparse: bool = False) -> Scores:
        """The columns named by an index (M,) or a boolean mask (L,). For scores of one piece.

        With ``sparse`` the gradient of the keys is a sparse tensor of the named rows (of a leaf such as a parameter).
        """
        if len(self.pieces) != 1:
            raise TypeError(f"columns: expected scores of one piece, got a concatenation of {len(self.pieces)}")
        piece = self.pieces[0]
        index = _index(index, piece.columns, "columns")
        steps = tuple(
            (
                op,
                f[:, index]
                if isinstance(f, Tensor) and f.dim() == 2 and f.shape[1] == piece.columns and piece.columns != 1
                else f,
            )
            for op, f in piece.steps
        )
        own = None if piece.own_columns is None else piece.own_columns[index]
        if piece.right is None:
            picked = replace(piece, left=piece.left[:, index], steps=steps, own_columns=own)
        else:
            if sparse and not piece.private:
                right = torch.nn.functional.embedding(index, piece.right, sparse=True)
            else:
                right = piece.right[:, index] if piece.private else piece.right[index]
            picked = replace(piece, right=right, steps=steps, own_columns=own)
        return Scores([picked], self.leading)

    def pick(self, index: Tensor) -> Scores:
        """One column: of every row the cell that ``index`` (B,) names. For scores of one piece; costs O(B D).

        >>> import torch, torchlosses as tl
        >>> tl.dot(torch.eye(2), torch.tensor([[1.0, 2.0], [3.0, 4.0]])).pick(torch.tensor([1, 0])).tensor()
        tensor([[3.],
                [2.]])
        """
        if len(self.pieces) != 1 or self.pieces[0].own_columns is not None or self.pieces[0].metric is not None:
            raise TypeError("pick: expected products, cosines or plain scores of one piece, no self-comparison")
        piece = self.pieces[0]
        place = torch.arange(piece.rows, device=index.device)
        steps = tuple(
            (op, f[0, index][:, None] if isinstance(f, Tensor) and f.dim() == 2 and f.shape[1] != 1 else f)
            for op, f in piece.steps
        )
        if piece.right is None:
            picked = replace(piece, left=piece.left[place, index][:, None], steps=steps)
        else:
            right = piece.right[place, index] if piece.private else piece.right[index]
            picked = replace(piece, right=right[:, None], private=True, steps=steps)
        return Scores([picked], self.leading)

    def truncate(self, dim: int) -> Scores:
        """The same comparison on the first ``dim`` features only (Matryoshka)."""

        def cut(piece: Piece) -> Piece:
            if piece.right is None:
                raise TypeError("truncate: expected scores made from features, got a plain matrix of scores")
            width = piece.left.shape[-1]
            if not 1 <= dim <= width:
                raise ValueError(f"dim: expected an integer in [1, {width}], got {dim}")
            return replace(piece, left=piece.left[..., :dim], right=piece.right[..., :dim])

        return Scores([cut(piece) for piece in self.pieces], self.leading)

    def tensor(self) -> Tensor:
        """The whole matrix, by ordinary autograd; a self-comparison's own cells are -inf."""
        plan = lower(self)
        with torch.autocast(self.device.type, enabled=False):
            scores, valid = plan.dense()
        if valid is not None:
            scores = scores.masked_fill(~valid, -torch.inf)
        return scores.reshape(self.shape)

    def softcap(self, cap: float) -> Scores:
        """``cap * tanh(s / cap)``: scores that stay between -cap and cap, as some language models make them.

        >>> import torch, torchlosses as tl
        >>> tl.linear(torch.ones(1, 1), torch.tensor([[1.0], [100.0]])).softcap(5.0).tensor()
        tensor([[0.9869, 5.0000]])
        """
        if isinstance(cap, bool) or not isinstance(cap, (int, float)) or not cap > 0:
            raise ValueError(f"cap: expected a number > 0, got {cap!r}")
        return Scores([piece.step("softcap", cap, 0, 0) for piece in self.pieces], self.leading)

    def minus_log(self) -> Scores:
        """``-log d`` of scores that are minus a distance d; a distance of 0 counts as the smallest number, with gradient 0.

        >>> import torch, torchlosses as tl
        >>> tl.euclidean(torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0]])).minus_log().tensor()
        tensor([[-1.6094]])
        """
        tiny = torch.finfo(working_dtype(self.dtype)).tiny
        return Scores([piece.step("minus_log", tiny, 0, 0) for piece in self.pieces], self.leading)

    def __repr__(self) -> str:
        forms = " | ".join(f"{piece.form} ({piece.rows}, {piece.columns})" for piece in self.pieces)
        return f"Scores({forms})"


def _index(index: Tensor, size: int, name: str) -> Tensor:
    if not isinstance(index, Tensor) or index.dim() != 1 or index.dtype.is_floating_point:
        raise TypeError(f"{name}: expected a 1-d tensor of indices or a boolean mask of length {size}")
    if index.dtype == torch.bool:
        if index.shape[0] != size:
            raise ValueError(f"{name}: expected a mask of length {size}, got {index.shape[0]}")
        return index.nonzero().squeeze(1)
    return index


def _features(name: str, value: object, dim: int = 2) -> Tensor:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {type(value).__name__}")
    if not value.dtype.is_floating_point:
        raise TypeError(f"{name}: expected a floating-point tensor, got {value.dtype}")
    if value.dim() < dim:
        raise ValueError(f"{name}: expected at least {dim} dimensions, got shape {tuple(value.shape)}")
    return value


def _compare(form: str, rows: Tensor, columns: Tensor | None, names: tuple[str, str]) -> Scores:
    left = _features(names[0], rows)
    leading = left.shape[:-1]
    left = left.flatten(0, -2)
    if columns is None:
        own = torch.arange(left.shape[0], device=left.device)
        return Scores([Piece(form, left, left, own_rows=own, own_columns=own)], leading)
    right = _features(names[1], columns)
    if right.dim() != 2 or right.shape[1] != left.shape[1]:
        raise ValueError(f"{names[1]}: expected shape (L, {left.shape[1]}) to match {names[0]}, got {tuple(right.shape)}")
    return Scores([Piece(form, left, right)], leading)


def linear(features: Tensor, weight: Tensor, bias: Tensor | None = None) -> Scores:
    """``features @ weight.T + bias``: a classifier or language-model head, never computed whole.

    Arguments:
        features: (..., D), floating point; all leading dimensions are rows.
        weight: (L, D), as torch.nn.Linear keeps it.
        bias: (L,) or None.

    >>> import torch, torchlosses as tl
    >>> tl.linear(torch.ones(2, 3), torch.ones(4, 3), torch.arange(4.0)).tensor()[0]
    tensor([3., 4., 5., 6.])
    """
    scores = _compare("dot", features, weight, ("features", "weight"))
    if bias is None:
        return scores
    if bias.dim() != 1 or bias.shape[0] != scores.columns_count:
        raise ValueError(f"bias: expected shape ({scores.columns_count},), got {tuple(bias.shape)}")
    return scores.plus(bias[None, :])


def dot(queries: Tensor, keys: Tensor | None = None) -> Scores:
    """Inner products of queries (..., D) with keys (L, D); without keys, of the queries among themselves.

    >>> import torch, torchlosses as tl
    >>> tl.dot(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]])).tensor()
    tensor([[11.]])
    """
    return _compare("dot", queries, keys, ("queries", "keys"))


def cosine(queries: Tensor, keys: Tensor | None = None) -> Scores:
    """Cosines in [-1, 1] of queries (..., D) with keys (L, D); without keys, of the queries among themselves.

    Operands are normalized inside (norms clamped at 1e-12). A self-comparison ignores its own cells.

    >>> import torch, torchlosses as tl
    >>> tl.cosine(torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 2.0]])).tensor()
    tensor([[0.8000]])
    """
    return _compare("cosine", queries, keys, ("queries", "keys"))


def euclidean(queries: Tensor, keys: Tensor | None = None) -> Scores:
    """Minus the Euclidean distance of queries (..., D) to keys (L, D): larger is closer. Gradient 0 at distance 0.

    >>> import torch, torchlosses as tl
    >>> tl.euclidean(torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0]])).tensor()
    tensor([[-5.]])
    """
    return _compare("euclidean", queries, keys, ("queries", "keys"))


def distance(
    queries: Tensor,
    keys: Tensor | None = None,
    metric: str = "euclidean",
    *,
    p: float = 1.5,
    eps: float = 0.0,
    precision: Tensor | None = None,
) -> Scores:
    r"""Minus a distance of queries (..., D) to keys (L, D): larger is closer. Gradient 0 at distance 0.

    Arguments:
        queries, keys: as :func:`cosine`; without keys, the queries among themselves.
        metric: with ``e`` = eps,
            'euclidean' :math:`\sqrt{|x-w|^2+e}`; 'mahalanobis' :math:`\sqrt{\sum_d(P_d+e)(x_d-w_d)^2+e}+e`;
            'cosine' :math:`1-\cos+e`; 'manhattan' :math:`\sum|x-w|+e`; 'chebyshev' :math:`\max|x-w|+e`;
            'minkowski' :math:`(\sum(|x-w|+e)^p+e)^{1/p}+e`; 'canberra' :math:`\sum|x-w|/(|x|+|w|)+e`;
            'bray_curtis' :math:`\sum|x-w|/(\sum(|x|+|w|)+e)+e`;
            'bray_curtis_signed', the same over :math:`\max(|\sum(x+w)|+e,10e)`.
        p: exponent of 'minkowski', >= 1.
        eps: keeps the distance away from 0, >= 0.
        precision: (D,) positive weights P of 'mahalanobis'; for a full one pass ``queries @ R``, ``keys @ R`` with
            ``R R^T`` the precision and 'euclidean'.

    A Hamming distance of codes in (0, 1) is 'manhattan' of the sigmoids of the operands.

    The first three are matrix products and never computed whole; the others take O(B L D) work tile by tile and hold
    their (B, L) distances once. From "Rethinking the Harmonic Loss via Non-Euclidean Distance Layers".

    >>> import torch, torchlosses as tl
    >>> tl.distance(torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0]]), "manhattan").tensor()
    tensor([[-7.]])
    """
    if metric not in METRICS:
        raise ValueError(f"metric: expected one of {', '.join(map(repr, METRICS))}, got {metric!r}")
    if not p >= 1:
        raise ValueError(f"p: expected a number >= 1, got {p!r}")
    if not 0 <= eps < float("inf"):
        raise ValueError(f"eps: expected a number >= 0, got {eps!r}")
    if precision is not None:
        if metric != "mahalanobis":
            raise ValueError(f"precision: expected with metric='mahalanobis' only, got metric={metric!r}")
        if precision.shape != queries.shape[-1:]:
            raise ValueError(f"precision: expected shape ({queries.shape[-1]},), got {tuple(precision.shape)}")
    if metric == "cosine":
        return cosine(queries, keys) - (1 + eps)
    if metric == "mahalanobis":
        root = (1 + eps) ** 0.5 if precision is None else (precision + eps).sqrt()
        queries, keys = queries * root, None if keys is None else keys * root
    products = metric in ("euclidean", "mahalanobis")
    scores = _compare("euclidean" if products else "elementwise", queries, keys, ("queries", "keys"))
    scores = Scores([replace(scores.pieces[0], metric=Metric(metric, float(p), float(eps)))], scores.leading)
    return scores - eps if metric == "mahalanobis" and eps else scores


def poincare(queries: Tensor, keys: Tensor | None = None) -> Scores:
    """Minus the hyperbolic distance in the Poincare ball (curvature -1); operands inside the unit ball.

    >>> import torch, torchlosses as tl
    >>> tl.poincare(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.5, 0.0]])).tensor()
    tensor([[-1.0986]])
    """
    return _compare("poincare", queries, keys, ("queries", "keys"))


def per_row(queries: Tensor, candidates: Tensor, form: str = "cosine") -> Scores:
    """Scores of each query (B, D) with its own candidates (B, K, D): ``form`` is cosine, dot or euclidean.

    >>> import torch, torchlosses as tl
    >>> tl.per_row(torch.ones(2, 3), torch.ones(2, 5, 3), form="dot").shape
    torch.Size([2, 5])
    """
    if form not in ("cosine", "dot", "euclidean"):
        raise ValueError(f"form: expected one of 'cosine', 'dot', 'euclidean', got {form!r}")
    left, right = _features("queries", queries), _features("candidates", candidates, 3)
    if left.dim() != 2 or right.dim() != 3 or right.shape[0] != left.shape[0] or right.shape[2] != left.shape[1]:
        raise ValueError(
            f"candidates: expected shape ({left.shape[0]}, K, {left.shape[-1]}) for queries {tuple(left.shape)}, "
            f"got {tuple(right.shape)}"
        )
    return Scores([Piece(form, left, right, private=True)])


def concat(*scores: Scores | Tensor) -> Scores:
    """Columns of several scores side by side; each piece may have its own row operand.

    >>> import torch, torchlosses as tl
    >>> q, d = torch.eye(2), torch.eye(2)
    >>> tl.concat(tl.dot(q, d), tl.dot(q)).tensor()
    tensor([[1., 0., -inf, 0.],
            [0., 1., 0., -inf]])
    """
    if not scores:
        raise ValueError("concat: expected at least one argument, got none")
    made = [as_scores(s) for s in scores]
    return Scores([piece for s in made for piece in s.pieces], made[0].leading)


def implicit_reward(policy: Tensor, reference: Tensor | None = None, beta: float | Tensor = 0.1) -> Scores:
    """``beta * (policy - reference)``: rewards implied by sequence log-probabilities (B, K); the reference is detached.

    ``beta`` may be a number or a tensor of shape (), (B, 1); ``reference=None`` means a reference-free reward.

    >>> import torch, torchlosses as tl
    >>> tl.implicit_reward(torch.tensor([[-1.0, -3.0]]), torch.tensor([[-2.0, -2.0]]), beta=0.5).tensor()
    tensor([[ 0.5000, -0.5000]])
    """
    policy = _features("policy", policy, 1)
    if reference is not None:
        reference = _features("reference", reference, 1)
        if reference.shape != policy.shape:
            raise ValueError(f"reference: expected shape {tuple(policy.shape)} as policy, got {tuple(reference.shape)}")
        policy = policy - reference.detach()
    return as_scores(policy.unsqueeze(-1) if policy.dim() == 1 else policy) * beta


def as_scores(scores: Scores | Tensor) -> Scores:
    """A plain tensor (..., L) as a recipe; recipes pass through."""
    if isinstance(scores, Scores):
        return scores
    if not isinstance(scores, Tensor):
        raise TypeError(f"scores: expected a tensor or a Scores recipe, got {type(scores).__name__}")
    if not scores.dtype.is_floating_point:
        raise TypeError(f"scores: expected a floating-point tensor, got {scores.dtype}")
    if scores.dim() < 2:
        raise ValueError(f"scores: expected at least 2 dimensions (rows, alternatives), got shape {tuple(scores.shape)}")
    return Scores(
        [Piece("tensor", scores.flatten(0, -2))],
        scores.shape[:-1],
    )
