"""Optimisers: update rules that change the parameters of modules by their gradients."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat
from typing import Any, ClassVar

import numpy as np

from .._kernels import memory, optim
from ..checks import as_bool, as_real, as_scalar, check_shape
from ..weights import Module, Weights

__all__ = ["SGD", "Adam", "AdamW"]

Grads = Mapping[str, np.ndarray] | Sequence[Mapping[str, np.ndarray]]


class Optimiser:
    """Base of the update rules: checks, steps, and the moments kept from step to step.

    A rule names its moments and its settings; the arithmetic is that of `_kernels.optim`. One pass over each parameter
    reads it, its gradient and its moments, changes the moments in place and writes the new parameter where it will
    stay. The moments change under the modules' locks alone, of which a reader takes the first module's.
    """

    _settings: ClassVar[tuple[str, ...]]  # attributes that state_dict takes along
    _moments: dict[str, np.ndarray]  # "0.weight.exp_avg": module, parameter, moment

    def __init__(self, modules: Module | Iterable[Module]) -> None:
        if not isinstance(modules, Module | Iterable):
            raise TypeError(f"expected modules, got {type(modules).__name__}")
        self.modules = (modules,) if isinstance(modules, Module) else tuple(modules)
        for module in self.modules:
            if not isinstance(module, Module):
                raise TypeError(f"expected modules, got {type(module).__name__}")
        if not self.modules or len(set(map(id, self.modules))) < len(self.modules):
            raise ValueError(f"expected at least one module and each once, got {self.modules}")
        self.steps = 0
        self._moments = {}
        self._check_settings()

    def step(self, grads: Grads) -> None:
        """Change the parameters of all modules by their gradients.

        Parameters
        ----------
        grads : sequence of dict of str to numpy.ndarray, or one such dict
            What each module's `backward` returned, in the order of the modules. They are not changed.

        Raises
        ------
        TypeError
            If `grads` is neither a dict nor a sequence of them, or a gradient does not hold real numbers.
        ValueError
            If there is not one dict per module, or names or shapes are not those of its parameters. In either case
            nothing has changed.

        Notes
        -----
        A step is done whole or, on an error, on Ctrl-C or without memory for the new parameters, not at all. Another
        thread's step, or change of a module, comes before or after it. The GIL is released; denormal numbers are
        flushed to zero, moments that fade away among them.

        Examples
        --------
        >>> from rnncore.train import SGD, Linear, mean_squared_error
        >>> head = Linear(1, 1, rng=0)
        >>> y, tape = head.forward([[1.0]])
        >>> loss, dy = mean_squared_error(y, [[5.0]])
        >>> SGD([head], lr=0.25).step([head.backward(tape, dy)[1]])
        >>> float(head([[1.0]])[0, 0].round(4))  # a step of lr · |dy| by the weight, and as much by the bias
        5.0
        """
        self._check_settings()
        checked = self._check_grads(grads)
        while not self._step(checked):
            pass  # another thread changed a module or this optimiser meanwhile: once more, from what is there now

    def _step(self, grads: list[dict[str, np.ndarray]]) -> bool:
        """Prepare a step and do it; or return False if what it was prepared from is no longer in place."""
        old, steps = self._moments, self.steps
        weights = [module._weights for module in self.modules]
        new = [Weights({name: memory.blank(w.shape, w.dtype) for name, w in group.items()}) for group in weights]
        moments: dict[str, np.ndarray] = {}
        passes, names = [], self._moment_names()
        for i, (group, written, group_grads) in enumerate(zip(weights, new, grads, strict=True)):
            for (name, w), (_, out) in zip(group.items(), written.items(), strict=True):
                own = []
                for moment in names:
                    key = f"{i}.{name}.{moment}"
                    found = old.get(key)
                    moments[key] = array = np.zeros(w.shape, w.dtype) if found is None else found
                    own.append(array)
                passes.append((out, w, group_grads[name], own))
        changes: list[tuple[Any, str, Any, Any]] = [(self, "_moments", old, moments), (self, "steps", steps, steps + 1)]
        changes += zip(self.modules, repeat("_weights"), weights, new)
        locks = [module._changing for module in sorted(self.modules, key=id)]  # one order, whatever the optimiser
        return optim.step(*self._rule(first=not old), passes, changes, locks)

    def _moment_names(self) -> tuple[str, ...]:
        raise NotImplementedError

    def _rule(self, first: bool) -> tuple[str, dict[str, float]]:
        """Return which of `_kernels.optim`'s rules the next step follows, and its settings; `first` without moments."""
        raise NotImplementedError

    def _check_settings(self) -> None:
        raise NotImplementedError

    def _check_grads(self, grads: Grads) -> list[dict[str, np.ndarray]]:
        if not isinstance(grads, Iterable):
            raise TypeError(f"expected gradients as a dict of names to arrays, or several, got {type(grads).__name__}")
        groups = [grads] if isinstance(grads, Mapping) else list(grads)
        if len(groups) != len(self.modules):
            raise ValueError(f"expected {len(self.modules)} dicts of gradients, one per module, got {len(groups)}")
        checked = []
        for i, (module, group) in enumerate(zip(self.modules, groups, strict=True)):
            if not isinstance(group, Mapping):
                raise TypeError(f"expected gradients as a dict of names to arrays, got {type(group).__name__}")
            params = module._weights
            if group.keys() != params.keys():
                missing, unexpected = [n for n in params if n not in group], [n for n in group if n not in params]
                raise ValueError(
                    f"expected the gradients {sorted(params)} for module {i}, a {type(module).__name__}; "
                    f"missing {missing}, unexpected {unexpected}"
                )
            arrays = {n: as_real(group[n], module.dtype, "the gradient of " + n) for n in params}
            for n, array in arrays.items():
                check_shape(array.shape, params[n].shape, "the gradient of " + n)
            checked.append(arrays)
        return checked

    def state_dict(self) -> dict[str, Any]:
        """Return what it takes to continue, besides the modules' parameters.

        Returns
        -------
        dict
            Settings by name, ``"steps"`` so far, and copies of the moments, as ``"0.weight.exp_avg"`` for one of a
            parameter of module 0. `numpy.savez` can keep it.

        Examples
        --------
        >>> from rnncore.train import SGD, Linear
        >>> SGD(Linear(1, 1), lr=0.5, momentum=0.9).state_dict()
        {'lr': 0.5, 'momentum': 0.9, 'dampening': 0.0, 'weight_decay': 0.0, 'nesterov': False, 'steps': 0}
        """
        with self.modules[0]._changing:
            settings = {name: getattr(self, name) for name in self._settings}
            return {**settings, "steps": self.steps, **{key: m.copy() for key, m in self._moments.items()}}

    def load_state_dict(self, mapping: Mapping[str, Any]) -> None:
        """Continue where another optimiser stood; all of its `state_dict` or, on an error, nothing is taken over.

        Parameters
        ----------
        mapping : mapping of str to value
            From `state_dict`, or the file that `numpy.savez` made of it. The moments are copied.

        Raises
        ------
        TypeError
            If `mapping` is no mapping, or a value is of the wrong type.
        ValueError
            If names or shapes are not those of this rule and these modules.

        Examples
        --------
        >>> from rnncore.train import Adam, Linear
        >>> head = Linear(1, 1, bias=False)
        >>> opt, other = Adam(head, lr=0.1), Adam(head)
        >>> opt.step({"weight": [[1.0]]})
        >>> other.load_state_dict(opt.state_dict())
        >>> other.lr, other.steps
        (0.1, 1)
        """
        if not isinstance(mapping, Mapping):
            raise TypeError(f"expected a mapping of names to values, got {type(mapping).__name__}")
        other = object.__new__(type(self))
        vars(other).update(vars(self))
        header = {*self._settings, "steps"}
        if missing := sorted(header - mapping.keys()):
            raise ValueError(f"expected the names {sorted(header)}; missing {missing}")
        for name in self._settings:
            setattr(other, name, np.asarray(mapping[name]).tolist())  # `numpy.savez` makes arrays of them
        other._check_settings()
        steps = as_scalar(mapping["steps"], "steps", low=0)
        if not steps.is_integer():
            raise ValueError(f"expected steps to be an integer, got {steps}")
        other.steps = int(steps)
        shapes = {
            f"{i}.{name}.{moment}": (array.shape, module.dtype)
            for i, module in enumerate(self.modules)
            for name, array in module._weights.items()
            for moment in other._moment_names()
        }
        found = mapping.keys() - header
        if found != shapes.keys() and (found or other.steps):
            missing, unexpected = sorted(shapes.keys() - found), sorted(found - shapes.keys())
            raise ValueError(f"expected the moments of these modules; missing {missing}, unexpected {unexpected}")
        other._moments = {}
        for key in found:
            shape, dtype = shapes[key]
            moment = as_real(mapping[key], dtype, key)
            check_shape(moment.shape, shape, key)
            other._moments[key] = moment.copy()
        with self.modules[0]._changing:
            vars(self).update(vars(other))

    def __getstate__(self) -> dict[str, Any]:
        with self.modules[0]._changing:
            return {**vars(self), "_moments": {key: m.copy() for key, m in self._moments.items()}}

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={getattr(self, name)}" for name in self._settings)
        return f"{type(self).__name__}({list(self.modules)}, {settings})"


