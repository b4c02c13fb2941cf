from .cell import Cell

FUNCTIONS: dict[str, int]
OUTPUTS: dict[str, int]
cells: dict[str, Cell]
jordan_cells: dict[tuple[str, str], Cell]
