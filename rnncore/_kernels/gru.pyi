from .cell import Cell

cells: dict[bool, Cell]
