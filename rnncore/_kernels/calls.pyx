"""Plain calls of PyTorch's recurrent modules: which they are, and what runs them."""

import numpy as np

cimport cython
cimport numpy as cnp

from .pack cimport digest
from .tensors cimport Exchange, Look, fits, numbers, type_of

cnp.import_array()

cdef extern from "Python.h":
    const Py_ssize_t PY_SSIZE_T_MAX
    ctypedef struct PyTypeObject:
        unsigned int tp_version_tag  # another for each class, and whenever it or a base has changed; 0 if nobody asked yet

cdef enum:
    CLASSES = 1000  # that are remembered

# Methods that a call of PyTorch's layers asks whether all is well, and with whose results it goes on.
CHECKS = "check_input", "check_forward_args", "check_hidden_size", "get_expected_hidden_size", "permute_hidden"


def same(list refs not None, list names not None, parameters not None):
    """Whether each weak reference points at what a dictionary has under the name beside it."""
    return are_same(refs, names, parameters)


cdef bint are_same(list refs, list names, parameters) except -1:
    cdef Py_ssize_t k
    for k in range(min(len(refs), len(names))):
        ref, found = refs[k], (<dict>parameters).get(names[k]) if type(parameters) is dict else parameters.get(names[k])
        if ref is None or found is None or ref() is not found:
            return False
    return True


cdef object in_order(array):
    """An array as kernels take it, aligned and C-contiguous: itself or a copy."""
    if cnp.PyArray_ISCARRAY_RO(<cnp.ndarray?>array):
        return array
    return cnp.PyArray_NewCopy(<cnp.ndarray>array, cnp.NPY_CORDER)


