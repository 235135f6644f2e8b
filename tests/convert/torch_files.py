"""Writes files as `torch.save` does, without PyTorch and without any code of the converter."""

import io
import pickle
import struct
import zipfile
from collections import OrderedDict

import ml_dtypes
import numpy as np

STORAGE = {
    np.dtype("f8"): "DoubleStorage",
    np.dtype("f4"): "FloatStorage",
    np.dtype("f2"): "HalfStorage",
    np.dtype(ml_dtypes.bfloat16): "BFloat16Storage",
    np.dtype("i8"): "LongStorage",
    np.dtype("i4"): "IntStorage",
    np.dtype("i2"): "ShortStorage",
    np.dtype("i1"): "CharStorage",
    np.dtype("u1"): "ByteStorage",
    np.dtype("?"): "BoolStorage",
}


class Name:
    """A global of the file: written by its name, exists nowhere."""

    def __init__(self, dotted):
        self.module, self.name = dotted.rsplit(".", 1)

    def __call__(self):
        raise AssertionError("only its name is written")


class Call:
    """REDUCE of a name."""

    def __init__(self, name, *arguments):
        self.name, self.arguments = Name(name), arguments


class Object:
    """NEWOBJ of a class, then BUILD with its attributes."""

    def __init__(self, kind, **attributes):
        self.kind, self.attributes = Name(kind), attributes


class View:
    """A tensor over a storage: `array` is the flat storage, shared when it is the same object."""

    def __init__(self, array, offset, shape, strides, parameter=False):
        self.array, self.offset, self.shape, self.strides = array, offset, shape, strides
        self.parameter = parameter


def tensor(array, parameter=False):
    array = np.asarray(array)
    strides = tuple(int(s) // array.itemsize for s in np.empty(array.shape, array.dtype).strides)
    return View(array.reshape(-1), 0, array.shape, strides, parameter)


class Pickler(pickle._Pickler):
    """Keeps storages aside, in `storages`, by key."""

    def __init__(self, stream, protocol, legacy):
        super().__init__(stream, protocol)
        self.legacy, self.storages, self.keys = legacy, {}, {}

    def persistent_id(self, obj):
        if not isinstance(obj, np.ndarray):
            return None
        key = self.keys.setdefault(id(obj), str(len(self.keys)))
        self.storages[key] = obj
        kind = Name(f"torch.{STORAGE[obj.dtype]}")
        view = (None,) if self.legacy else ()
        return ("storage", kind, key, "cuda:0", obj.size, *view)

    def save(self, obj, save_persistent_id=True):
        if isinstance(obj, Name):
            self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())
        elif isinstance(obj, Call):
            self.save(obj.name)
            self.save(obj.arguments)
            self.write(pickle.REDUCE)
        elif isinstance(obj, Object):
            self.save(obj.kind)
            self.save(())
            self.write(pickle.NEWOBJ)
            self.save(obj.attributes)
            self.write(pickle.BUILD)
        elif isinstance(obj, View):
            rest = (obj.array, obj.offset, obj.shape, obj.strides, False, Call(ORDERED))
            built = Call("torch._utils._rebuild_tensor_v2", *rest)
            if obj.parameter:
                built = Call("torch._utils._rebuild_parameter", built, True, Call(ORDERED))
            self.save(built)
        elif isinstance(obj, OrderedDict):
            self.save(Call(ORDERED))
            self.write(pickle.MARK)
            for key, value in obj.items():
                self.save(key)
                self.save(value)
            self.write(pickle.SETITEMS)
        else:
            super().save(obj, save_persistent_id)


ORDERED = "collections.OrderedDict"


def dump(obj, protocol=2, legacy=False):
    """(pickle, {key: flat array})."""
    stream = io.BytesIO()
    pickler = Pickler(stream, protocol, legacy)
    pickler.dump(obj)
    return stream.getvalue(), pickler.storages


def zip_bytes(obj, protocol=2, byteorder="little", data=None):
    """The zip format; `data` replaces the pickle."""
    pickled, storages = dump(obj, protocol)
    entries = {"data.pkl": pickled if data is None else data, "byteorder": byteorder.encode()}
    for key, array in storages.items():
        swapped = array.byteswap() if byteorder == "big" else array
        entries[f"data/{key}"] = swapped.tobytes()
    entries["version"] = b"3\n"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in entries.items():
            archive.writestr(f"archive/{name}", content)
    return buffer.getvalue()


def legacy_bytes(obj):
    """The format before PyTorch 1.6."""
    pickled, storages = dump(obj, legacy=True)
    parts = [
        pickle.dumps(0x1950A86A20F9469CFC6C, 2),
        pickle.dumps(1001, 2),
        pickle.dumps({"protocol_version": 1001, "little_endian": True}, 2),
        pickled,
        pickle.dumps(sorted(storages), 2),
    ]
    for key in sorted(storages):
        parts.append(struct.pack("<q", storages[key].size) + storages[key].tobytes())
    return b"".join(parts)


def module(tree, kind="torch.nn.modules.container.Sequential", **attributes):
    """A pickled `nn.Module`: {name: array or nested dict} -> Object."""
    parameters = OrderedDict(
        (k, tensor(v, parameter=True)) for k, v in tree.items() if not isinstance(v, dict)
    )
    children = OrderedDict((k, module(v)) for k, v in tree.items() if isinstance(v, dict))
    return Object(
        kind,
        training=True,
        _parameters=parameters,
        _buffers=OrderedDict(),
        _non_persistent_buffers_set=Call("__builtin__.set", []),
        _backward_hooks=OrderedDict(),
        _modules=children,
        **attributes,
    )


def nested(state):
    """{"a.b.weight": array} -> {"a": {"b": {"weight": array}}}."""
    tree = {}
    for key, value in state.items():
        node = tree
        *parents, leaf = key.split(".")
        for part in parents:
            node = node.setdefault(part, {})
        node[leaf] = value
    return tree


def tensors(state):
    return OrderedDict((key, tensor(value)) for key, value in state.items())
