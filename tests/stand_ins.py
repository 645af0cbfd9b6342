"""Stand-ins for systems that are not at hand: a device without float64, as Apple's MPS, and the files of Windows."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from unittest import mock

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

CPU, DEVICE = torch.device("cpu"), torch.device("cpu", 0)  # torch computes on both alike, and tells them apart
# Not of tensors by themselves: what they give is where it was asked for, not where their inputs are.
LEAVING = {Tensor.cpu, Tensor.numpy, Tensor.__array__, Tensor.tolist, Tensor.item}


class WithoutFloat64(TorchFunctionMode):
    """
    While it is active, `cpu:0` is a device apart: tensors that are moved to it, made on it or computed from its
    tensors say that they are on it, refuse to become float64 or arrays, and leave it by `.cpu()` and `.to("cpu")`.
    What the backward pass makes by itself is not seen.
    """

    def __init__(self):
        super().__init__()
        self.storages: dict[int, StorageWeakRef] = {}  # held, so that no other storage gets the address of a dead one
        self.refused = 0

    def there(self, tensor: Tensor) -> bool:
        return tensor.layout is torch.strided and tensor.untyped_storage()._cdata in self.storages

    def put(self, tensor: Tensor):
        storage = tensor.untyped_storage()
        self.storages[storage._cdata] = StorageWeakRef(storage)

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        was_there = any(self.there(each) for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor))
        if function == Tensor.device.__get__:
            return DEVICE if was_there else function(*args)  # of a tensor without data, meta
        if was_there and function in (Tensor.numpy, Tensor.__array__):
            raise TypeError("can't convert device type tensor to numpy; use Tensor.cpu() first")
        asked = self.asked(function, args, kwargs)
        result = function(*args, **kwargs)
        goes_there = was_there if asked is None else asked
        outputs = [each for each in tree_leaves(result) if isinstance(each, Tensor) and each.layout is torch.strided]
        if asked is not None and asked != was_there and function in (Tensor.to, Tensor.cpu):
            # A copy, as between devices; what was moved keeps its own storage.
            result = result.clone()
            outputs = [result]
        if goes_there and function not in LEAVING:
            for output in outputs:
                if output.dtype in (torch.float64, torch.complex128):
                    self.refused += 1
                    raise TypeError(f"{function}: the device does not support float64. Please use float32 instead.")
                self.put(output)
        return result

    def asked(self, function, args, kwargs) -> bool | None:
        """Whether a call names the device (True), the CPU (False), or neither (None)."""
        if function == Tensor.cpu:
            return False
        named = [kwargs["device"]] if kwargs.get("device") is not None else []
        if function == Tensor.to:
            named += [each for each in args[1:] if isinstance(each, str | torch.device | Tensor)]
            named += [kwargs["other"]] if "other" in kwargs else []
        for each in named:
            if isinstance(each, Tensor):
                return self.there(each)
            device = torch.device(each)
            return device == DEVICE if device.type == "cpu" else None
        return None


class WindowsSystem:
    """`os` as `hwzoo.files` has it on Windows: no folder can be opened, what is flushed must be open for writing."""

    name = "nt"

    def __init__(self):
        self.flushed = 0

    def __getattr__(self, name):
        return getattr(os, name)

    def open(self, path, flags, *args, **kwargs):
        if os.path.isdir(path):
            raise PermissionError(13, "Permission denied", str(path))
        return os.open(path, flags, *args, **kwargs)

    def fsync(self, descriptor):
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(9, "Bad file descriptor")
        self.flushed += 1
        os.fsync(descriptor)


@contextlib.contextmanager
def files_as_on_windows() -> Iterator[WindowsSystem]:
    system = WindowsSystem()
    with mock.patch("hwzoo.files.os", system):
        yield system
