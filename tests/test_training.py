"""What training adds to a backward pass: checkpoints, memory, gradient flow, the search for what is not finite."""

import gc
import tracemalloc

import numpy as np
import pytest
from common import DTYPES, KINDS, as_tuple, assert_close, equal, import_peer, random_case, state_of
from hypothesis import given, settings
from hypothesis import strategies as st
from test_properties import EXAMPLES, layers, lengths_of

import rnncore as rc
from rnncore import recurrent, runtime
from rnncore._kernels import driver


def trained(layer, case, checkpoint=0, n_threads=None, **options):
    """Everything that a forward and a backward pass return, and the tape."""
    lengths, rng = case.get("lengths"), case.get("rng")
    y, final, tape = layer.forward(
        case["x"], case["state"], lengths=lengths, checkpoint=checkpoint, rng=rng, n_threads=n_threads
    )
    dx, dstate, grads, *flow = layer.backward(tape, case["dy"], case["dstate"], n_threads=n_threads, **options)
    return (y, as_tuple(final), dx, as_tuple(dstate), grads, *[as_tuple(f) for f in flow]), tape


def by_blas(layer, case):
    """The same without the tape, from the other engine."""
    driver.use("blas")
    try:
        return trained(layer, case)[0]
    finally:
        driver.use(runtime.engine)


@settings(max_examples=EXAMPLES, deadline=None)
@given(layer=layers(), N=st.integers(0, 12), T=st.integers(0, 30), data=st.data())
@pytest.mark.parametrize("use", ["panels", "blas"])
def test_the_short_way_through_the_door_changes_no_bit(use, layer, N, T, data):
    """That of ordinary calls; `checkpoint` and `check_finite` go another."""
    case = random_case(layer, T, N)
    missing = data.draw(st.sets(st.sampled_from(["state", "dy", "dstate"])))
    case |= dict.fromkeys(missing)
    driver.use(use)
    try:
        short, tape = trained(layer, case, None)
        long, other = trained(layer, case, 0, check_finite=True)
    finally:
        driver.use(runtime.engine)
    assert equal(short, long) and tape.nbytes == other.nbytes


@pytest.mark.parametrize(("kind", "dtype", "H"), [(rc.LSTM, "f4", 1027), (rc.GRU, "f8", 730)])
@pytest.mark.parametrize(("N", "T"), [(1, 5), (7, 3), (300, 1)])
def test_weights_that_no_cache_holds(kind, dtype, H, N, T):
    """Gradients take such matrices in parts, and read columns of rows that are far apart side by side."""
    layer = kind(70, H, dtype=dtype, rng=0)
    case = random_case(layer, T, N)
    panels, _ = trained(layer, case)
    assert equal(trained(layer, case, n_threads=3)[0], panels)
    assert_close(panels, by_blas(layer, case), layer.dtype.name, "backward")


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (rc.RNN, {"reverse": True}),
        (rc.LSTM, {"num_layers": 2, "bidirectional": True}),
        (rc.LSTM, {"proj_size": 267}),
        (rc.GRU, {"reverse": True}),
        (rc.GRU, {"reset_after": False}),
    ],
)
def test_wide_layers(kind, options, dtype, ragged):
    """Gradients copy weights to strips, and rows of x and h before they read them; a part of few steps does not."""
    T, N = 19, 8
    layer = kind(261, 293, dtype=dtype, rng=0, **options)
    case = random_case(layer, T, N, lengths=np.array([19, 3, 19, 0, 17, 18, 12, 19]) if ragged else None)
    panels, _ = trained(layer, case)
    for n_threads in (2, 3, 5):
        assert equal(trained(layer, case, n_threads=n_threads)[0], panels)
    assert equal(trained(layer, case, checkpoint=3)[0], panels)
    assert_close(panels, by_blas(layer, case), layer.dtype.name, "backward")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("kind", "options"),
    [(rc.RNN, {}), (rc.LSTM, {}), (rc.LSTM, {"proj_size": 71}), (rc.GRU, {}), (rc.GRU, {"reset_after": False})],
)
@pytest.mark.parametrize("N", [1, 5])
def test_long_sequences(N, kind, options, dtype):
    """From so many steps on W_hh is in strips; W_ih is where there are rows enough. Of five rows a part of 16 steps has
    neither; of one a part is all."""
    layer = kind(75, 77, dtype=dtype, rng=0, **options)
    case = random_case(layer, 60, N)
    panels, _ = trained(layer, case)
    assert equal(trained(layer, case, n_threads=2)[0], panels)
    assert equal(trained(layer, case, checkpoint=16)[0], panels)
    assert_close(panels, by_blas(layer, case), layer.dtype.name, "backward")


