"""What the readers of others' formats share: stored tensors checked, and put together as `Codes`.

They all mean scale * (code - zero). Where every zero is the centre of the codes, that is a symmetric scheme; otherwise
the shift of a group is -scale * zero in float16, which moves its weights by at most 2^-11 |scale * zero|.

Letters of shapes: O outputs, I inputs, G groups a row.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch

from ostro.core.errors import CheckpointError, ConfigError
from ostro.kernels.packed_linear.layout import Codes, Scheme, centre

ReadTensor = Callable[[str], torch.Tensor | None]
FLOATS = (torch.float16, torch.bfloat16, torch.float32)
INTEGERS = (torch.int32, torch.int64)


def scheme_of(bits: object, group_size: object) -> Scheme:
    """The scheme, not shifted, that a config's numbers mean; a group size of -1 is a whole row."""
    if type(bits) is not int or type(group_size) is not int:
        raise ConfigError(
            f"quantization_config: bits and group size must be whole numbers, not {bits!r} and {group_size!r}.",
            param="quantization_config",
        )
    return Scheme(bits, 0 if group_size == -1 else group_size)


def count_groups(name: str, scheme: Scheme, inputs: int) -> int:
    """The groups of a row. Raises CheckpointError where they do not divide it."""
    if scheme.group_size and inputs % scheme.group_size:
        raise CheckpointError(
            f"'{name}' has {inputs} inputs, which the config's groups of {scheme.group_size} do not divide. The "
            "config is of another checkpoint, or the checkpoint is broken."
        )
    return scheme.groups(inputs)


def take(
    read_tensor: ReadTensor, name: str, dtypes: Sequence[torch.dtype], shape: tuple[int, ...] | None
) -> torch.Tensor:
    """A stored tensor that must be there, of one of these types and, unless that is None, of this shape."""
    found = read_tensor(name)
    if found is None:
        raise CheckpointError(f"The tensor '{name}' is missing; the checkpoint is incomplete. Download it again.")
    if found.dtype not in dtypes or (shape is not None and tuple(found.shape) != shape):
        wanted = " or ".join(_plain(dtype) for dtype in dtypes)
        of_shape = "" if shape is None else f"{list(shape)} of "
        raise CheckpointError(
            f"'{name}' is {list(found.shape)} of {_plain(found.dtype)}; the config asks for {of_shape}{wanted}. The "
            "config is of another checkpoint, or the checkpoint is broken."
        )
    return found


def take_scales(read_tensor: ReadTensor, name: str, shape: tuple[int, int]) -> torch.Tensor:
    """Scales as float16: others are rounded to it. Raises CheckpointError where one is not finite."""
    stored = take(read_tensor, name, FLOATS, shape)
    return check_finite(f"'{name}'", stored.half())


def check_finite(what: str, values: torch.Tensor) -> torch.Tensor:
    """Raises CheckpointError where a float16 value is none."""
    bad = int(values.numel() - values.isfinite().sum())
    if bad:
        raise CheckpointError(
            f"{what} holds {bad} of {values.numel()} values that are NaN, infinite or too large for float16; finite "
            "ones are expected. Take another quantised checkpoint, or quantise the model again."
        )
    return values


def check_bias(read_tensor: ReadTensor, name: str) -> None:
    """Raises CheckpointError for a bias that adds anything; some makers store zeros."""
    bias = read_tensor(name)
    if bias is not None and bool((bias != 0).any()):
        raise CheckpointError(
            f"'{name}' is a bias that is not zero; layers of this family have none. The checkpoint is of another "
            "architecture."
        )


def take_order(read_tensor: ReadTensor, name: str, inputs: int, groups: int, *, act_order: bool) -> torch.Tensor | None:
    """The columns sorted by the group that each input is in, [I] int32; None where they already are, or where no
    groups are stored. Raises CheckpointError where the groups are not all of one size.

    act_order: inputs were put into groups by activation, so groups must be stored, unless there is only one.
    """
    stored = read_tensor(name) is not None
    # All -1 is what compressed-tensors calls not initialised: no order.
    groups_I = take(read_tensor, name, INTEGERS, (inputs,)).long() if stored else torch.tensor([-1])
    if bool((groups_I == -1).all()):
        if act_order and groups > 1:
            raise CheckpointError(
                f"'{name}' {'holds only -1' if stored else 'is missing'}, but the config says that inputs were grouped "
                "by activation: only this tensor tells which group each of them is in. Download the checkpoint again, "
                "or take one that was quantised without activation order."
            )
        return None
    if int(groups_I.min()) < 0 or int(groups_I.max()) >= groups:
        raise CheckpointError(
            f"'{name}' puts inputs into the groups {int(groups_I.min())} to {int(groups_I.max())}; the config asks for "
            f"0 to {groups - 1}."
        )
    sizes_G = groups_I.bincount(minlength=groups)
    if bool((sizes_G != inputs // groups).any()):
        raise CheckpointError(
            f"'{name}' makes groups of {int(sizes_G.min())} to {int(sizes_G.max())} inputs; all must have "
            f"{inputs // groups}. The checkpoint is broken, or quantised in a way that is not supported."
        )
    if bool((groups_I[1:] >= groups_I[:-1]).all()):
        return None
    return groups_I.argsort(stable=True).to(torch.int32)


def assemble(
    name: str,
    scheme: Scheme,
    codes_OI: torch.Tensor,
    scales_OG: torch.Tensor,
    zeros_OG: torch.Tensor | None,
    order_I: torch.Tensor | None,
) -> Codes:
    """The matrix scale * (code - zero), its columns in the order given. zeros_OG: None where all are the centre."""
    scales_OG = scales_OG.contiguous()
    if zeros_OG is None or bool((zeros_OG == centre(scheme.bits)).all()):
        return Codes(scheme, codes_OI, scales_OG, None, order_I)
    shifts_OG = (-scales_OG.float() * zeros_OG.float()).half()
    check_finite(f"A scale times its zero point of '{name}'", shifts_OG)
    return Codes(dataclasses.replace(scheme, shifted=True), codes_OI, scales_OG, shifts_OG, order_I)


def _plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
