"""Pictures of training, by matplotlib, which is imported when one is drawn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from .checks import as_real

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["gradient_flow"]

Flow = ArrayLike | tuple[ArrayLike, ArrayLike]


def gradient_flow(
    flows: Flow | Mapping[Any, Flow], labels: Iterable[Any] | None = None, ax: Axes | None = None
) -> Axes:
    """Draw how large the gradient is at each time on its way back: the norm of dL/dh_t, on a logarithmic scale.

    Parameters
    ----------
    flows : array_like (L*D, T), tuple of two of them, or dict to either
        What ``backward(…, flow=True)`` returned: an array, for an LSTM two of them, of which the second, dL/dc_t, is
        dashed. A dict holds several by their names. T may differ from one to the next.
    labels : iterable, optional
        Names of the lines of each flow, in the order of layers and directions. By default their numbers, if there are
        several.
    ax : matplotlib.axes.Axes, optional
        Where to draw. A new figure's by default.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ImportError
        If there is no matplotlib: ``pip install rnncore[plot]``.
    TypeError
        If a flow is no array of real numbers.
    ValueError
        If one has not two dimensions, a tuple not two of one shape, or `labels` are not as many as a flow's lines.

    Notes
    -----
    A norm that is zero, infinite or NaN leaves a gap, there being no place for it on the scale.

    Examples
    --------
    >>> import matplotlib, numpy as np
    >>> matplotlib.use("Agg")
    >>> from rnncore.plot import gradient_flow
    >>> ax = gradient_flow({"vanishes": [0.5 ** np.arange(50, 0, -1)], "stays": np.ones((1, 50))})
    >>> ax.get_yscale(), [line.get_label() for line in ax.lines]
    ('log', ['vanishes', 'stays'])
    """
    named = flows if isinstance(flows, Mapping) else {"": flows}
    labels = None if labels is None else list(labels)
    lines = []
    for name, flow in named.items():
        pair = _pair(flow)
        rows = len(pair[0])
        if labels is not None and len(labels) != rows:
            raise ValueError(f"expected {rows} labels, got {len(labels)}")
        for k in range(rows):
            words = [str(name), str(labels[k]) if labels is not None else str(k) if rows > 1 else ""]
            lines.append((words, [array[k] for array in pair]))
    if ax is None:
        require_matplotlib()
        from matplotlib import pyplot

        ax = pyplot.figure().subplots()
    for words, norms in lines:
        colour = None
        for state, norm in zip(["h", "c"] if len(norms) == 2 else [""], norms, strict=True):
            label = " ".join(word for word in [*words, state] if word)
            shown = np.where((norm > 0) & np.isfinite(norm), norm, np.nan)
            (line,) = ax.plot(shown, "--" if state == "c" else "-", color=colour, label=label)
            colour = line.get_color()
    ax.set_yscale("log")
    ax.set_xlabel("time t")
    ax.set_ylabel("norm of the gradient")
    if ax.get_legend_handles_labels()[1]:
        ax.legend()
    return ax


def require_matplotlib() -> None:
    """Say what to install where there is no matplotlib."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError("expected matplotlib, to draw with: pip install rnncore[plot]") from error


def _pair(flow: Flow) -> tuple[np.ndarray, ...]:
    """Return the arrays of one flow, one or two."""
    arrays = tuple(as_real(a, np.dtype(np.float64), "a flow") for a in (flow if isinstance(flow, tuple) else (flow,)))
    shapes = [array.shape for array in arrays]
    if len(shapes) not in (1, 2) or len(shapes[0]) != 2 or shapes[-1] != shapes[0]:
        raise ValueError(f"expected a flow of shape (L*D, T), or two of them, got {', '.join(map(str, shapes))}")
    return arrays
