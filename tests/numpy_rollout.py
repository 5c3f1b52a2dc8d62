"""Attention rollout once more, in numpy: the whole matrices on all tokens of a clip, multiplied out.

Tokens are in the reference's order: CLS, then patch by patch, frame by frame. Space-only attention has a CLS in each
frame: there the order is frame by frame, CLS first.
"""

import numpy as np


def time_matrix(probabilities: np.ndarray) -> np.ndarray:
    """(n, t, t) of the patches to (1 + n*t, 1 + n*t); the row of CLS stays empty."""
    patches, frames, _ = probabilities.shape
    matrix = np.zeros((1 + patches * frames,) * 2)
    for p in range(patches):
        for i in range(frames):
            for j in range(frames):
                matrix[1 + p * frames + i, 1 + p * frames + j] = probabilities[p, i, j]
    return matrix


def space_matrix(probabilities: np.ndarray, shared: float) -> np.ndarray:
    """(t, 1 + n, 1 + n) of the frames to (1 + n*t, 1 + n*t); a frame's copy of CLS counts with `shared`."""
    frames, size, _ = probabilities.shape
    matrix = np.zeros((1 + (size - 1) * frames,) * 2)

    def place(token: int, frame: int) -> int:
        return 0 if token == 0 else 1 + (token - 1) * frames + frame

    for t in range(frames):
        for i in range(size):
            for j in range(size):
                weight = shared if i == 0 else 1
                matrix[place(i, t), place(j, t)] += weight * probabilities[t, i, j]
    return matrix


def block_matrix(probabilities: np.ndarray) -> np.ndarray:
    """(t, 1 + n, 1 + n) of frames that never meet to (t * (1 + n), t * (1 + n))."""
    frames, size, _ = probabilities.shape
    matrix = np.zeros((frames, size, frames, size))
    for t in range(frames):
        matrix[t, :, t] = probabilities[t]
    return matrix.reshape(frames * size, frames * size)


def steps(attention_type: str, space: np.ndarray, time: np.ndarray | None, *, shared: bool = True) -> list[np.ndarray]:
    """The matrices of a layer's steps, the one that comes first first.

    Args:
        attention_type: of the model.
        space: the layer's attention without batch and heads.
        time: its temporal attention likewise.
        shared: whether the frames' copies of CLS are averaged, or their edges added up.
    """
    if attention_type == "joint_space_time":
        return [space]
    if attention_type == "space_only":
        return [block_matrix(space)]
    assert time is not None
    return [time_matrix(time), space_matrix(space, 1 / len(space) if shared else 1)]


def cls_row(attention_type: str, product: np.ndarray, frames: int) -> tuple[float, np.ndarray]:
    """CLS's weight on itself and on each patch of each frame (t, n), from the product of all layers."""
    if attention_type == "space_only":
        rows = product.reshape(frames, -1, frames, product.shape[1] // frames)[:, 0].mean(axis=0)
        return float(rows[:, 0].sum()), rows[:, 1:]
    return float(product[0, 0]), product[0, 1:].reshape(-1, frames).T
