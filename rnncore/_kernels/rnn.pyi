from .driver import Cell

cells: dict[str, Cell]
