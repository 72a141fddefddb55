"""A second device where there is none: what meets tensors of two devices fails here as it would on a GPU.

Inside `other_device()` tensors can be moved to a device that keeps their values on the CPU, and computes there, but is
another device to everybody who asks. An operation on tensors of both devices is an error, as it is with CUDA; so is
making an array of a tensor that was not brought back. Nothing is said about speed, kernels or memory.
"""

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

__all__ = ["other_device"]

# A kind of device that torch knows, that is never built in, and that needs no library to be named.
_DEVICE = torch.device("lazy", 0)


class _Elsewhere(torch.Tensor):
    """A tensor of the other device."""

    _content: Tensor

    @staticmethod
    def __new__(cls: type["_Elsewhere"], content: Tensor) -> "_Elsewhere":
        made: _Elsewhere = torch.Tensor._make_wrapper_subclass(
            cls,
            content.shape,
            strides=content.stride(),
            storage_offset=content.storage_offset(),
            dtype=content.dtype,
            device=_DEVICE,
            requires_grad=content.requires_grad,
        )
        made._content = content
        return made

    def __repr__(self) -> str:  # type: ignore[override]
        return f"_Elsewhere({self._content})"

    def tolist(self) -> Any:
        return self._content.tolist()

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("A tensor of another device is no array: bring it back by cpu().")

    __array__ = numpy

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch's annotation leaves the operation out
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _call(func, args, kwargs or {})


class _Mode(TorchDispatchMode):
    """Sends what is made on the other device, or comes from it, to `_call`."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        made_there = given.get("device") is not None and torch.device(given["device"]).type == _DEVICE.type
        if made_there or any(isinstance(leaf, _Elsewhere) for leaf in tree_leaves((args, given))):
            return _call(func, args, given)
        return func(*args, **given)


def _call(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run an operation on the values, and put the results where they belong."""
    name = func.name()
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    there = [tensor for tensor in tensors if isinstance(tensor, _Elsewhere)]
    # Copies go between devices; numbers and indices of the CPU are taken everywhere.
    moves = name.partition(".")[0] in ("aten::_to_copy", "aten::copy_", "aten::index", "aten::index_put_")
    stranger = next((each for each in tensors if not isinstance(each, _Elsewhere) and each.ndim > 0), None)
    if there and stranger is not None and not moves:
        raise RuntimeError(f"{name} was given tensors on {_DEVICE} and on {stranger.device}.")
    asked = kwargs.get("device")
    stays = bool(there) if asked is None else torch.device(asked).type == _DEVICE.type
    if asked is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}

    def inner(value: Any) -> Any:
        return value._content if isinstance(value, _Elsewhere) else value

    result = func(*tree_map(inner, args), **tree_map(inner, kwargs))
    if not func._schema.returns:
        return None
    changed = func._schema.arguments[0].alias_info if func._schema.arguments else None
    if changed is not None and changed.is_write:
        return args[0]
    if not stays:
        return result
    return tree_map(lambda value: _Elsewhere(value) if isinstance(value, Tensor) else value, result)


@contextlib.contextmanager
def other_device() -> Iterator[torch.device]:
    """Give a device to which tensors and modules can be moved in this context.

    Example:
        >>> with other_device() as device:
        ...     print((torch.ones(2, device=device) + 1).cpu())
        tensor([2., 2.])
    """
    lifts: bool = torch._C._only_lift_cpu_tensors()
    plain = torch.autocast

    def autocast(device_type: str, *args: Any, **kwargs: Any) -> Any:
        return plain("cpu" if device_type == _DEVICE.type else device_type, *args, **kwargs)

    # Else torch.tensor(..., device=...) would make its tensor without asking the mode.
    torch._C._set_only_lift_cpu_tensors(True)  # noqa: FBT003
    try:
        with _Mode(), mock.patch.object(torch, "autocast", autocast):
            yield _DEVICE
    finally:
        torch._C._set_only_lift_cpu_tensors(lifts)
