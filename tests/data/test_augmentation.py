"""RandAugment and random erasing: the same in all frames, and what they say they are."""

import numpy as np
import pytest
from PIL import Image
from videos import moving_pictures

from timesformer_jax.data.augmentation import OPERATIONS, augment_clip, erase, rand_augment
from timesformer_jax.data.config import Augmentation

STILL = np.repeat(moving_pictures(1, 48, 64), 3, axis=0)


def test_what_is_not_asked_for_is_not_done() -> None:
    assert augment_clip(STILL, Augmentation(), np.random.default_rng(0)) is STILL


def test_a_still_clip_stays_still() -> None:
    augmentation = Augmentation(rand_augment_layers=2, erasing=1.0)
    different = 0
    for seed in range(30):
        changed = augment_clip(STILL, augmentation, np.random.default_rng(seed))
        assert (changed.shape, changed.dtype) == (STILL.shape, np.uint8)
        np.testing.assert_array_equal(changed[0], changed[1])
        np.testing.assert_array_equal(changed[0], changed[2])
        different += not np.array_equal(changed, STILL)
        again = augment_clip(STILL, augmentation, np.random.default_rng(seed))
        np.testing.assert_array_equal(changed, again)
    assert different == 30


def test_erasing_replaces_one_rectangle_by_noise() -> None:
    gray = np.full((3, 48, 64, 3), 77, np.uint8)
    shares = []
    for seed in range(200):
        erased = erase(gray, np.random.default_rng(seed))
        changed = (erased != 77).any(axis=(0, 3))
        rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
        inside = erased[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert changed.sum() >= 0.97 * inside[0, ..., 0].size  # noise may be 77 by chance
        shares.append(inside[0, ..., 0].size / (48 * 64))
        if inside.size > 2000:
            assert 110 < inside.mean() < 145
            assert inside.std() > 60
        assert 0.25 < len(rows) / len(columns) < 4
    assert min(shares) < 0.05
    assert 0.28 < max(shares) < 0.36
    assert (gray == 77).all()


def test_erasing_happens_as_often_as_asked() -> None:
    augmentation = Augmentation(erasing=0.25)
    rngs = [np.random.default_rng(seed) for seed in range(400)]
    erased = sum(augment_clip(STILL, augmentation, rng) is not STILL for rng in rngs)
    assert 70 < erased < 130


def test_magnitude_zero_leaves_what_has_a_strength_as_it_is() -> None:
    picture = Image.fromarray(STILL[0])
    unchanged = [
        number
        for number, operation in enumerate(OPERATIONS)
        if np.array_equal(np.asarray(operation(0.0, 1)(picture)), STILL[0])
    ]
    assert set(range(len(OPERATIONS))) - set(unchanged) == {0, 1, 2}  # contrast, histogram and negative have none


@pytest.mark.parametrize("number", range(len(OPERATIONS)))
def test_every_operation_changes_a_picture_and_more_does_more(number: int) -> None:
    picture = Image.fromarray(STILL[0])
    weak, strong = (np.asarray(OPERATIONS[number](level, 1)(picture)).astype(int) for level in (0.2, 1.0))
    assert (strong != STILL[0]).any()
    assert strong.shape == STILL[0].shape
    if number > 2:
        assert np.abs(strong - STILL[0]).mean() > np.abs(weak - STILL[0]).mean()


def test_every_operation_is_drawn() -> None:
    results = {
        rand_augment(STILL[:1], Augmentation(rand_augment_layers=1, rand_augment_deviation=0), rng).tobytes()
        for rng in map(np.random.default_rng, range(300))
    }
    # 6 have one strength; 9 have two directions.
    assert len(results) >= 20
