"""Whole networks and whole trainings against PyTorch, where it is installed."""

import numpy as np
import pytest

import fastnn as fn

pytestmark = pytest.mark.oracle

TOLERANCE = {"float32": 1e-5, "float64": 1e-10}
DTYPES = ["float32", "float64"]


@pytest.fixture
def torch(oracle):
    """PyTorch computing its scalars, such as NAdam's momentum product, in float64 too."""
    module = oracle("torch")
    module.set_default_dtype(module.float64)
    yield module
    module.set_default_dtype(module.float32)


def data(dtype, n=40):
    rng = np.random.default_rng(0)
    return rng.standard_normal((n, 5)).astype(dtype), rng.integers(0, 3, n), rng.random(n).astype(dtype) + 0.1


def pair(torch, dtype, activation="tanh", norms=True):
    """The same network twice: Dense, BatchNorm, activation, residual block, LayerNorm, Dense."""
    layers = [fn.Dense(8), fn.BatchNorm(), fn.Activation(activation), fn.Residual([fn.Dense(8, "tanh"), fn.Dense(8)])]
    layers += [fn.LayerNorm(), fn.Dense(3)]
    if not norms:
        layers = [layer for layer in layers if not isinstance(layer, fn.BatchNorm | fn.LayerNorm)]
    net = fn.Sequential(layers, n_inputs=5, dtype=dtype)
    nn = torch.nn

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.inside = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8))

        def forward(self, x):
            return x + self.inside(x)

    function = {"tanh": nn.Tanh(), "relu": nn.ReLU(), "gelu": nn.GELU(), "silu": nn.SiLU()}[activation]
    parts = [nn.Linear(5, 8), nn.BatchNorm1d(8), function, Block(), nn.LayerNorm(8), nn.Linear(8, 3)]
    if not norms:
        parts = [part for part in parts if not isinstance(part, nn.BatchNorm1d | nn.LayerNorm)]
    model = nn.Sequential(*parts)
    model.to(getattr(torch, dtype))
    copy_to(torch, net, model)
    return net, model


def copy_to(torch, net, model):
    values = list(net.named_parameters().values())
    with torch.no_grad():
        for mine, theirs in zip(values, model.parameters(), strict=True):
            theirs.copy_(torch.tensor(mine.T.copy() if mine.ndim == 2 else mine))


def flat_gradients(model):
    return [p.grad.numpy().T if p.ndim == 2 else p.grad.numpy() for p in model.parameters()]


def assert_close(mine, theirs, tolerance):
    theirs = np.asarray(theirs)
    assert np.abs(np.asarray(mine) - theirs).max() <= tolerance * max(1.0, np.abs(theirs).max())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ["tanh", "relu", "gelu", "silu"])
@pytest.mark.parametrize("training", [False, True])
def test_values_gradients_and_input_gradients(torch, dtype, activation, training):
    net, model = pair(torch, dtype, activation)
    x, y, w = data(dtype)
    model.train(training)
    inputs = torch.tensor(x, requires_grad=True)
    outputs = model(inputs)
    rows = torch.nn.functional.cross_entropy(outputs, torch.tensor(y), reduction="none")
    loss = (rows * torch.tensor(w)).sum() / torch.tensor(w).sum()
    loss.backward()
    if not training:
        assert_close(net.predict(x), outputs.detach().numpy(), TOLERANCE[dtype])
    value, gradients = net.loss_and_gradients(x, y, "cross_entropy", w, training=training)
    assert value == pytest.approx(float(loss.detach()), rel=TOLERANCE[dtype])
    for mine, theirs in zip(gradients.values(), flat_gradients(model), strict=True):
        assert_close(mine, theirs, TOLERANCE[dtype])
    d_x = net.input_gradients(x, y, "cross_entropy", w, training=training)
    assert_close(d_x, inputs.grad.numpy(), TOLERANCE[dtype])


def test_jacobian_and_hessian_vector_product(torch):
    net, model = pair(torch, "float64")
    x, y, _ = data("float64", n=6)
    model.eval()
    jacobian = torch.autograd.functional.jacobian(lambda z: model(z).sum(dim=0), torch.tensor(x))
    assert_close(net.jacobian(x), jacobian.numpy().transpose(1, 0, 2), 1e-10)
    v = np.random.default_rng(1).standard_normal(net.n_parameters)
    model.train()
    loss = torch.nn.functional.cross_entropy(model(torch.tensor(x)), torch.tensor(y))
    gradients = torch.autograd.grad(loss, list(model.parameters()), create_graph=True)
    direction = fn.Sequential(net.layers, n_inputs=5, dtype="float64")
    direction.parameters[:] = v
    inner = sum(
        (g * torch.tensor(part.T.copy() if part.ndim == 2 else part)).sum()
        for g, part in zip(gradients, direction.named_parameters().values(), strict=True)
    )
    expected = torch.autograd.grad(inner, list(model.parameters()))
    expected = np.concatenate([(e.T if e.ndim == 2 else e).numpy().ravel() for e in expected])
    assert_close(net.hessian_vector_product(x, y, "cross_entropy", v, training=True), expected, 1e-10)


