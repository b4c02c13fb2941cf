from .cell import Cell

cell: Cell
