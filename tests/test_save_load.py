"""Files and pickles: what comes back is the same network, and damaged files are refused."""

import copy
import json
import pathlib
import pickle
import struct

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import fastnn as fn

RNG = np.random.default_rng(0)
X = RNG.standard_normal((40, 4))
LABELS = RNG.integers(0, 3, 40)


def own_initializer(shape, rng, dtype):
    return rng.standard_normal(shape)


LAYERS = {
    "dense": [fn.Dense(5, "tanh", l1=0.1, l2=0.2), fn.Dense(3, bias=False, bias_init="ones")],
    "activations with parameters": [
        fn.Dense(5, fn.activations.leaky_relu.with_parameters(negative_slope=0.3)),
        fn.Activation(fn.activations.elu.with_parameters(alpha=0.7)),
        fn.Dense(3),
        fn.Activation("softmax"),
    ],
    "dropout and norms": [
        fn.LayerNorm(1e-3), fn.Dense(5, "relu"), fn.Dropout(0.25), fn.BatchNorm(0.8, 1e-4), fn.Dense(3)
    ],
    "nested": [
        fn.Residual([fn.Dense(6, "relu"), fn.Residual([fn.BatchNorm(), fn.Dense(6, "gelu")]), fn.Dense(4)]),
        fn.Dense(3, "softmax"),
    ],
    "initializers": [
        fn.Dense(4, weight_init=fn.initializers.Normal(std=0.3), bias_init=fn.initializers.Constant(0.1)),
        fn.Dense(4, weight_init=own_initializer),
        fn.Dense(3, weight_init=np.arange(12.0).reshape(4, 3), bias_init=[1, 2, 3]),
    ],
}  # fmt: skip


def trained(layers, dtype="float32", epochs=2, **options):
    net = fn.Sequential(layers, n_inputs=4, seed=3, dtype=dtype)
    net.fit(X, LABELS, optimizer=fn.SGD(0.05), epochs=epochs, batch_size=8, **options)
    return net


def contents(path):
    """Tensors, metadata and specification of a file."""
    (size,) = struct.unpack("<Q", path.read_bytes()[:8])
    metadata = json.loads(path.read_bytes()[8 : 8 + size])["__metadata__"]
    return load_file(path), metadata, json.loads(metadata["network"])


def assert_same(one, two):
    assert two.dtype == one.dtype
    assert two.seed == one.seed
    assert repr(two) == repr(one)
    assert two.n_inputs == one.n_inputs
    np.testing.assert_array_equal(two.parameters, one.parameters)
    for name, buffer in one.named_buffers().items():
        np.testing.assert_array_equal(two.named_buffers()[name], buffer)
    np.testing.assert_array_equal(two.predict(X), one.predict(X))


def assert_trains_the_same(one, two):
    """A step count, shuffling, dropout and running statistics that go on where they were; SGD has no state."""
    for net in (one, two):
        net.fit(X, LABELS, optimizer=fn.SGD(0.05), epochs=2, batch_size=8)
    assert_same(one, two)
    assert one._epochs == two._epochs


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", LAYERS)
def test_round_trip_and_go_on(name, dtype, tmp_path):
    net = trained(LAYERS[name], dtype)
    net.save(tmp_path / "net.safetensors")
    loaded = fn.load(tmp_path / "net.safetensors")
    assert_same(net, loaded)
    if name != "initializers":  # a user's function is not kept
        assert loaded.layers == net.layers
    assert_trains_the_same(net, loaded)
    loaded.save(tmp_path / "again.safetensors")
    net.save(tmp_path / "net.safetensors")
    again, wanted = (contents(tmp_path / f"{name}.safetensors") for name in ("again", "net"))
    assert again[1] == wanted[1]
    for tensor in wanted[0]:
        np.testing.assert_array_equal(again[0][tensor], wanted[0][tensor])


def test_a_network_that_was_never_trained(tmp_path):
    net = fn.Sequential(LAYERS["dropout and norms"], n_inputs=4, seed=9)
    net.save(tmp_path / "net")
    assert_trains_the_same(net, fn.load(tmp_path / "net"))


def test_a_fresh_seed_is_kept(tmp_path):
    net = fn.Sequential(LAYERS["dropout and norms"], n_inputs=4, seed=None)
    net.save(tmp_path / "net")
    assert_trains_the_same(net, fn.load(tmp_path / "net"))


def test_paths(tmp_path):
    net = trained(LAYERS["dense"])
    for path in (str(tmp_path / "a"), tmp_path / "b", pathlib.PurePath(tmp_path, "c.safetensors")):
        net.save(path)
        assert_same(net, fn.load(path))
    net.save(tmp_path / "a")  # replaces
    with pytest.raises(OSError, match=r"path: cannot write .*no-folder"):
        net.save(tmp_path / "no-folder" / "net")
    with pytest.raises(OSError, match="path: cannot write"):
        net.save(tmp_path)


