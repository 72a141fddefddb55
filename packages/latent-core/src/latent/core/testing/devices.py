"""A second device where there is none: what meets tensors of two devices fails here as it would on a GPU.

Inside `other_device()` tensors can be moved to a device that keeps their values on the CPU, and computes there, but is
another device to everybody who asks. An operation on tensors of both devices is an error, as it is with CUDA; so are
drawing on one device with a generator of the other, and making an array of a tensor that was not brought back. Nothing
is said about speed, kernels or memory.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, ClassVar
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["assert_alike", "other_device"]

# A kind of device that torch knows, that is never built in, and that needs no library to be named.
_DEVICE = torch.device("lazy", 0)
_GENERATOR = torch.Generator


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

    def data_ptr(self) -> int:
        return self._content.data_ptr()

    def untyped_storage(self) -> torch.UntypedStorage:
        return self._content.untyped_storage()

    @property
    def data(self) -> Tensor:
        return self.detach()

    @data.setter
    def data(self, value: Tensor) -> None:
        torch.Tensor.data.__set__(self, value)  # type: ignore[attr-defined]  # a property of torch's
        self._content = value._content if isinstance(value, _Elsewhere) else value

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("A tensor of another device is no array: bring it back by cpu().")

    __array__ = numpy

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch's annotation leaves the operation out
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _call(func, args, kwargs or {})


class _AnyGenerator(type(torch.Generator)):  # type: ignore[misc]  # torch's own metaclass has no public name
    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, _GENERATOR)


class _Generator(torch.Generator, metaclass=_AnyGenerator):
    """Stands in for `torch.Generator`, of which there is none of the other device.

    Attributes:
        there: Those of the other device, by the address that they have in all objects of Python.
    """

    there: ClassVar[dict[int, torch.Generator]] = {}

    def __new__(cls, device: torch.device | str = "cpu") -> "_Generator":
        if not _is_there(torch.device(device)):
            return super().__new__(cls, device)  # type: ignore[call-arg]  # torch's annotation has it in __init__
        made = super().__new__(cls)
        cls.there[_address(made)] = made
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return _DEVICE if _is_there(self) else super().device


class _Mode(TorchDispatchMode):
    """Sends what is made on the other device, or comes from it, to `_call`."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        if any(map(_is_there, _leaves(args, *given.values()))):
            return _call(func, args, given)
        return func(*args, **given)


def _is_there(value: Any) -> bool:
    """Return whether something is a tensor or a generator of the other device, or the device itself."""
    if isinstance(value, torch.device):
        return value.type == _DEVICE.type
    return isinstance(value, _Elsewhere) or (isinstance(value, _GENERATOR) and _address(value) in _Generator.there)


def _address(generator: Any) -> int:
    return int(generator._cdata)


# Operations are given and return nothing else than lists and tuples: torch's own functions for trees take much longer.


def _leaves(*values: Any) -> Iterator[Any]:
    """Yield what is in lists and tuples."""
    for value in values:
        if isinstance(value, list | tuple):
            yield from _leaves(*value)
        else:
            yield value


def _mapped(change: Callable[[Any], Any], value: Any) -> Any:
    """Return lists and tuples with `change` made to what is in them."""
    if isinstance(value, list | tuple):
        return type(value)(_mapped(change, each) for each in value)
    return change(value)


def _inner(value: Any) -> Any:
    return value._content if isinstance(value, _Elsewhere) else value


def _outer(value: Any) -> Any:
    return _Elsewhere(value) if isinstance(value, Tensor) else value


