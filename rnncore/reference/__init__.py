"""The definition of each cell in plain NumPy: readable, and what the kernels are checked against.

One module per cell with `forward` and `backward` for one layer in one direction. Forward lines carry the equation's
number, (1), (2), …; the backward line that differentiates line (4) carries (4'). The kernels carry the same tags:
``grep -rn "(4')" rnncore`` shows all twins of one equation.

Any dtype works: float64 for checks, complex128 for complex-step derivatives of the smooth cells.
"""