def test_every_tensor_is_written_as_it_reads(tmp_path):
    """safetensors writes the memory of an array, whatever its strides say."""
    net = trained(LAYERS["nested"])
    weight = np.arange(24.0, dtype="float32").reshape(6, 4)
    net.set_parameters({"0.0.weight": weight.T})
    net.set_parameters({"0.2.weight": np.asfortranarray(weight)})
    net.save(tmp_path / "net")
    tensors = load_file(tmp_path / "net")
    np.testing.assert_array_equal(tensors["0.0.weight"], weight.T)
    np.testing.assert_array_equal(tensors["0.2.weight"], weight)
    assert tensors.keys() == (net.named_parameters() | net.named_buffers()).keys()
    for name, view in (net.named_parameters() | net.named_buffers()).items():
        np.testing.assert_array_equal(tensors[name], view)
    np.testing.assert_array_equal(fn.load(tmp_path / "net").parameters, net.parameters)


def test_own_activation(tmp_path, monkeypatch):
    own = fn.Activation.from_functions("tests_saved_cube", lambda z: z * z * z, lambda z: 3 * z * z)
    net = trained([fn.Dense(5, own), fn.Dense(3)])
    net.save(tmp_path / "net")
    assert_same(net, fn.load(tmp_path / "net"))
    assert_same(net, net.copy())
    assert net.copy()._plan.activations[0].definition is own.definition  # and its machine code
    tensors, metadata, spec = contents(tmp_path / "net")
    spec["layers"][0]["activation"]["name"] = "tests_never_made"  # as in a process that has not made it
    save_file(tensors, tmp_path / "net", metadata | {"network": json.dumps(spec)})
    with pytest.raises(ValueError, match=r"path: .*got 'tests_never_made'.*from_functions before loading"):
        fn.load(tmp_path / "net")


class Diagonal(fn.initializers.Initializer):
    """A user's class without a name."""

    def draw(self, shape, rng):
        return np.eye(*shape)


def test_own_initializer_class(tmp_path):
    net = trained([fn.Dense(4, weight_init=Diagonal()), fn.Dense(3)])
    net.save(tmp_path / "net")
    loaded = fn.load(tmp_path / "net")
    assert_same(net, loaded)
    with pytest.raises(ValueError, match="function, which files do not keep"):
        fn.Sequential(loaded.layers, n_inputs=4)


class Own(fn.Dense):
    """A user's layer."""


def test_own_layers_cannot_be_saved(tmp_path):
    with pytest.raises(TypeError, match="Own cannot be saved: only Dense"):
        fn.Sequential([Own(3)], n_inputs=4).save(tmp_path / "net")
    assert not list(tmp_path.iterdir())


# -- bad files ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "net.safetensors"
    trained(LAYERS["dropout and norms"]).save(path)
    return path


def test_no_file(tmp_path):
    for path in (tmp_path / "nothing", tmp_path):
        with pytest.raises(FileNotFoundError, match="path: there is no file"):
            fn.load(path)


@pytest.mark.parametrize("keep", [0, 4, 8, 100, 0.5, 0.99])
def test_a_truncated_file(file, keep):
    whole = file.read_bytes()
    file.write_bytes(whole[: int(keep if keep > 1 else keep * len(whole))])
    with pytest.raises(ValueError, match=r"path: .*net\.safetensors' is not a safetensors file"):
        fn.load(file)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x00" * 100, b"\xff" * 100, b"PK\x03\x04" + b"\0" * 50])
def test_a_file_of_another_kind(file, content):
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"path: .* is not a safetensors file"):
        fn.load(file)


@pytest.mark.parametrize(
    "metadata", [None, {}, {"format": "pt"}, {"format": "fastnn"}, {"format": "fastnn", "version": "999"}]
)
def test_a_foreign_safetensors_file(file, metadata):
    save_file({"0.weight": np.ones((4, 3), "float32")}, file, metadata)
    with pytest.raises(ValueError, match=r"path: .* without a fastnn network of version 1"):
        fn.load(file)


def test_missing_unknown_and_wrong_tensors(file):
    tensors, metadata, _ = contents(file)

    def refused(changes, message):
        changed = {name: array for name, array in (tensors | changes).items() if array is not None}
        save_file(changed, file, metadata)
        with pytest.raises(ValueError, match=f"path: .*cannot be restored.*{message}"):
            fn.load(file)

    refused({"1.weight": None}, r"missing: \['1.weight'\]")
    refused({"3.running_var": None}, r"missing: \['3.running_var'\]")
    refused({"9.weight": np.ones(3, "float32")}, r"unknown: \['9.weight'\]")
    refused({"1.bias": np.ones(4, "float32")}, r"1.bias.*shape \(5,\), got \(4,\)")
    refused({"1.weight": tensors["1.weight"].T.copy()}, "1.weight.*shape")
    refused({"1.bias": tensors["1.bias"].astype("float64")}, "1.bias.*float32, got float64")
    refused({"1.bias": np.full(5, np.nan, "float32")}, "1.bias.*finite")