# --- checkpoints ------------------------------------------------------------------------------------------------------


@settings(max_examples=EXAMPLES, deadline=None)
@given(layer=layers(), N=st.integers(0, 70), T=st.integers(0, 40), k=st.integers(1, 50), data=st.data())
@pytest.mark.parametrize("use", ["panels", "blas"])
def test_checkpoints_change_no_bit(use, layer, N, T, k, data):
    lengths = data.draw(lengths_of(N, T))
    case = random_case(layer, T, N, lengths=lengths)
    driver.use(use)
    try:
        full, _ = trained(layer, case, 0, flow=True)
        part, _ = trained(layer, case, k, n_threads=data.draw(st.sampled_from([1, 2, 3])), flow=True)
    finally:
        driver.use(runtime.engine)
    assert equal(part, full)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("lengths", [None, np.arange(50) * 7 % 41])
def test_checkpoints_draw_the_same_dropout_mask(bidirectional, lengths):
    layer = rc.LSTM(3, 5, num_layers=3, dropout=0.4, bidirectional=bidirectional, rng=0)
    case = random_case(layer, 40, 50, lengths=lengths) | {"rng": 1}
    full, _ = trained(layer, case)
    for k in (1, 9, 40):
        assert equal(trained(layer, case, k)[0], full)
    assert not equal(trained(layer, case | {"rng": 2}, 9)[0], full)


@pytest.mark.parametrize("options", [{}, {"bidirectional": True}])
def test_checkpoints_with_batch_first_and_without_a_batch(options):
    layer = rc.GRU(3, 5, num_layers=2, rng=0, **options)
    other = rc.GRU(3, 5, num_layers=2, batch_first=True, **options)
    other.load_state_dict(layer.state_dict())
    case = random_case(layer, 30, 50)
    full, _ = trained(layer, case)
    turned = {name: case[name].swapaxes(0, 1).copy() for name in ("x", "dy")}
    for lengths in (None, np.full(50, 30)):
        part, tape = trained(other, case | turned | {"lengths": lengths}, 7)
        assert equal((part[0].swapaxes(0, 1), part[1], part[2].swapaxes(0, 1), *part[3:]), full)
    assert np.shares_memory(tape._kept[5][0], turned["x"]) or options  # x is referred to
    one = random_case(layer, 600, 1)
    one |= {name: one[name][:, 0] for name in ("x", "dy", "state", "dstate")}
    assert equal(trained(layer, one, 200)[0], trained(layer, one)[0])


def test_where_checkpoints_set_in(monkeypatch):
    layer = rc.LSTM(4, 8, rng=0)
    case = random_case(layer, 3000, 1)
    full, tape = trained(layer, case, 0)
    assert trained(layer, case, None)[1].nbytes == tape.nbytes  # small enough to keep
    elements = (3001 * 2 + 3000 * 4) * 8
    for most, sparse in ((elements - 8 * 2 - 1, True), (elements - 8 * 2, False)):
        monkeypatch.setattr(recurrent, "CHECKPOINT_FROM", most)
        results, chosen = trained(layer, case, None)
        assert equal(results, full)
        assert (chosen.nbytes < tape.nbytes / 4) == sparse
    assert trained(layer, case, 0)[1].nbytes == tape.nbytes  # whatever its size


@pytest.mark.parametrize("bad", [-1, 1.5, "3", True, [1]])
def test_checkpoints_that_are_none(bad):
    for layer in (rc.LSTM(3, 5), rc.JordanRNN(3, 5, 2)):
        with pytest.raises((TypeError, ValueError), match="expected checkpoint"):
            layer.forward(np.ones((7, 2, 3)), checkpoint=bad)


