"""What a detector that learned tasks one after another still knows.

a[k, j] is a figure of task j after training on task k (higher is better; both from 0 here), K the
number of tasks. The standard measures of continual learning (Lopez-Paz & Ranzato 2017; Chaudhry
2018), as One-for-More reports them:

    A    = mean_j a[K-1, j]
    FM   = mean_{j<K-1} max_{j<=l<K-1} (a[l, j] - a[K-1, j])        forgetting, lower is better
    BWT  = mean_{j<K-1} (a[K-1, j] - a[j, j])                       backward transfer
"""

import numpy as np
from jaxtyping import Float


def summarise(matrix: Float[np.ndarray, "k tasks"]) -> dict[str, float | None]:
    """`average`, `forgetting`, `worst_drop` (the largest term of FM) and `backward_transfer`.

    The last three are None for one task. Entries above the diagonal are not read.
    """
    last = len(matrix) - 1
    out: dict[str, float | None] = {"average": float(matrix[last].mean())}
    drops = [float(np.max(matrix[j:last, j]) - matrix[last, j]) for j in range(last)]
    moves = [float(matrix[last, j] - matrix[j, j]) for j in range(last)]
    out["forgetting"] = float(np.mean(drops)) if drops else None
    out["worst_drop"] = max(drops) if drops else None
    out["backward_transfer"] = float(np.mean(moves)) if moves else None
    return out