@pytest.mark.parametrize(
    "change",
    [
        lambda spec: spec.pop("layers"),
        lambda spec: spec.pop("seed"),
        lambda spec: spec.pop("shuffle"),
        lambda spec: spec.update(layers=[]),
        lambda spec: spec.update(layers=3),
        lambda spec: spec.update(layers=[3]),
        lambda spec: spec["layers"].pop(),
        lambda spec: spec["layers"][1].pop("type"),
        lambda spec: spec["layers"][1].update(type="Dens"),
        lambda spec: spec["layers"][1].update(type="__import__"),
        lambda spec: spec["layers"][1].update(units=-5),
        lambda spec: spec["layers"][1].update(units="5"),
        lambda spec: spec["layers"][1].update(other=1),
        lambda spec: spec["layers"][1].update(activation="relu"),
        lambda spec: spec["layers"][1]["activation"].update(name="reul"),
        lambda spec: spec["layers"][1]["activation"].update(parameters={"slope": 1}),
        lambda spec: spec["layers"][1].update(weight_init=3),
        lambda spec: spec["layers"][2].update(rate=1.5),
        lambda spec: spec.update(n_inputs=None),
        lambda spec: spec.update(n_inputs=3),
        lambda spec: spec.update(n_inputs="4"),
        lambda spec: spec.update(seed=-1),
        lambda spec: spec.update(dtype="float64"),
        lambda spec: spec.update(dtype="float16"),
        lambda spec: spec.update(steps=-1),
        lambda spec: spec.update(epochs="2"),
        lambda spec: spec.update(shuffle=3),
        lambda spec: spec.update(shuffle={"bit_generator": "MT19937"}),
        lambda spec: spec["shuffle"].update(state={"state": -1, "inc": 3}),
    ],
)
def test_tampered_metadata(file, change):
    tensors, metadata, spec = contents(file)
    change(spec)
    save_file(tensors, file, metadata | {"network": json.dumps(spec)})
    with pytest.raises(ValueError, match=r"path: the network in .*net\.safetensors' cannot be restored"):
        fn.load(file)


@pytest.mark.parametrize("network", ["", "{", "[]", "null", "3"])
def test_metadata_that_are_no_specification(file, network):
    tensors, metadata, _ = contents(file)
    save_file(tensors, file, metadata | {"network": network})
    with pytest.raises(ValueError, match=r"path: .* cannot be restored"):
        fn.load(file)


# -- pickles and copies ------------------------------------------------------------------------------------------------

COPIES = {
    "pickle": lambda net: pickle.loads(pickle.dumps(net)),
    "oldest pickle": lambda net: pickle.loads(pickle.dumps(net, protocol=2)),
    "deepcopy": copy.deepcopy,
    "copy()": lambda net: net.copy(),
}


@pytest.mark.parametrize("make", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize("name", LAYERS)
def test_copies_before_and_after_use(name, make):
    fresh = fn.Sequential(LAYERS[name], seed=3)
    made = make(fresh)
    assert made.n_inputs is None
    for net in (fresh, made):
        net.fit(X, LABELS, epochs=2, batch_size=8)
    assert_same(fresh, made)
    again = make(fresh)
    assert_same(fresh, again)
    assert not np.shares_memory(fresh.parameters, again.parameters)
    for net in (fresh, again):
        net.fit(X, LABELS, epochs=2, batch_size=8)  # the kept optimizer goes on with its moments
    assert_same(fresh, again)
    kept = again.parameters.copy()
    fresh.parameters[:] = 0
    np.testing.assert_array_equal(again.parameters, kept)


def test_arrays_that_come_back_read_only_are_copied():
    """As joblib's memory maps and out-of-band pickles do."""
    net = trained(LAYERS["dropout and norms"])
    buffers = []
    data = pickle.dumps(net, protocol=5, buffer_callback=buffers.append)
    made = pickle.loads(data, buffers=[bytes(buffer.raw()) for buffer in buffers])
    assert made.parameters.flags.writeable
    assert_trains_the_same(net, made)


def test_an_optimizer_that_comes_back_read_only_goes_on_with_a_copy():
    optimizer, net = fn.Adam(), fn.Sequential(LAYERS["dense"], n_inputs=4)
    net.fit(X, LABELS, optimizer=optimizer, epochs=1)
    buffers = []
    data = pickle.dumps((net, optimizer), protocol=5, buffer_callback=buffers.append)
    given = [bytes(buffer.raw()) for buffer in buffers]
    before = [bytes(bytearray(each)) for each in given]
    net_made, optimizer_made = pickle.loads(data, buffers=given)
    assert not optimizer_made.state.slots.flags.writeable
    for each, own in ((net, optimizer), (net_made, optimizer_made)):
        each.fit(X, LABELS, optimizer=own, epochs=2)
    assert_same(net, net_made)
    assert given == before


def test_optimizers_and_layers_pickle():
    optimizer = fn.Adam(fn.schedules.Cosine(0.1, steps=10), betas=(0.8, 0.9))
    net = fn.Sequential(LAYERS["dense"], n_inputs=4)
    net.fit(X, LABELS, optimizer=optimizer, epochs=1)
    made = pickle.loads(pickle.dumps(optimizer))
    assert made.get_config() == optimizer.get_config()
    np.testing.assert_array_equal(made.state.slots, optimizer.state.slots)
    for layers in LAYERS.values():
        assert pickle.loads(pickle.dumps(tuple(layers))) == tuple(layers)