# fastnn's optimizer, PyTorch's name and keywords
OPTIMIZERS = {
    "sgd": (lambda lr, wd: fn.SGD(lr, weight_decay=wd), "SGD", {}),
    "momentum": (lambda lr, wd: fn.SGD(lr, momentum=0.9, weight_decay=wd), "SGD", {"momentum": 0.9}),
    "nesterov": (
        lambda lr, wd: fn.SGD(lr, momentum=0.9, nesterov=True, weight_decay=wd),
        "SGD",
        {"momentum": 0.9, "nesterov": True},
    ),
    "rmsprop": (lambda lr, wd: fn.RMSprop(lr, weight_decay=wd), "RMSprop", {}),
    "adagrad": (lambda lr, wd: fn.Adagrad(lr, weight_decay=wd), "Adagrad", {}),
    "adadelta": (lambda lr, wd: fn.Adadelta(lr, weight_decay=wd), "Adadelta", {}),
    "adam": (lambda lr, wd: fn.Adam(lr, weight_decay=wd), "Adam", {}),
    "amsgrad": (lambda lr, wd: fn.Adam(lr, amsgrad=True, weight_decay=wd), "Adam", {"amsgrad": True}),
    "adamw": (lambda lr, wd: fn.AdamW(lr, weight_decay=wd), "AdamW", {}),
    "nadam": (lambda lr, wd: fn.Nadam(lr, weight_decay=wd), "NAdam", {}),
    "radam": (lambda lr, wd: fn.RAdam(lr, weight_decay=wd), "RAdam", {}),
    "adamax": (lambda lr, wd: fn.Adamax(lr, weight_decay=wd), "Adamax", {}),
}


def clipped(optimizer, **clips):
    """The same optimizer with clipping."""
    return type(optimizer)(**{k: v for k, v in optimizer.get_config().items() if k != "name"} | clips)


def follow(torch, dtype, mine, name, keywords, rate, decay, norm=None, value=None):
    """100 full-batch steps in both; returns both parameter vectors and both loss curves.

    Without normalisation: the gradient of a bias before it is zero but for rounding, and adaptive optimizers divide
    that rounding by its own size.
    """
    net, model = pair(torch, dtype, norms=False)
    x, y, _ = data(dtype)
    given = keywords | ({"lr": rate(0), "weight_decay": decay} if name != "Rprop" else {"lr": rate(0)})
    theirs = getattr(torch.optim, name)(model.parameters(), **given)
    smooth = fn.losses.CrossEntropy(label_smoothing=0.1)  # its minimum lies at finite parameters
    history = net.fit(x, y, smooth, mine, epochs=100, batch_size=None, shuffle=False)
    curve = []
    for step in range(100):
        for group in theirs.param_groups:
            group["lr"] = rate(step)
        theirs.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(torch.tensor(x)), torch.tensor(y), label_smoothing=0.1)
        loss.backward()
        if value is not None:
            torch.nn.utils.clip_grad_value_(model.parameters(), value)
        if norm is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), norm)
        theirs.step()
        curve.append(float(loss.detach()))
    final = np.concatenate([(p.T if p.ndim == 2 else p).detach().numpy().ravel() for p in model.parameters()])
    return net.parameters, final, history.loss, curve


RATE = 0.002  # small enough that rounding does not grow into another trajectory
CASES = ["plain", "weight decay", "clip norm", "clip value", "schedule"]
# Rprop takes neither decay, clipping nor a schedule.
RUNS = [(optimizer, case) for optimizer in OPTIMIZERS for case in CASES] + [("rprop", "plain")]


@pytest.mark.parametrize("optimizer, case", RUNS)
def test_trajectories_of_a_hundred_steps(torch, optimizer, case):
    decay = 0.01 if case == "weight decay" else 0.0
    schedule = fn.schedules.Cosine(RATE, 100) if case == "schedule" else RATE
    rate = (lambda step: float(schedule(step))) if case == "schedule" else (lambda step: RATE)
    clips = {"clip norm": {"clip_norm": 0.2}, "clip value": {"clip_value": 0.02}}.get(case, {})
    if optimizer == "rprop":
        made, name, keywords = fn.Rprop(RATE), "Rprop", {}
    else:
        make, name, keywords = OPTIMIZERS[optimizer]
        made = clipped(make(schedule, decay), **clips) if clips else make(schedule, decay)
    limits = {"norm": clips.get("clip_norm"), "value": clips.get("clip_value")}
    mine, theirs, my_curve, their_curve = follow(torch, "float64", made, name, keywords, rate, decay, **limits)
    assert_close(mine, theirs, 1e-10)
    np.testing.assert_allclose(my_curve, their_curve, rtol=1e-10)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_trajectories_in_float32(torch, optimizer):
    make, name, keywords = OPTIMIZERS[optimizer]
    _, _, my_curve, their_curve = follow(torch, "float32", make(1e-3, 0.01), name, keywords, lambda step: 1e-3, 0.01)
    np.testing.assert_allclose(my_curve, their_curve, rtol=1e-5)


def test_running_statistics(torch):
    net, model = pair(torch, "float64")
    x, y, _ = data("float64")
    net.fit(x, y, "cross_entropy", fn.SGD(0.0), epochs=3, batch_size=None, shuffle=False)
    for _ in range(3):
        model(torch.tensor(x))
    assert_close(net.named_buffers()["1.running_mean"], model[1].running_mean.numpy(), 1e-10)
    assert_close(net.named_buffers()["1.running_var"], model[1].running_var.numpy(), 1e-10)