def _call(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run an operation on the values, and put the results where they belong."""
    first = func._schema.arguments[0].alias_info if func._schema.arguments else None
    changes = first is not None and first.is_write
    there = _all_there(func.name(), args, kwargs, changes=changes)
    asked = kwargs.get("device")
    stays = there if asked is None else _is_there(torch.device(asked))
    random = kwargs.get("generator")
    if random is not None and _is_there(random) is not stays:
        raise RuntimeError(f"{func.name()} draws on {_DEVICE if stays else 'cpu'} with a generator of another device.")
    if asked is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    result = func(*_mapped(_inner, args), **{name: _mapped(_inner, value) for name, value in kwargs.items()})
    if there and torch.Tag.inplace_view in func.tags:  # such as squeeze_: what holds the values changes its shape too
        args[0].data = _Elsewhere(args[0]._content)
    if not func._schema.returns:
        return None
    if changes:
        return args[0]
    return _mapped(_outer, result) if stays else result


def _all_there(name: str, args: Any, kwargs: dict[str, Any], *, changes: bool) -> bool:
    """Return whether the tensors of an operation are on the other device; an error if some are and some are not."""
    kind = name.partition(".")[0]
    # Copies go between devices, and indices of the CPU are taken everywhere.
    if kind in ("aten::_to_copy", "aten::copy_"):
        args = args[:1]
    elif kind in ("aten::index", "aten::index_put_") and _is_there(args[0]):
        args = (args[0], *args[2:])
    tensors = [leaf for leaf in _leaves(args, *kwargs.values()) if isinstance(leaf, Tensor)]
    here = [tensor for tensor in tensors if not _is_there(tensor)]
    # So are numbers, unless they are to be changed or put beside each other.
    strangers = [x for x in here if x.ndim > 0 or kind == "aten::stack" or (changes and x is args[0])]
    if len(here) < len(tensors) and strangers:
        raise RuntimeError(f"{name} was given tensors on {_DEVICE} and on {strangers[0].device}.")
    return len(here) < len(tensors)


@contextlib.contextmanager
def other_device() -> Iterator[torch.device]:
    """Give a device to which tensors and modules can be moved in this context.

    Example:
        >>> with other_device() as device:
        ...     print((torch.ones(2, device=device) + 1).cpu())
        tensor([2., 2.])
    """
    lifts: bool = torch._C._only_lift_cpu_tensors()
    swaps = torch.__future__.get_swap_module_params_on_conversion()
    autocast, autocasts = torch.autocast, torch.is_autocast_enabled

    def known(device_type: str) -> str:
        return "cpu" if device_type == _DEVICE.type else device_type

    stand_ins: dict[str, Any] = {
        "Generator": _Generator,
        "autocast": lambda device_type, *args, **kwargs: autocast(known(device_type), *args, **kwargs),
        "is_autocast_enabled": lambda device_type="cuda": autocasts(known(device_type)),
    }
    fused = mock.patch("torch.optim.optimizer._get_fused_kernels_supported_devices", return_value=["cpu", _DEVICE.type])
    # Else torch.tensor(..., device=...) would make its tensor without asking the mode.
    torch._C._set_only_lift_cpu_tensors(True)  # noqa: FBT003
    # Else a parameter that is moved would be another object, and tied weights two.
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        with _Mode(), mock.patch.multiple(torch, **stand_ins), fused:
            yield _DEVICE
    finally:
        torch._C._set_only_lift_cpu_tensors(lifts)
        torch.__future__.set_swap_module_params_on_conversion(swaps)
        _Generator.there.clear()


def assert_alike(work: Callable[[torch.device], Any], *, rtol: float = 2e-3, atol: float = 1e-4) -> None:
    """Do something on the CPU and on the other device, and compare what it returns: texts, numbers and tensors.

    Args:
        work: Is given the device, where the tensors must be that it returns, in tuples, lists and dictionaries.
        rtol: Allowed difference of numbers, relative.
        atol: Allowed difference of numbers, absolute.

    Raises:
        AssertionError: The two differ, or a tensor is elsewhere.
    """
    found: list[list[Any]] = []
    for place in (contextlib.nullcontext(torch.device("cpu")), other_device()):
        with place as device:
            leaves = tree_leaves(work(device))
            tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
            if strays := [tensor for tensor in tensors if tensor.device != device]:
                raise AssertionError(f"{len(strays)} of {len(tensors)} results are not on {device}.")
            found.append([leaf.detach().cpu() if isinstance(leaf, Tensor) else leaf for leaf in leaves])
    for here, there in zip(*found, strict=True):
        if isinstance(here, Tensor | float):
            torch.testing.assert_close(there, here, rtol=rtol, atol=atol, equal_nan=True)
        elif here != there:
            raise AssertionError(f"On the CPU it is {here!r}, elsewhere {there!r}.")
