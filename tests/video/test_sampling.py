import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from timesformer_jax.errors import VideoError
from timesformer_jax.video.sampling import clip_indices, evenly_spread_indices, span_indices

counts = st.integers(1, 100)
totals = st.integers(1, 5000)


@given(totals, counts)
def test_evenly_spread_takes_the_middle_of_each_segment(total: int, num_frames: int) -> None:
    indices = evenly_spread_indices(total, num_frames)
    if total < num_frames:
        expected = [min(i, total - 1) for i in range(num_frames)]
    else:
        segment = (total - 1) / num_frames  # Python's round also rounds halves to even
        expected = [(round(segment * i) + round(segment * (i + 1))) // 2 for i in range(num_frames)]
    assert indices.tolist() == expected


def test_evenly_spread_by_hand() -> None:
    # Segments of 99 / 8 = 12.375 frames have their borders at 0, 12, 25, 37, 50 (from 49.5), 62, 74, 87, 99.
    assert evenly_spread_indices(100, 8).tolist() == [6, 18, 31, 43, 56, 68, 80, 93]
    assert evenly_spread_indices(1, 1).tolist() == [0]
    assert evenly_spread_indices(3, 5).tolist() == [0, 1, 2, 2, 2]


def test_a_clip_by_hand() -> None:
    # 8x32 at 30 fps spans 256 frames, with a stride of 255 / 7 = 36.43; in the middle of 310 it begins at 27.
    stride = [0, 36, 72, 109, 145, 182, 218, 255]
    assert clip_indices(310, 30.0, 8, 32, start=0).tolist() == stride
    assert clip_indices(310, 30.0, 8, 32).tolist() == [27 + i for i in stride]
    # At 12 fps it spans 102.4 frames: more than the video has.
    assert clip_indices(100, 12.0, 8, 32).tolist() == [0, 14, 28, 43, 57, 72, 86, 99]
    # At 15 fps a rate of 4 is a stride of 2 source frames: 4 frames span 8, from 0 to 7.
    assert clip_indices(100, 15.0, 4, 4, start=10).tolist() == [10, 12, 14, 17]
    # A middle between two frames is not rounded before the stride is added: from 4.5 to 9.5.
    assert clip_indices(15, 30.0, 3, 2).tolist() == [4, 7, 9]


@given(totals, st.floats(1, 120), counts, st.floats(0.1, 64), st.none() | st.integers(0, 6000))
def test_a_clip_spans_rate_times_frames(
    total: int, fps: float, num_frames: int, rate: float, start: int | None
) -> None:
    indices = clip_indices(total, fps, num_frames, rate, "middle" if start is None else start)
    span = rate * num_frames / 30 * fps
    first = max(total - span, 0) / 2 if start is None else start
    exact = [first + (span - 1) * i / max(num_frames - 1, 1) for i in range(num_frames)]
    # np.linspace may differ from this in the last bit, and then in the frame.
    allowed = [{int(np.clip(x + e, 0, total - 1)) for e in (-1e-9, 1e-9)} for x in exact]
    assert len(indices) == num_frames
    assert all(index in near for index, near in zip(indices.tolist(), allowed, strict=True))


def test_an_unknown_rate_counts_source_frames() -> None:
    assert clip_indices(90, None, 8, 8).tolist() == clip_indices(90, 30.0, 8, 8).tolist()


def test_a_span_beyond_the_end_repeats_the_last_frame() -> None:
    assert clip_indices(20, 30.0, 4, 8, start=10).tolist() == [10, 19, 19, 19]


def test_a_span_by_hand() -> None:
    # linspace(10, 26, 5) is 10, 14, 18, 22, 26; the last is not part of the span.
    assert span_indices(10, 26, 5).tolist() == [10, 14, 18, 22, 25]


@given(st.integers(0, 5000), st.integers(1, 64), counts)
def test_a_span_as_in_the_documentation(start: int, rate: int, num_frames: int) -> None:
    stop = start + num_frames * rate
    documented = np.clip(np.linspace(start, stop, num=num_frames), start, stop - 1).astype(np.int64)
    assert span_indices(start, stop, num_frames).tolist() == documented.tolist()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: evenly_spread_indices(10, 0), "A clip of 0 frames"),
        (lambda: evenly_spread_indices(0, 8), "from 0 frames"),
        (lambda: clip_indices(10, 30.0, 8, 0), "sampling_rate is 0"),
        (lambda: clip_indices(10, 30.0, 8, float("nan")), "sampling_rate is nan"),
        (lambda: clip_indices(10, 30.0, 8, 4, start=-1), "can't start at frame -1"),
        (lambda: span_indices(-1, 8, 8), "can't start at frame -1"),
        (lambda: span_indices(8, 8, 8), "from 0 frames"),
    ],
)
def test_numbers_that_make_no_clip(call, message: str) -> None:
    with pytest.raises(VideoError, match=message):
        call()