def test_a_checkpointed_tape_is_a_tape():
    """It may be used several times, belongs to its layer, and is refused after a change."""
    layer = rc.RNN(3, 5, rng=0)
    x, dy = np.random.default_rng(0).standard_normal((2, 300, 4, 5))
    y, _, tape = layer.forward(x[..., :3], checkpoint=64)
    assert equal(layer.backward(tape, dy), layer.backward(tape, dy))
    with pytest.raises(ValueError, match="of another module"):
        rc.RNN(3, 5).backward(tape, dy)
    with layer.editing() as params:
        params["bias_ih_l0"] += 1
    with pytest.raises(ValueError, match="from before they changed"):
        layer.backward(tape, dy)
    state = np.ones((1, 4, 5), np.float32)
    y, _, tape = layer.forward(x[..., :3], state, checkpoint=64)
    before = layer.backward(tape, dy)
    state[:] = 0  # the caller's
    y[:] = 0
    assert equal(layer.backward(tape, dy), before)


@pytest.mark.parametrize("checkpoint", [None, 3])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("lengths", [None, [7, 0, 4]])
def test_other_gradients_need_none_of_the_input(lengths, num_layers, bidirectional, checkpoint):
    layer = rc.LSTM(2, 3, num_layers, bidirectional=bidirectional, dtype="float64", rng=0)
    rng = np.random.default_rng(1)
    x = rng.standard_normal((7, 3, 2))
    y, state, tape = layer.forward(x, lengths=lengths, checkpoint=checkpoint)
    dy, dstate = rng.standard_normal(y.shape), tuple(rng.standard_normal(s.shape) for s in state)
    dx, dinitial, grads = layer.backward(tape, dy, dstate)
    none, *others = layer._back(layer._weights, tape.open(layer), dy, dstate, None, False, False, 1, of_x=False)
    assert none is None and dx.any() and all(grad.any() for grad in grads.values())
    assert all(state.any() for state in dinitial)
    assert equal(others[0], dinitial) and set(others[1]) == set(grads) and equal(others[1], grads)


# --- memory -----------------------------------------------------------------------------------------------------------


def peak(run):
    """What `run` returns, and the most memory that arrays took meanwhile beyond what there was."""
    gc.collect()
    tracemalloc.start()
    results = run()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return results, most


@pytest.mark.parametrize("checkpoint", [1024, None])
def test_a_hundred_thousand_steps(checkpoint):
    """32 MB are enough, beyond x, y, dy and dx, and the parameters with what is packed of them."""
    T, H = 100_000, 256
    layer = rc.RNN(H, H, nonlinearity="relu", rng=0)
    x = np.zeros((T, 1, H), np.float32)
    x[::1000] = 1
    layer(x[:1])
    (y, _, tape), most = peak(lambda: layer.forward(x, checkpoint=checkpoint))
    assert most < y.nbytes + 32e6
    assert tape.nbytes < x.nbytes + 2e6
    (dx, _, grads), most = peak(lambda: layer.backward(tape, y))
    assert most < dx.nbytes + 32e6
    assert np.abs(grads["weight_hh_l0"]).max() > 0


