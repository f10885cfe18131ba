"""GPTQ (Frantar et al. 2022, arXiv:2210.17323): round input by input, and let the inputs that follow make good.

What is minimised is the squared error of the layer's outputs over calibration inputs X [T, I],

    tr((W - Q) H (W - Q)^T),   H = X^T X

With H^-1 = U^T U, U upper triangular, rounding input i with error e is best made good by -e U[i, j] / U[i, i] on
every later input j, and then costs e^2 / U[i, i]^2.
"""

from __future__ import annotations

import math

import torch

from ostro.compression.checks import require_finite
from ostro.compression.grid import to_codes, to_levels
from ostro.compression.rounding import SLICE, fit, relative_importance
from ostro.core.errors import CheckpointError
from ostro.kernels.packed_linear.layout import Codes, Scheme

# Where the Hessian is not positive definite, its damping is raised tenfold so many times.
RAISES = 4
LEAST_RAISED = 1e-2
LEAF = 256


def gptq(
    weight_OI: torch.Tensor,
    hessian_II: torch.Tensor,
    scheme: Scheme,
    *,
    name: str,
    damping: float = 0.01,
    block: int = 128,
    act_order: bool = False,
    order_I: torch.Tensor | None = None,
    search: bool = True,
) -> Codes:
    """weight [O, I] of any floating type, hessian [I, I] (X^T X, or any multiple of it) to codes.

    damping: what is added to the diagonal, in parts of its mean. block: inputs between two updates of the whole
    matrix; it changes the speed only. act_order: inputs in falling order of their mean square, groups cut in that
    order; order_I gives another order. The scales of a group are chosen when its first input is reached, from its
    weights as they then are. An input that was always 0 is rounded to nearest.

    Needs about one more matrix of the Hessian's size. Raises ConfigError where groups do not divide the inputs,
    CheckpointError for numbers that are NaN, infinite or too large, and where no damping helps.
    """
    inputs = weight_OI.shape[1]
    scheme.check(inputs, f"'{name}'")
    assert hessian_II.shape == (inputs, inputs)
    require_finite(weight_OI, name, "weights")
    require_finite(hessian_II, name, "calibration statistics")
    if act_order and order_I is None:
        order_I = hessian_II.diagonal().argsort(descending=True, stable=True)
    work_IO = weight_OI.detach().float().T.contiguous()
    hessian_II = hessian_II.float()
    if order_I is not None:
        chosen_I = order_I.long()
        work_IO, hessian_II = work_IO[chosen_I], hessian_II[chosen_I][:, chosen_I]
    elif work_IO.data_ptr() == weight_OI.data_ptr():
        work_IO = work_IO.clone()  # A single row transposes to itself.
    factor_II = inverse_factor(hessian_II, damping, name)
    codes_IO, scales_GO, shifts_GO = _round(work_IO, factor_II, scheme, block, name, search)
    return Codes(
        scheme,
        codes_IO.T.contiguous(),
        scales_GO.T.contiguous().half(),
        shifts_GO.T.contiguous().half() if scheme.shifted else None,
        None if order_I is None else order_I.to(torch.int32),
    )


def inverse_factor(hessian_II: torch.Tensor, damping: float, name: str) -> torch.Tensor:
    """The upper triangular U [I, I] with U^T U = (hessian + damping)^-1.

    It is the inverse of the upper triangular V with V V^T = hessian, and V is the Cholesky factor of the hessian
    with its rows and columns in reverse, reversed; so is its inverse. One factorisation and one triangular inverse
    suffice.
    """
    live_I = hessian_II.diagonal() > 0
    mean = float(hessian_II.diagonal()[live_I].mean()) if live_I.any() else 1.0
    raised = max(damping, LEAST_RAISED)
    dampings = (damping, *(raised * 10.0**step for step in range(1, RAISES + 1)))
    for tried in dampings:
        damped_II = hessian_II.flip(0, 1)
        damped_II.diagonal().masked_fill_(~live_I.flip(0), mean)
        damped_II.diagonal().add_(tried * mean)
        # Symmetric, so its transpose, in the order that LAPACK works in, is the same matrix: it becomes its factor.
        lower_II, info = damped_II.T, torch.empty((), dtype=torch.int32, device=damped_II.device)
        torch.linalg.cholesky_ex(lower_II, out=(lower_II, info))
        # What is not finite anywhere in a row makes its diagonal so.
        if not info and lower_II.diagonal().isfinite().all():
            invert_lower(lower_II)
            _reverse(lower_II)
            return lower_II
    raise CheckpointError(
        f"The calibration statistics of '{name}' are not positive definite, not even with {dampings[-1]:g} times "
        "their mean added to the diagonal. Give more calibration text, or round this layer to nearest."
    )


