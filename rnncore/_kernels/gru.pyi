from .driver import Cell

cells: dict[bool, Cell]