class SGD(Optimiser):
    """Stochastic gradient descent, with momentum if wanted; torch's rule.

    Parameters
    ----------
    modules : Module or sequence of Module
    lr : float
        Like all settings a plain attribute, which may be set to another value between steps.
    momentum : float
    dampening : float
        Of the gradient that enters the momentum, from the second step on.
    weight_decay : float
        Added to the gradient, times the weight.
    nesterov : bool

    Raises
    ------
    TypeError
        If a module is not one, or a setting not a number.
    ValueError
        If a module is given twice, a setting is out of range, or `nesterov` comes without momentum or with dampening.

    Notes
    -----
    With λ the weight decay, μ the momentum, d the dampening, η the learning rate::

        (1) g ← g + λ w
        (2) b ← μ b + (1 - d) g        b ← g at the first step
        (3) w ← w - η b                w ← w - η (g + μ b) if nesterov, w ← w - η g without momentum

    References
    ----------
    Sutskever, Martens, Dahl, Hinton (2013), On the importance of initialization and momentum in deep learning. ICML.

    Examples
    --------
    >>> import numpy as np
    >>> from rnncore.train import SGD, Linear
    >>> head = Linear(1, 1, bias=False, dtype="float64", rng=0)
    >>> before = head.parameters()["weight"]
    >>> SGD(head, lr=0.5).step({"weight": np.array([[2.0]])})
    >>> (head.parameters()["weight"] - before).tolist()
    [[-1.0]]
    """

    _settings = ("lr", "momentum", "dampening", "weight_decay", "nesterov")

    def __init__(
        self,
        modules: Module | Iterable[Module],
        lr: float,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        self.lr, self.momentum, self.dampening = lr, momentum, dampening
        self.weight_decay, self.nesterov = weight_decay, nesterov
        super().__init__(modules)

    def _check_settings(self) -> None:
        for name in ("lr", "momentum", "dampening", "weight_decay"):
            setattr(self, name, as_scalar(getattr(self, name), name, low=0, below=math.inf))
        self.nesterov = as_bool(self.nesterov, "nesterov")
        if self.nesterov and (self.momentum == 0 or self.dampening != 0):
            raise ValueError(
                "expected momentum above 0 and no dampening with nesterov, "
                f"got momentum {self.momentum:g} and dampening {self.dampening:g}"
            )

    def _moment_names(self) -> tuple[str, ...]:
        return ("momentum_buffer",) if self.momentum else ()

    def _rule(self, first: bool) -> tuple[str, dict[str, float]]:
        settings = {
            "rate": self.lr,
            "decay": self.weight_decay,
            "momentum": self.momentum,
            "gain": 1.0 if first else 1 - self.dampening,  # of a buffer of zeros, the first step makes the gradient
            "nesterov": self.nesterov,
        }
        return "sgd", settings


class Adam(Optimiser):
    """Adam; torch's rule.

    Parameters
    ----------
    modules : Module or sequence of Module
    lr : float
        Like all settings a plain attribute, which may be set to another value between steps.
    betas : (float, float)
        Decay of the averages of the gradient and of its square.
    eps : float
    weight_decay : float
        Added to the gradient, times the weight. `AdamW` does it better.

    Raises
    ------
    TypeError
        If a module is not one, or a setting not a number.
    ValueError
        If a module is given twice, or a setting is out of range.

    Notes
    -----
    With λ the weight decay, η the learning rate, and t = 1 at the first step::

        (1) g ← g + λ w                        AdamW: w ← w - η λ w
        (2) m ← m + (1 - β₁)(g - m)
        (3) v ← β₂ v + (1 - β₂) g²
        (4) w ← w - η / (1 - β₁ᵗ) · m / (√v / √(1 - β₂ᵗ) + ε)

    References
    ----------
    Kingma, Ba (2015), Adam: a method for stochastic optimization. ICLR. arXiv:1412.6980.

    Examples
    --------
    >>> import numpy as np
    >>> from rnncore.train import Adam, Linear
    >>> head = Linear(1, 1, bias=False, dtype="float64", rng=0)
    >>> opt, before = Adam([head], lr=0.1), head.parameters()["weight"]
    >>> opt.step([{"weight": np.array([[-2.0]])}])  # the first step has the length lr
    >>> (head.parameters()["weight"] - before).round(6).tolist()
    [[0.1]]
    >>> opt.lr *= 0.5
    """

    _settings = ("lr", "betas", "eps", "weight_decay")
    _decoupled: ClassVar[bool] = False

    def __init__(
        self,
        modules: Module | Iterable[Module],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        self.lr, self.betas, self.eps, self.weight_decay = lr, betas, eps, weight_decay
        super().__init__(modules)

    def _check_settings(self) -> None:
        for name in ("lr", "eps", "weight_decay"):
            setattr(self, name, as_scalar(getattr(self, name), name, low=0, below=math.inf))
        if np.shape(self.betas) != (2,):
            raise ValueError(f"expected betas as two numbers, got {self.betas!r}")
        self.betas = (as_scalar(self.betas[0], "betas[0]", 0, 1), as_scalar(self.betas[1], "betas[1]", 0, 1))

    def _moment_names(self) -> tuple[str, ...]:
        return "exp_avg", "exp_avg_sq"

    def _rule(self, first: bool) -> tuple[str, dict[str, float]]:
        beta1, beta2 = self.betas
        t = self.steps + 1
        settings = {
            "step": self.lr / (1 - beta1**t),
            "decay": 0.0 if self._decoupled else self.weight_decay,
            "keep": 1 - self.lr * self.weight_decay if self._decoupled else 1.0,
            "beta_1": beta1,
            "beta_2": beta2,
            "root_scale": 1 / math.sqrt(1 - beta2**t),
            "epsilon": self.eps,
        }
        return "adam", settings


class AdamW(Adam):
    """Adam with the weight decay apart from the gradient; torch's rule.

    Parameters
    ----------
    modules : Module or sequence of Module
    lr, betas, eps
        As `Adam`'s.
    weight_decay : float
        Times `lr`, the share of every parameter, biases included, that a step takes away.

    Raises
    ------
    TypeError
        If a module is not one, or a setting not a number.
    ValueError
        If a module is given twice, or a setting is out of range.

    Notes
    -----
    The rule is that of `Adam`, but for (1)::

        (1) w ← w - η λ w

    References
    ----------
    Loshchilov, Hutter (2019), Decoupled weight decay regularization. ICLR. arXiv:1711.05101.

    Examples
    --------
    >>> from rnncore.train import AdamW, Linear
    >>> head = Linear(1, 1, bias=False, dtype="float64")
    >>> before = head.parameters()["weight"]
    >>> AdamW(head, lr=0.5, weight_decay=0.2).step({"weight": [[0.0]]})
    >>> (head.parameters()["weight"] / before).round(12).tolist()
    [[0.9]]
    """

    _decoupled = True

    def __init__(
        self,
        modules: Module | Iterable[Module],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(modules, lr, betas, eps, weight_decay)
