import numpy as np

def matmul(
    a: np.ndarray,
    b: np.ndarray,
    trans_a: bool = False,
    trans_b: bool = False,
    n_threads: int = 0,
    into: np.ndarray | None = None,
) -> np.ndarray: ...
