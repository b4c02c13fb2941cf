from .driver import Cell

cell: Cell