@pytest.mark.parametrize("batch_first", [False, True])
def test_a_ragged_batch_is_nowhere_copied(batch_first):
    """Beyond results and what the tape owns, a pass takes a block's memory, not a sequence's."""
    T, N, I = 2000, 8, 64
    layer = rc.LSTM(I, 8, batch_first=batch_first, rng=0)
    x = np.ones((N, T, I) if batch_first else (T, N, I), np.float32)
    lengths = np.arange(T, T // 4, -200)[:N]
    layer.forward(x, lengths=lengths)
    (y, _, tape), most = peak(lambda: layer.forward(x, lengths=lengths))
    assert most < tape.nbytes - x.nbytes + y.nbytes + 8 * T + 100_000
    (dx, _, _), most = peak(lambda: layer.backward(tape, y))
    assert dx.nbytes == x.nbytes and most < dx.nbytes + 300_000


def test_an_lstm_of_many_steps_and_layers_needs_little():
    T, H = 20_000, 64
    layer = rc.LSTM(H, H, num_layers=3, rng=0)
    x = np.random.default_rng(0).standard_normal((T, 1, H)).astype(np.float32)
    layer(x[:1])
    (y, _, tape), most = peak(lambda: layer.forward(x, checkpoint=256))
    assert most < y.nbytes + 4e6
    (dx, _, grads), most = peak(lambda: layer.backward(tape, y))
    assert most < dx.nbytes + 8e6
    whole = layer.backward(layer.forward(x, checkpoint=0)[2], y)
    assert np.any(dx) and equal((dx, grads), (whole[0], whole[2]))


def elements_kept(kind, options, T, N, rows, H, D, L):
    """The formula of `forward`'s docstring."""
    P = options.get("proj_size") or H
    gates = {"RNN": 0, "LSTM": 4, "GRU": 4 if options.get("reset_after", True) else 3}[kind]
    one = (N + rows) * (P + (H if kind == "LSTM" else 0)) + rows * gates * H
    one += rows * H * bool(options.get("proj_size") or not options.get("reset_after", True))
    return L * D * one + (L - 1) * rows * D * P


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind,options", KINDS)
@pytest.mark.parametrize("D", [1, 2])
def test_the_size_of_a_tape(kind, options, D, dtype):
    T, N, I, H, L = 11, 6, 7, 5, 2
    layer = getattr(rc, kind)(I, H, num_layers=L, bidirectional=D == 2, dtype=dtype, rng=0, **options)
    x = np.zeros((T, N, I), dtype)
    size = x.itemsize
    layer.forward(x)
    (y, final, tape), most = peak(lambda: layer.forward(x))
    kept = elements_kept(kind, options, T, N, T * N, H, D, L)
    assert tape.nbytes == x.nbytes + kept * size
    given = y.nbytes + sum(s.nbytes for s in as_tuple(final))
    assert kept * size <= most - given < kept * size + 30_000  # beside zeros for the initial state, and small objects
    ragged = layer.forward(x, lengths=[0, 11, 3, 5, 2, 1])[2]
    assert ragged.nbytes == x.nbytes + elements_kept(kind, options, T, N, 22, H, D, L) * size


# --- gradient flow ----------------------------------------------------------------------------------------------------


def torch_flow(kind, layer, case):
    """Norms of dL/dh_t and dL/dc_t, of one layer, by PyTorch's autograd over a loop of steps."""
    torch = import_peer("torch")
    options = {"nonlinearity": "relu"} if kind == "RNN" else {}
    cell = getattr(torch.nn, f"{kind}Cell")(layer.input_size, layer.hidden_size, dtype=torch.float64, **options)
    cell.load_state_dict({name[:-3]: torch.tensor(array) for name, array in layer.state_dict().items()})
    x, dy = torch.tensor(case["x"]), torch.tensor(case["dy"])
    state = [torch.tensor(s[0]) for s in as_tuple(case["state"])]
    loss, states = 0, []
    for x_t, dy_t in zip(x, dy, strict=True):
        new = cell(x_t, tuple(state) if len(state) > 1 else state[0])
        state = list(new) if len(state) > 1 else [new]
        for s in state:
            s.retain_grad()
        states.append(state)
        loss = loss + (state[0] * dy_t).sum()
    for s, d in zip(state, as_tuple(case["dstate"]), strict=True):
        loss = loss + (s * torch.tensor(d[0])).sum()
    loss.backward()
    return [np.array([[float(step[k].grad.norm()) for step in states]]) for k in range(len(state))]


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_flow_is_autograds(kind, engine):
    layer = getattr(rc, kind)(3, 19, rng=0, dtype="float64", **({"nonlinearity": "relu"} if kind == "RNN" else {}))
    case = random_case(layer, 70, 5)
    _, _, tape = layer.forward(case["x"], case["state"])
    *_, flow = layer.backward(tape, case["dy"], case["dstate"], flow=True)
    for ours, theirs in zip(as_tuple(flow), torch_flow(kind, layer, case), strict=True):
        assert ours.dtype == np.float64
        assert_close(ours, theirs, "float64", "backward")


@settings(max_examples=EXAMPLES, deadline=None)
@given(layer=layers(("forward",)), N=st.integers(1, 5), T=st.integers(1, 30), data=st.data())
def test_flow_is_the_gradient_of_a_state_in_the_middle(layer, N, T, data):
    """Through the later steps and through its own output; of all layers, and in any cut of time."""
    case, t = random_case(layer, T, N), data.draw(st.integers(1, T))
    whole, _ = trained(layer, case, flow=True)
    _, state, _ = layer.forward(case["x"][:t], case["state"])
    later = {"x": case["x"][t:], "dy": case["dy"][t:], "state": state, "dstate": case["dstate"]}
    dh = as_tuple(trained(layer, later)[0][3])[0].astype(float)
    top = dh[-1] if dh.ndim == 3 else dh
    top += case["dy"][t - 1]
    flow = whole[5][0][-1:, t - 1].astype(layer.dtype)
    assert_close(flow, np.linalg.norm(top, keepdims=True)[0].astype(layer.dtype), layer.dtype.name, "backward")


@pytest.mark.parametrize("lengths", [None, [9, 0, 4, 9]])
@pytest.mark.parametrize("kind,options", KINDS)
def test_flow_of_stacks_is_that_of_their_layers(kind, options, lengths):
    """Each layer and direction for itself, with the gradient that the layer above leaves."""
    T, N, H = 9, 4, 8
    layer = getattr(rc, kind)(3, H, num_layers=2, bidirectional=True, rng=0, dtype="float64", **options)
    case = random_case(layer, T, N, lengths=lengths)
    given = case.get("lengths")
    _, _, tape = layer.forward(case["x"], case["state"], lengths=given)
    *_, flow = layer.backward(tape, case["dy"], case["dstate"], flow=True)
    assert all(f.shape == (4, T) for f in as_tuple(flow))
    x, P = case["x"], options.get("proj_size") or H
    singles = []
    for k in range(2):
        halves = []
        for d in range(2):
            one = getattr(rc, kind)(x.shape[2], H, reverse=d == 1, dtype="float64", **options)
            suffix = f"_l{k}" + "_reverse" * d
            names = {name: name.removesuffix("_l0") + suffix for name in one.parameters()}
            one.load_state_dict({name: layer.parameters()[long] for name, long in names.items()})
            state = state_of(one, [s[[2 * k + d]] for s in as_tuple(case["state"])])
            halves.append((one, *one.forward(x, state, lengths=given)))
        singles.append(halves)
        x = np.concatenate([half[1] for half in halves], -1)
    dy = case["dy"]
    for k in (1, 0):
        dx = 0
        for d, (one, _, _, tape) in enumerate(singles[k]):
            dstate = state_of(one, [s[[2 * k + d]] for s in as_tuple(case["dstate"])])
            part, _, _, alone = one.backward(tape, dy[..., d * P : (d + 1) * P], dstate, flow=True)
            for ours, theirs in zip(as_tuple(flow), as_tuple(alone), strict=True):
                assert_close(ours[2 * k + d], theirs[0], "float64", "backward")
            dx = dx + part
        dy = dx


@settings(max_examples=EXAMPLES, deadline=None)
@given(layer=layers(), N=st.integers(0, 40), T=st.integers(0, 40), n_threads=st.integers(2, 5), data=st.data())
def test_flow_changes_nothing_and_depends_on_no_thread(layer, N, T, n_threads, data):
    case = random_case(layer, T, N, lengths=data.draw(lengths_of(N, T)))
    plain, _ = trained(layer, case)
    one, _ = trained(layer, case, n_threads=1, flow=True)
    many, _ = trained(layer, case, n_threads=n_threads, flow=True, check_finite=True)
    assert equal(one[:5], plain)
    assert equal(many, one)


def test_flow_of_a_taught_jordan_network():
    layer = rc.JordanRNN(3, 5, 2, rng=0)
    case = random_case(layer, 7, 4, lengths=[7, 0, 3, 5])
    _, _, tape = layer.forward(case["x"], lengths=case["lengths"], targets=case["dy"])
    *_, flow = layer.backward(tape, case["dy"], flow=True)
    valid = np.arange(7)[:, None] < case["lengths"]
    assert np.allclose(flow[0], np.linalg.norm(case["dy"] * valid[..., None], axis=(1, 2)))


# --- what is not finite -----------------------------------------------------------------------------------------------


def test_what_is_finite_passes():
    layer = rc.LSTM(3, 5, num_layers=2, rng=0)
    case = random_case(layer, 7, 2)
    assert equal(trained(layer, case, check_finite=True)[0], trained(layer, case)[0])
    huge = 1e30 * case["dy"]  # whose square is no float32
    assert np.isfinite(trained(layer, case | {"dy": huge}, check_finite=True, flow=True)[0][5][0]).all()


@pytest.mark.parametrize("checkpoint", [0, 2])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_is_named(value, checkpoint):
    layer = rc.GRU(3, 5, num_layers=2, rng=0)
    case = random_case(layer, 300, 2)
    case["dy"][120, 1, 2] = value
    message = r"gradients.*dx, dh_0, weight_ih_l0.*dh_t of l0 from t = 120 on; .* l1 from t = 120 on"
    with pytest.raises(ValueError, match=message):
        trained(layer, case, checkpoint, check_finite=True)
    both = rc.LSTM(3, 5, bidirectional=True, rng=0)
    case = random_case(both, 300, 2)
    case["dy"][120, 1, 7] = value
    with pytest.raises(ValueError, match=r"weight_ih_l0_reverse.* dh_t of l0_reverse from t = 120 on") as caught:
        trained(both, case, checkpoint, check_finite=True)
    assert "dh_t of l0 from" not in str(caught.value)
    trained(both, case, checkpoint)  # nobody asked


def test_what_explodes_is_named():
    layer = rc.RNN(1, 4, nonlinearity="relu", bias=False)
    with layer.editing() as params:
        params["weight_hh_l0"][:] = 2 * np.eye(4)
        params["weight_ih_l0"][:] = 1
    x = np.ones((400, 1, 1))
    _, h_n, tape = layer.forward(x[:50])
    *_, flow = layer.backward(tape, None, np.ones_like(h_n), flow=True, check_finite=True)
    assert np.allclose(flow[0], 2.0 * 2.0 ** np.arange(49, -1, -1))  # norm 2 at the end, twice as much a step
    with layer.editing() as params:
        params["weight_ih_l0"][:] = 0
    _, h_n, tape = layer.forward(x, np.full((1, 1, 4), 1e-37))
    with pytest.raises(ValueError, match=r"expected finite gradients.* from t = 2\d\d on"):
        layer.backward(tape, None, np.ones_like(h_n), check_finite=True)


def test_what_begins_in_a_cell_state_is_named():
    layer = rc.LSTM(1, 2, rng=0)
    for T, message in ((6, "dh_t of l0 from t = 4 on; dc_t of l0 from t = 5 on"), (1, "dc_t of l0 from t = 0 on")):
        _, (h_n, c_n), tape = layer.forward(np.zeros((T, 1, 1)))
        with pytest.raises(ValueError, match=f"; back in time {message}$"):
            layer.backward(tape, None, (np.zeros_like(h_n), np.full_like(c_n, np.nan)), check_finite=True)


def test_what_only_a_sum_over_time_makes_infinite():
    layer = rc.RNN(1, 1, rng=0)
    y, _, tape = layer.forward(np.full((3, 1, 1), 10.0))
    with pytest.raises(ValueError, match=r"expected finite gradients, got others in weight_ih_l0$"):
        layer.backward(tape, np.full_like(y, 2e38), check_finite=True)


@pytest.mark.parametrize("lengths", [None, [6, 3]])
@pytest.mark.parametrize("scale", [1e-200, 1e200, 1e307])
@pytest.mark.parametrize("flags", [{"flow": True}, {"flow": True, "check_finite": True}])
def test_norms_whose_squares_are_no_float64(flags, scale, lengths):
    layer = rc.LSTM(1, 2, rng=0, dtype="float64")
    y, _, tape = layer.forward(np.zeros((6, 2, 1)), lengths=lengths)
    dy = np.zeros_like(y)
    dy[5] = 0.5
    *_, flow = layer.backward(tape, dy, **flags)
    dx, *_, far = layer.backward(tape, scale * dy, **flags)
    assert dx.any() and all(norm[:, :6].all() for norm in flow)
    for got, norm in zip(far, flow, strict=True):
        np.testing.assert_allclose(got / scale, norm, rtol=1e-13)
    with np.errstate(all="raise"):
        dy[5, 0], dy[5, 1] = 1, scale
        layer.backward(tape, dy, flow=True)
    dy[5], dy[1] = scale, np.nan
    with pytest.raises(ValueError, match="dh_t of l0 from t = 1 on"):
        layer.backward(tape, dy, check_finite=True)


@pytest.mark.parametrize("name", ["flow", "check_finite"])
def test_flags_that_are_none(name):
    layer = rc.RNN(3, 5)
    _, _, tape = layer.forward(np.ones((7, 3)))
    with pytest.raises(TypeError, match=f"expected {name}"):
        layer.backward(tape, **{name: "yes"})
