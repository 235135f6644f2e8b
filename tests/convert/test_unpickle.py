"""Nothing that a file says is run: every way of asking for it, one by one."""

import io
import os
import pathlib
import pickle

import numpy as np
import pytest

from madad_jax.convert import containers, torch_file, unpickle
from madad_jax.core import errors
from tests.convert import torch_files as files


class Reduce:
    """What pickle writes for an object whose `__reduce__` returns this call."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def attacks(target):
    """{way: (pickle that would create `target`, the name that it asks for)}."""
    command = f"touch {target}"
    text, code = command.encode(), f"open({str(target)!r}, 'w').close()".encode()

    def unicode(data):
        return b"X" + len(data).to_bytes(4, "little") + data

    system, evaluate = b"cposix\nsystem\n", b"cbuiltins\neval\n"
    return {
        "reduce": (pickle.dumps(Reduce(os.system, command), 2), "posix.system"),
        "protocol 0": (pickle.dumps(Reduce(os.system, command), 0), "posix.system"),
        "stack global": (pickle.dumps(Reduce(os.system, command), 4), "posix.system"),
        "eval": (pickle.dumps(Reduce(eval, code.decode()), 2), "builtins.eval"),
        "exec, old name": (b"c__builtin__\nexec\n(" + unicode(code) + b"tR.", "builtins.exec"),
        "getattr": (
            b"cbuiltins\ngetattr\n(" + unicode(b"a") + unicode(b"b") + b"tR.",
            "builtins.getattr",
        ),
        "inst": (b"(" + unicode(text) + b"iposix\nsystem\n.", "posix.system"),
        "inst, other module": (b"(" + unicode(text) + b"imymodule\nrun\n.", "mymodule.run"),
        "obj": (b"(" + system + unicode(text) + b"o.", "posix.system"),
        "obj, other module": (b"(cmymodule\nrun\n" + unicode(text) + b"o.", "mymodule.run"),
        "newobj": (b"\x80\x02" + system + unicode(text) + b"\x85\x81.", "posix.system"),
        "newobj_ex": (
            b"\x80\x04" + evaluate + unicode(code) + b"\x85}\x92.",
            "builtins.eval",
        ),
        "setstate": (
            b"\x80\x02ctorch.nn\nModule\n)\x81}" + unicode(b"__setstate__") + system + b"s"
            b"b" + unicode(text) + b"b.",
            "posix.system",
        ),
        "nested pickle": (
            b"cpickle\nloads\n(" + b"C" + bytes([len(text)]) + text + b"tR.",
            "pickle.loads",
        ),
        "dotted": (
            b"\x80\x04"
            + unicode(b"torch.os")
            + unicode(b"system")
            + b"\x93"
            + unicode(text)
            + b"\x85R.",
            "torch.os.system",
        ),
        "dotted name": (
            b"\x80\x04"
            + unicode(b"torch")
            + unicode(b"os.system")
            + b"\x93"
            + unicode(text)
            + b"\x85R.",
            "torch.os.system",
        ),
        "numpy": (
            b"cnumpy.testing._private.utils\nrunstring\n(" + unicode(code) + b"}tR.",
            "numpy.testing._private.utils.runstring",
        ),
        "torch": (b"ctorch.hub\nload\n(" + unicode(text) + b"tR.", "torch.hub.load"),
        "result of a call": (
            b"ccollections\nOrderedDict\n)R(" + unicode(text) + b"tR.",
            "a dict",
        ),
        "inert object called": (
            b"\x80\x02cmymodule\nThing\n)\x81(" + unicode(text) + b"tR.",
            "a Inert",
        ),
        "by type": (
            b"ctorch._tensor\n_rebuild_from_type_v2\n(cposix\nsystem\n"
            + b"ctorch\nTensor\n"
            + unicode(text)
            + b"\x85}tR.",
            "posix.system",
        ),
        "extension registry": (b"\x80\x02\x82\x01)R.", "EXT1"),
    }


@pytest.mark.parametrize("way", sorted(attacks("x")))
@pytest.mark.parametrize("form", ["zip", "legacy", "inside a state dict"])
def test_malicious_pickles_are_refused_by_name(tmp_path, way, form):
    target = tmp_path / "created"
    payload, name = attacks(target)[way]
    if form == "zip":
        data = files.zip_bytes({}, data=payload)
    elif form == "legacy":
        data = payload  # a bare pickle is read as the beginning of a legacy file
    else:
        honest, _ = files.dump({"a": files.tensor(np.ones(3, np.float32))})
        data = files.zip_bytes(
            {"a": files.tensor(np.ones(3, np.float32))}, data=honest[:-1] + b"0" + payload
        )
    file = tmp_path / "weights.pt"
    file.write_bytes(data)
    with pytest.raises(errors.UserError) as caught:
        containers.load(file, "unet")
    assert not target.exists()
    if name != "EXT1":
        assert f"asks to run {name};" in str(caught.value)
    assert "\n" not in str(caught.value) and str(file) in str(caught.value)


def test_the_attacks_do_work_on_pythons_own_unpickler(tmp_path):
    """Else the test above would prove nothing."""
    working = 0
    for way, (payload, _) in attacks(tmp_path / "created").items():
        try:
            pickle.loads(payload)
        except Exception as error:
            assert way, error
        working += (tmp_path / "created").exists()
        (tmp_path / "created").unlink(missing_ok=True)
    assert working >= 8


def test_nothing_is_imported(tmp_path, monkeypatch):
    (tmp_path / "stranger.py").write_text(
        f"import pathlib; pathlib.Path({str(tmp_path / 'created')!r}).touch()\nclass Net: pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    tree = files.nested({"input_blocks.0.0.weight": np.ones(2, np.float32)})
    module = files.module(tree, kind="stranger.Net")
    file = tmp_path / "net.pt"
    file.write_bytes(files.zip_bytes(module))
    weights = containers.load(file, "unet")
    assert len(weights.state) == 1 and not (tmp_path / "created").exists()
    assert "stranger.Net" in weights.notes[0]


def load(data, calls=None, **limits):
    calls = torch_file._calls("f", 1000) | (calls or {})
    return unpickle.Machine("f", calls, **limits).load(io.BytesIO(data))


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_are_those_of_python(protocol):
    value = {
        "a": [1, -1, 255, 2**40, -(2**100), 1.5, float("inf"), "text", "ü", b"bytes", None],
        (1, "x"): {"set": {1, 2}, "frozen": frozenset({3}), "t": (), "tt": ((1,), (1, 2, 3, 4))},
        True: [[], {}, bytearray(b"x") if protocol == 5 else 0],
    }
    if protocol < 3:  # bytes are a call of an encoder there, which is not done
        value["a"][9] = ""
    assert load(pickle.dumps(value, protocol)) == value


def test_shared_values_stay_shared():
    inner = [1]
    got = load(pickle.dumps([inner, inner], 2))
    assert got[0] is got[1]


def test_namespace_keeps_its_attributes_and_nothing_else():
    data, _ = files.dump(files.Object("argparse.Namespace", model="UNet_L", lr=1e-4))
    got = load(data)
    assert isinstance(got, unpickle.Inert) and got.kind == "argparse.Namespace"
    assert got.get("model") == "UNet_L" and got.get("missing") is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"N",
        b".",
        b"(.",
        b"0.",
        b"2.",
        b"t.",
        b"\x85.",
        b"N\x86.",
        b"]Na",
        b"Na.",
        b"NNNs.",
        b"}(Nu.",
        b"g5\n.",
        b"h\x05.",
        b"R.",
        b")R.",
        b"N)R.",
        b"b.",
        b"NNb.",
        b"\x81.",
        b"NN\x81.",
        b"o.",
        b"(o.",
        b"(itorch\nx",
        b"Q.",
        b"Pid\n.",
        b"\x93.",
        b"NN\x93.",
        b"c\n\n.",
        b"\x91.",
        b"(]\x91.",
        b"\x8f(]\x90.",
        b"}]Ns.",
        b"}((tttNs.",
        b"\x97.",
        b"I9x\n.",
        b"X\xff\xff\xff\xffabc.",
        b"X\x02\x00\x00\x00\xff\xfe.",
        b"ccollections\nOrderedDict\n]Na\x85R.",
        b"ctorch\nSize\nN\x85R.",
        b"ctorch._utils\n_rebuild_tensor_v2\n)R.",
        b"ctorch._utils\n_rebuild_tensor_v2\nN(ttt\x87R.",
    ],
)
def test_broken_pickles_are_an_error_in_one_line(data):
    with pytest.raises(errors.UserError) as caught:
        load(data)
    assert str(caught.value).startswith("f: ") and "\n" not in str(caught.value)


def test_depth_and_doubling_do_not_exhaust_the_machine():
    assert load(b"(" + b"]" * 50_000 + b"a" * 49_999 + b"l.")  # 50,000 lists deep
    doubling = b"](K\x01K\x01e" + b"q\x00" + b"](h\x00h\x00eq\x00" * 500 + b"."
    assert len(load(doubling)) == 2
    # A dictionary key of tuples 200 deep would take 2**200 steps to hash.
    nest = b"K\x01K\x01\x86q\x000" + b"h\x00h\x00\x86q\x000" * 200 + b"h\x00"
    with pytest.raises(errors.UserError, match="key of type tuple"):
        load(b"}" + nest + b"Ns.")
    # One list, copied by a hundred thousand calls.
    pairs = b"](" + b"]K\x01aNa" * 1000 + b"eq\x00"
    calls = b"ccollections\nOrderedDict\nh\x00\x85R0" * 100_000
    with pytest.raises(errors.UserError, match="over and over"):
        load(pairs + calls + b"N.", max_copies=20_000)


def test_the_table_of_calls_holds_nothing_of_pythons_own():
    """Whatever is granted is a function of this package or a plain container builder."""
    for name, function in torch_file._calls("f", 1).items():
        assert function.__module__ == torch_file.__name__, name
    assert pathlib.Path(unpickle.__file__).read_text().count("import_module") == 0