@cython.final
@cython.auto_pickle(False)
cdef class Calls:
    """Calls of PyTorch's recurrent modules, as far as they are plain ones: a quick look whether nothing watches operators
    and all is well; what runs them if nobody wants a gradient; and, if somebody does, a plan's two passes.

    `layer` and `cell` return what the module does, or None; and what a plan runs instead, or None: its options, input,
    states and weights. Where both are None the caller finds out in another way, as for tensors. A module's attributes are
    looked for in its own dictionary alone, as far as its class's `_hides_nothing` says that they are there.

    Parameters
    ----------
    exchange : Exchange
    plan_of : function
        Of options; raises ValueError or TypeError if there is none.
    unfit : type
        Of exceptions that weights raise which there is no layer for.
    array_of, tensor_of : functions
        For tensors that do not say where they lie, and arrays that become none in this way.
    watchers : tuple of functions
        Without arguments; something true says that PyTorch's operators are not what they are at other times.
    has_functions : function
        Whether any of some weights has operators, or functions, of its own.
    is_grad_enabled : function
    forward_ad : module
        Its `_current_level` is negative where nobody differentiates forwards.
    """
    cdef Exchange exchange
    cdef object plan_of, unfit, array_of, tensor_of, has_functions, is_grad_enabled, forward_ad
    cdef tuple watchers
    cdef set classes    # by their versions

    def __init__(self, Exchange exchange not None, plan_of, unfit, array_of, tensor_of, tuple watchers not None,
                 has_functions, is_grad_enabled, forward_ad):
        self.exchange, self.plan_of, self.unfit, self.array_of, self.tensor_of = exchange, plan_of, unfit, array_of, tensor_of
        self.watchers, self.has_functions = watchers, has_functions
        self.is_grad_enabled, self.forward_ad = is_grad_enabled, forward_ad
        self.classes = set()

    cdef bint hides_nothing(self, module) except -1:
        """Ask a module's class, unless it has said so since it last changed."""
        kind = type(module)
        cdef unsigned int version = (<PyTypeObject *>kind).tp_version_tag  # before it is asked, for it may change meanwhile
        if version in self.classes:
            return True
        if not kind._hides_nothing():
            return False
        if len(self.classes) == CLASSES:
            self.classes.clear()
        if version != 0:
            self.classes.add(version)
        return True

    cdef bint plain(self, const Look *look, list weights) except -1:
        """Whether nothing watches, there are weights, and input and weights are numbers of one dtype."""
        cdef Look weight
        if len(weights) == 0:
            return False
        for tensor in weights:
            if tensor is None:
                return False
        if not numbers(look) or not self.exchange.look(weights[0], &weight) or not numbers(&weight):
            return False
        if type_of(look) != type_of(&weight):
            return False
        for watcher in self.watchers:
            if watcher():
                return False
        return self.forward_ad._current_level < 0 and not self.has_functions(weights)

    cdef object states(self, const Look *look, object hx, tuple shapes):
        """Return the states of a call, of one or two shapes, as a sequence; None if they are not such."""
        cdef Look state
        cdef Py_ssize_t k
        if hx is None:
            return ()
        given = (hx,) if len(shapes) == 1 else hx
        if not isinstance(given, (tuple, list)) or len(given) != len(shapes):
            return None
        for k in range(len(shapes)):
            if not self.exchange.look(given[k], &state) or type_of(look) != type_of(&state) or not fits(&state, shapes[k]):
                return None
        return given

    cpdef bint wants_gradient(self, input, states, weights) except -1:
        """Whether autograd has to know of a call of these tensors."""
        if not self.is_grad_enabled():
            return False
        if input.requires_grad:
            return True
        for several in (weights, states):
            for tensor in several:
                if tensor.requires_grad:
                    return True
        return False

    def is_one_row(self, module, input, Py_ssize_t least):
        """Whether a call is one step of one sequence, and the module's weights have at least so many bytes."""
        cdef Look look
        cdef Py_ssize_t size = 0
        cdef int k
        if not self.exchange.look(input, &look):
            return False
        for k in range(look.ndim - 1):
            if look.shape[k] != 1:
                return False
        for tensor in module.__dict__["_parameters"].values():
            if self.exchange.look(tensor, &look) and look.ndim == 2:
                size += look.shape[0] * look.shape[1] * (look.dtype.bits // 8)
        return size >= least

    def may_want_gradient(self, module, input, hx):
        """Whether input and states are tensors and no more, and autograd has to know of the call, as far as they and the
        module's own parameters say."""
        if not self.is_grad_enabled():
            return False
        cdef bint wanted = False
        for tensor in (input, *hx) if isinstance(hx, (tuple, list)) else (input, hx):
            if tensor is not None:
                if type(tensor) not in self.exchange.kinds:
                    return False
                wanted = wanted or tensor.requires_grad
        for tensor in module.__dict__["_parameters"].values():
            wanted = wanted or tensor is not None and tensor.requires_grad
        return wanted

    cdef object array(self, tensor, bint step):
        """A tensor's numbers where they lie, of a cell's step behind an axis of length 1."""
        array = None if tensor.is_neg() else self.exchange.array(tensor, step)
        return self.array_of(tensor, step) if array is None else array

    cdef object tensor(self, array, bint step):
        tensor = self.exchange.tensor(array, step)
        return self.tensor_of(array, step) if tensor is None else tensor

    cdef tuple each(self, arrays, bint step):
        """Tensors of what a layer returns for states."""
        return tuple([self.tensor(array, step) for array in (arrays if type(arrays) is tuple else (arrays,))])

    cdef object several(self, arrays, bint step):
        return self.each(arrays, step) if type(arrays) is tuple else self.tensor(arrays, step)

    cdef object state(self, states, bint step):
        """States, or their gradients, as a layer takes them; None for zeros."""
        arrays = tuple([None if tensor is None else in_order(self.array(tensor, step)) for tensor in states])
        if len(arrays) == 2 and (arrays[0] is not None or arrays[1] is not None):
            return arrays
        return arrays[0] if len(arrays) == 1 else None

    cdef object sequence(self, plan, tensor, bint step):
        """A sequence (T, N, ·) as training takes it, of one step where a cell takes it."""
        array = self.array(tensor, step)
        if plan.batch_first:
            array = cnp.PyArray_SwapAxes(<cnp.ndarray?>array, 0, 1)
        return in_order(array)

    cdef object result(self, plan, array, bint step):
        """Such a sequence as the caller has it."""
        return self.tensor(cnp.PyArray_SwapAxes(<cnp.ndarray?>array, 0, 1) if plan.batch_first else array, step)

    cpdef object known(self, plan, weights):
        """Return what a plan knows of weights, and as a layer has them what they hold at this moment."""
        known = self.exchange.known(plan.known, weights)
        if known is None:
            known = plan.know(weights)
        contents = digest(known.arrays)
        return known, known.weights if contents == known.contents else known.renew(contents)

    cdef object stack(self, plan, held):
        return plan.layer._stack(held) if held.stack is None else held.stack

    cpdef object infer(self, plan, input, states, weights, bint step):
        """Return what a layer returns, or a cell, which has no result but the states, with the weights that tensors hold at
        this moment."""
        _, held = self.known(plan, weights)
        threads, found = plan.threads(input.shape), None
        x, state = self.array(input, False), self.state(states, step)
        if not plan.bidirectional:
            stack = self.stack(plan, held)
            found = stack.advance(x, state, threads) if step else stack.call(x, state, plan.batch_first, False, threads)
        if found is None:
            found = plan.layer._general(held, x[None] if step else x, state, None, True, None, threads)
            found = found[1] if step else found
        return self.several(found, True) if step else (self.tensor(found[0], False), self.several(found[1], False))

    def taped(self, plan, input, states, weights, bint step):
        """Return y, None of a cell, and a tuple of the states after it, what is known of the weights, these, and what
        `Stack.taped` keeps; None where no stack knows this way: of both directions, no batch, no steps."""
        if plan.bidirectional or input.dim() != (2 if step else 3):
            return None
        known, held = self.known(plan, weights)
        threads, x = plan.threads(input.shape), self.sequence(plan, input, step)
        found = self.stack(plan, held).taped(x, self.state(states, step), False, PY_SSIZE_T_MAX, threads)
        if found is None:
            return None
        y, after, layers = found
        return None if step else self.result(plan, y, False), self.each(after, step), known, held, layers

    def back(self, plan, held, layers, dy, dstates, bint step, bint of_x, tuple of_weights not None):
        """Return the gradients of input, states and weights, from those of y and the states after it, None for zeros; None for
        an input's or a weight's that is not wanted, and where no stack knows this way."""
        threads, upstream = plan.threads(layers[0][0].shape), None
        if dy is not None:
            upstream = self.sequence(plan, dy, step)
        state = self.state(dstates, step)
        if type(state) is tuple and (state[0] is None or state[1] is None):
            shape = (state[0] if state[1] is None else state[1]).shape[:-1]
            state = tuple([
                np.zeros((*shape, width), plan.dtype) if array is None else array
                for array, width in zip(state, plan.widths)])
        cdef dict arrays = dict(held.items())
        if len(of_weights) != len(arrays):
            raise ValueError(f"expected to hear of {len(arrays)} weights whether their gradients are wanted, got {of_weights}")
        wanted = {name: array for (name, array), one in zip(arrays.items(), of_weights) if one}
        found = self.stack(plan, held).back(
            tuple(layers), upstream, state, wanted, plan.layer._named, False, threads, False, of_x)
        if found is None:
            return None
        dx, before, grads = found
        return (
            self.result(plan, dx, step) if of_x else None, self.each(before, step),
            [self.tensor(grads[name], False) if name in grads else None for name in arrays])

    cdef object finish(self, options, input, states, weights, bint step):
        if self.wants_gradient(input, states, weights):
            return None, (options, input, states, weights)
        try:
            plan = self.plan_of(*options)
        except (ValueError, TypeError):
            return None, None
        try:
            return self.infer(plan, input, states, weights, step), None
        except self.unfit:
            return None, None

    def layer(self, module, input, hx):
        """Look at a call of a layer, whose weights may be others than its list of them says."""
        cdef Look look
        cdef dict own = module.__dict__
        if not self.hides_nothing(module) or not self.exchange.look(input, &look) or not 2 <= look.ndim <= 3:
            return None, None
        try:
            weights = own["_flat_weights"]
            size, units, layers, mode = own["input_size"], own["hidden_size"], own["num_layers"], own["mode"]
            batch_first, both, projected, bias = own["batch_first"], own["bidirectional"], own["proj_size"], own["bias"]
            refs, names, parameters = own["_flat_weight_refs"], own["_flat_weights_names"], own["_parameters"]
            training, dropout = own["training"], own["dropout"]
        except KeyError:
            return None, None
        for check in CHECKS:
            if check in own:
                return None, None
        if type(size) is not int or type(units) is not int or type(layers) is not int or type(projected) is not int:
            return None, None
        if type(mode) is not str or type(batch_first) is not bool or type(both) is not bool:
            return None, None
        if look.shape[look.ndim - 1] != size or training and layers > 1 and dropout != 0:
            return None, None
        if type(weights) is not list or type(refs) is not list or type(names) is not list:
            return None, None
        if not are_same(refs, names, parameters) or not self.plain(&look, weights):
            return None, None
        rows = (layers * 2 if both else layers,)
        if look.ndim == 3:
            rows += (look.shape[0 if batch_first else 1],)
        c = rows + (units,)
        states = self.states(&look, hx, (rows + (projected,) if projected else c, c) if mode == "LSTM" else (c,))
        if states is None:
            return None, None
        options = (mode, size, units, layers, bias, batch_first, both, projected, input.dtype, 0.0)
        return self.finish(options, input, states, weights, False)

    def cell(self, module, mode, input, hx, list weights not None):
        """Look at a call of a cell, of a plan's mode, or None, and with weights that are up to date, or None."""
        cdef Look look
        cdef dict own = module.__dict__
        if mode is None or not self.hides_nothing(module) or not self.exchange.look(input, &look) or look.ndim > 2:
            return None, None
        try:
            size, units = own["input_size"], own["hidden_size"]
        except KeyError:
            return None, None
        if type(size) is not int or type(units) is not int or look.ndim == 0 or look.shape[look.ndim - 1] != size:
            return None, None
        if not self.plain(&look, weights):
            return None, None
        h = (units,) if look.ndim == 1 else (look.shape[0], units)
        states = self.states(&look, hx, (h, h) if mode == "LSTM" else (h,))
        if states is None:
            return None, None
        options = (mode, size, units, 1, len(weights) == 4, False, False, 0, input.dtype, 0.0)
        return self.finish(options, input, states, weights, True)