def invert_lower(lower_II: torch.Tensor) -> None:
    """A lower triangular matrix becomes its inverse, in place, a quarter of it in memory beside.

    The inverse of [[A, 0], [B, C]] is [[A^-1, 0], [-C^-1 B A^-1, C^-1]].
    """
    size = len(lower_II)
    if size <= LEAF:
        identity_II = torch.eye(size, device=lower_II.device)
        lower_II.copy_(torch.linalg.solve_triangular(lower_II, identity_II, upper=False))
        return
    half = size // 2
    first_II, last_II, below_II = lower_II[:half, :half], lower_II[half:, half:], lower_II[half:, :half]
    invert_lower(first_II)
    invert_lower(last_II)
    below_II.copy_(-(last_II @ below_II) @ first_II)


def _reverse(matrix_II: torch.Tensor) -> None:
    """Rows and columns in reverse, in place."""
    size = len(matrix_II)
    for start in range(0, size // 2, LEAF):
        stop = min(start + LEAF, size // 2)
        first = matrix_II[start:stop].flip(0, 1)
        matrix_II[start:stop] = matrix_II[size - stop : size - start].flip(0, 1)
        matrix_II[size - stop : size - start] = first
    if size % 2:
        matrix_II[size // 2] = matrix_II[size // 2].flip(0)


def _round(
    work_IO: torch.Tensor, factor_II: torch.Tensor, scheme: Scheme, block: int, name: str, search: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Overwrites the weights [I, O]; returns codes [I, O] uint8, scales and shifts [G, O] float32 as stored."""
    inputs, outputs = work_IO.shape
    groups = scheme.groups(inputs)
    size = inputs // groups
    width = _block_width(block, size)
    # What rounding an input costs, once all later inputs have made good what they can.
    importance_GS = relative_importance(factor_II.diagonal() ** -2.0, groups, name)
    codes_IO = torch.empty(inputs, outputs, dtype=torch.uint8, device=work_IO.device)
    scales_GO = work_IO.new_zeros(groups, outputs)
    shifts_GO = work_IO.new_zeros(groups, outputs)
    for start in range(0, inputs, width):
        stop = min(start + width, inputs)
        errors_BO = work_IO.new_empty(stop - start, outputs)
        for at in range(start, stop):
            group = at // size
            if at % size == 0:
                importance_1S = importance_GS[group : group + 1]
                _fit_group(work_IO[at : at + size], scheme, importance_1S, name, search, scales_GO, shifts_GO, group)
            shifts_O = shifts_GO[group] if scheme.shifted else None
            levels_O = to_levels(work_IO[at], scheme, scales_GO[group], shifts_O)
            codes_IO[at] = to_codes(levels_O, scheme)
            rounded_O = torch.addcmul(shifts_GO[group], levels_O, scales_GO[group])
            errors_BO[at - start] = (work_IO[at] - rounded_O) / factor_II[at, at]
            work_IO[at + 1 : stop].addr_(factor_II[at, at + 1 : stop], errors_BO[at - start], alpha=-1)
        work_IO[stop:].addmm_(factor_II[start:stop, stop:].T, errors_BO, alpha=-1)
    return codes_IO, scales_GO, shifts_GO


def _block_width(block: int, size: int) -> int:
    """Whole groups in a block, or whole blocks in a group: a group's weights are then up to date when it begins."""
    return block // size * size if size <= block else math.gcd(size, block)


def _fit_group(
    work_SO: torch.Tensor,
    scheme: Scheme,
    importance_1S: torch.Tensor,
    name: str,
    search: bool,
    scales_GO: torch.Tensor,
    shifts_GO: torch.Tensor,
    group: int,
) -> None:
    """Writes the scales and shifts of one group, for slices of the outputs."""
    step = max(1, SLICE // len(work_SO))
    for first in range(0, work_SO.shape[1], step):
        outputs = slice(first, first + step)
        values_N1S = work_SO[:, outputs].T.contiguous()[:, None]
        scales_N1, shifts_N1 = fit(values_N1S, scheme, importance_1S, name=name, search=search)
        scales_GO[group, outputs] = scales_N1[:, 0]
        if shifts_N1 is not None:
            shifts_GO[group, outputs] = shifts_N1[:, 0]
